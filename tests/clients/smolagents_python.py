import io

from PIL import Image
from scene import BASE, MODEL, PROMPT, image, run
from smolagents import OpenAIModel, tool

model = OpenAIModel(MODEL, api_base=f"{BASE}/v1", api_key="unused")
messages = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]


@tool
def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: The city.
    """
    return city


def chat():
    answer = model.generate(messages)
    return {"text": answer.content, "usage": answer.token_usage.output_tokens}


def stream():
    chunks = list(model.generate_stream(messages))
    usages = [chunk.token_usage for chunk in chunks if chunk.token_usage]
    return {"text": "".join(chunk.content or "" for chunk in chunks), "usage": usages[-1].output_tokens}


def tools():
    call = model.generate(messages, tools_to_call_from=[weather]).tool_calls[0].function
    return {"tool": call.name, "arguments": call.arguments}


def vision():
    picture = {"type": "image", "image": Image.open(io.BytesIO(image()))}
    content = [*messages[0]["content"], picture]
    return {"text": model.generate([{"role": "user", "content": content}]).content}


run(chat, stream, tools, vision)
