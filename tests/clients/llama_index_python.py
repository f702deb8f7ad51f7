from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from scene import BASE, MODEL, PROMPT, image, run

llm = OpenAILike(
    model=MODEL, api_base=f"{BASE}/v1", api_key="unused", is_chat_model=True, is_function_calling_model=True
)


def chat():
    answer = llm.chat([ChatMessage(PROMPT)])
    return {"text": answer.message.content, "usage": answer.raw.usage.completion_tokens}


def stream():
    chunks = list(llm.stream_chat([ChatMessage(PROMPT)], stream_options={"include_usage": True}))
    return {"text": chunks[-1].message.content, "usage": chunks[-1].raw.usage.completion_tokens}


def tools():
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    answer = llm.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=PROMPT)
    call = llm.get_tool_calls_from_response(answer)[0]
    return {"tool": call.tool_name, "arguments": call.tool_kwargs}


def vision():
    blocks = [TextBlock(text=PROMPT), ImageBlock(image=image(), image_mimetype="image/png")]
    return {"text": llm.chat([ChatMessage(blocks=blocks)]).message.content}


def embeddings():
    client = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{BASE}/v1", api_key="unused")
    return {"dimensions": len(client.get_text_embedding(PROMPT))}


run(chat, stream, tools, vision, embeddings)
