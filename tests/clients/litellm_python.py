import base64

import litellm
from scene import BASE, MODEL, PROMPT, WEATHER, image, run

messages = [{"role": "user", "content": PROMPT}]
backend = {"model": f"openai/{MODEL}", "api_base": f"{BASE}/v1", "api_key": "unused"}


def chat():
    answer = litellm.completion(messages=messages, **backend)
    return {"text": answer.choices[0].message.content, "usage": answer.usage.completion_tokens}


def stream():
    chunks = list(
        litellm.completion(messages=messages, stream=True, stream_options={"include_usage": True}, **backend)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    usages = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    return {"text": text, "usage": usages[-1].completion_tokens}


def tools():
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    call = litellm.completion(messages=messages, tools=[tool], **backend).choices[0].message.tool_calls[0].function
    return {"tool": call.name, "arguments": call.arguments}


def vision():
    url = "data:image/png;base64," + base64.b64encode(image()).decode()
    content = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": url}}]
    answer = litellm.completion(messages=[{"role": "user", "content": content}], **backend)
    return {"text": answer.choices[0].message.content}


def embeddings():
    return {"dimensions": len(litellm.embedding(input=[PROMPT], **backend).data[0]["embedding"])}


def responses():
    answer = litellm.responses(input=PROMPT, **backend)
    return {"text": answer.output[0].content[0].text, "usage": answer.usage.output_tokens}


def responses_stream():
    events = list(litellm.responses(input=PROMPT, stream=True, **backend))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return {"text": text, "usage": events[-1].response.usage.output_tokens}


run(chat, stream, tools, vision, embeddings, responses, responses_stream)
