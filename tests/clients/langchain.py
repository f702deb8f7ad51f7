import asyncio
import base64

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from scene import BASE, MODEL, PROMPT, WEATHER, image, run


def model(**more):
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{BASE}/v1",
        api_key="unused",
        stream_usage=True,
        default_headers={"X-Reveille-Progress": "delta"},
        **more,
    )


def chat():
    answer = model().invoke(PROMPT)
    return {"text": answer.content, "usage": answer.usage_metadata["output_tokens"]}


def stream():
    chunks = list(model().stream(PROMPT))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {"text": whole.content, "usage": whole.usage_metadata["output_tokens"]}


def tools():
    tool = {"type": "function", "function": {"name": "weather", "description": "", "parameters": WEATHER}}
    call = model().bind_tools([tool]).invoke(PROMPT).tool_calls[0]
    return {"tool": call["name"], "arguments": call["args"]}


def vision():
    url = "data:image/png;base64," + base64.b64encode(image()).decode()
    content = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": url}}]
    return {"text": model().invoke([{"role": "user", "content": content}]).content}


def embeddings():
    # Without this it would count tokens by a vocabulary that it downloads.
    client = OpenAIEmbeddings(
        model=MODEL, base_url=f"{BASE}/v1", api_key="unused", check_embedding_ctx_length=False
    )
    return {"dimensions": len(client.embed_query(PROMPT))}


def responses():
    answer = model(use_responses_api=True).invoke(PROMPT)
    return {"text": answer.text, "usage": answer.usage_metadata["output_tokens"]}


async def chunks_of_a_response():
    # Its timer is shorter than the boot.
    asking = model(use_responses_api=True, stream_chunk_timeout=10)
    return [chunk async for chunk in asking.astream(PROMPT)]


def responses_stream():
    chunks = asyncio.run(chunks_of_a_response())
    whole = sum(chunks[1:], chunks[0])
    # The next request of a conversation names it.
    assert whole.response_metadata["id"].startswith("resp_"), whole
    return {"text": whole.text, "usage": whole.usage_metadata["output_tokens"]}


run(chat, stream, tools, vision, embeddings, responses, responses_stream)
