import ollama
from scene import BASE, MODEL, PROMPT, WEATHER, image, run

client = ollama.Client(host=BASE)
messages = [{"role": "user", "content": PROMPT}]


def chat():
    answer = client.chat(model=MODEL, messages=messages)
    return {"text": answer.message.content, "usage": answer.eval_count}


def stream():
    chunks = list(client.chat(model=MODEL, messages=messages, stream=True))
    return {"text": "".join(chunk.message.content for chunk in chunks), "usage": chunks[-1].eval_count}


def tools():
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    call = client.chat(model=MODEL, messages=messages, tools=[tool]).message.tool_calls[0].function
    return {"tool": call.name, "arguments": dict(call.arguments)}


def vision():
    answer = client.chat(model=MODEL, messages=[{**messages[0], "images": [image()]}])
    return {"text": answer.message.content}


def embeddings():
    return {"dimensions": len(client.embed(model=MODEL, input=PROMPT).embeddings[0])}


run(chat, stream, tools, vision, embeddings)
