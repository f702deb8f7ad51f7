from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from scene import BASE, MODEL, PROMPT, image, run

provider = OpenAIProvider(base_url=f"{BASE}/v1", api_key="unused")


class Weather(BaseModel):
    city: str


def agent(**more):
    return Agent(OpenAIChatModel(MODEL, provider=provider), **more)


def chat():
    answer = agent().run_sync(PROMPT)
    return {"text": answer.output, "usage": answer.usage.output_tokens}


def stream():
    answer = agent().run_stream_sync(PROMPT)
    text = "".join(answer.stream_text(delta=True))
    return {"text": text, "usage": answer.usage.output_tokens}


def tools():
    answer = agent(output_type=Weather).run_sync(PROMPT)
    return {"tool": "final_result", "arguments": answer.output.model_dump()}


def vision():
    answer = agent().run_sync([PROMPT, BinaryContent(image(), media_type="image/png")])
    return {"text": answer.output}


def responses():
    answer = Agent(OpenAIResponsesModel(MODEL, provider=provider)).run_sync(PROMPT)
    return {"text": answer.output, "usage": answer.usage.output_tokens}


def responses_stream():
    answer = Agent(OpenAIResponsesModel(MODEL, provider=provider)).run_stream_sync(PROMPT)
    text = "".join(answer.stream_text(delta=True))
    return {"text": text, "usage": answer.usage.output_tokens}


run(chat, stream, tools, vision, responses, responses_stream)
