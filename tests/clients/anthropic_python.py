import base64

import anthropic
from scene import BASE, MODEL, PROMPT, WEATHER, image, run

client = anthropic.Anthropic(base_url=BASE, api_key="unused")
messages = [{"role": "user", "content": PROMPT}]


def chat():
    answer = client.messages.create(model=MODEL, messages=messages, max_tokens=100)
    return {"text": answer.content[0].text, "usage": answer.usage.output_tokens}


def stream():
    with client.messages.stream(model=MODEL, messages=messages, max_tokens=100) as events:
        text = "".join(events.text_stream)
        return {"text": text, "usage": events.get_final_message().usage.output_tokens}


def tools():
    tool = {"name": "weather", "input_schema": WEATHER}
    with client.messages.stream(model=MODEL, messages=messages, max_tokens=100, tools=[tool]) as events:
        call = next(block for block in events.get_final_message().content if block.type == "tool_use")
    return {"tool": call.name, "arguments": call.input}


def vision():
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(image()).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": PROMPT}]
    answer = client.messages.create(
        model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=100
    )
    return {"text": answer.content[0].text}


run(chat, stream, tools, vision)
