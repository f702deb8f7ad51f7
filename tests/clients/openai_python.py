import base64

import openai
from scene import BASE, MODEL, PROMPT, WEATHER, image, run

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="unused")
messages = [{"role": "user", "content": PROMPT}]


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    return {"text": answer.choices[0].message.content, "usage": answer.usage.completion_tokens}


def stream():
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return {"text": text, "usage": chunks[-1].usage.completion_tokens}


def tools():
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[tool])
    call = answer.choices[0].message.tool_calls[0].function
    return {"tool": call.name, "arguments": call.arguments}


def vision():
    url = "data:image/png;base64," + base64.b64encode(image()).decode()
    content = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": url}}]
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    return {"text": answer.choices[0].message.content}


def embeddings():
    return {"dimensions": len(client.embeddings.create(model=MODEL, input=PROMPT).data[0].embedding)}


def responses_stream():
    with client.responses.stream(model=MODEL, input=PROMPT) as events:
        answer = events.get_final_response()
    return {"text": answer.output_text, "usage": answer.usage.output_tokens}


def responses():
    answer = client.responses.create(model=MODEL, input=PROMPT)
    return {"text": answer.output_text, "usage": answer.usage.output_tokens}


run(chat, stream, tools, vision, embeddings, responses, responses_stream)
