import base64

from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.tools import Tool
from haystack.utils import Secret
from scene import BASE, MODEL, PROMPT, WEATHER, image, run

backend = {"model": MODEL, "api_base_url": f"{BASE}/v1", "api_key": Secret.from_token("unused")}


def ask(message=None, **more):
    message = message or ChatMessage.from_user(PROMPT)
    return OpenAIChatGenerator(timeout=600, **backend, **more).run([message])["replies"][0]


def chat():
    answer = ask()
    return {"text": answer.text, "usage": answer.meta["usage"]["completion_tokens"]}


def stream():
    parts = []
    options = {"stream_options": {"include_usage": True}}
    answer = ask(streaming_callback=lambda chunk: parts.append(chunk.content), generation_kwargs=options)
    assert "".join(parts) == answer.text
    return {"text": answer.text, "usage": answer.meta["usage"]["completion_tokens"]}


def tools():
    tool = Tool(name="weather", description="The weather of a city.", parameters=WEATHER, function=str)
    call = ask(tools=[tool]).tool_calls[0]
    return {"tool": call.tool_name, "arguments": call.arguments}


def vision():
    picture = ImageContent(base64_image=base64.b64encode(image()).decode(), mime_type="image/png")
    return {"text": ask(ChatMessage.from_user(content_parts=[PROMPT, picture])).text}


def embeddings():
    return {"dimensions": len(OpenAITextEmbedder(**backend).run(PROMPT)["embedding"])}


run(chat, stream, tools, vision, embeddings)
