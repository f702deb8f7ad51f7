import base64

import dspy
from scene import BASE, MODEL, PROMPT, WEATHER, image, run

lm = dspy.LM(f"openai/{MODEL}", api_base=f"{BASE}/v1", api_key="unused", cache=False)
messages = [{"role": "user", "content": PROMPT}]


def chat():
    text = lm(messages=messages)[0]
    return {"text": text, "usage": lm.history[-1]["usage"]["completion_tokens"]}


class Asking(dspy.Module):
    def forward(self):
        return dspy.Prediction(text=lm(messages=messages)[0])


def stream():
    dspy.configure(lm=lm, track_usage=True)
    parts = list(dspy.streamify(Asking(), async_streaming=False)())
    chunks = [part for part in parts[:-1] if getattr(part, "choices", None)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == parts[-1].text, parts
    return {"text": text, "usage": lm.history[-1]["usage"]["completion_tokens"]}


def tools():
    tool = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
    call = lm(messages=messages, tools=[tool])[0]["tool_calls"][0]["function"]
    return {"tool": call["name"], "arguments": call["arguments"]}


def vision():
    url = "data:image/png;base64," + base64.b64encode(image()).decode()
    content = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": url}}]
    return {"text": lm(messages=[{"role": "user", "content": content}])[0]}


def embeddings():
    embedder = dspy.Embedder(f"openai/{MODEL}", api_base=f"{BASE}/v1", api_key="unused", caching=False)
    return {"dimensions": len(embedder([PROMPT])[0])}


def responses():
    lm = dspy.LM(
        f"openai/{MODEL}", api_base=f"{BASE}/v1", api_key="unused", cache=False, model_type="responses"
    )
    return {"text": lm(messages=messages)[0]["text"]}


run(chat, stream, tools, vision, embeddings, responses)
