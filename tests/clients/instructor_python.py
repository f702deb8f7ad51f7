import base64

import instructor
import openai
from pydantic import BaseModel
from scene import BASE, MODEL, PROMPT, image, run

client = instructor.from_openai(openai.OpenAI(base_url=f"{BASE}/v1", api_key="unused"))


class Weather(BaseModel):
    city: str


def ask(content, **more):
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], response_model=Weather, **more
    )


def told(answer):
    return {"tool": "Weather", "arguments": answer.model_dump()}


def chat():
    return told(ask(PROMPT))


def tools():
    return told(ask(PROMPT))


def stream():
    kind = instructor.Partial[Weather]
    parts = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PROMPT}], response_model=kind, stream=True
    )
    return told(list(parts)[-1])


def vision():
    picture = instructor.Image.from_raw_base64(base64.b64encode(image()).decode())
    return told(ask([PROMPT, picture]))


run(chat, tools, stream, vision)
