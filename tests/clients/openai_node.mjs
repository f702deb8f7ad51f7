import OpenAI from "openai";
import { BASE, MODEL, PROMPT, WEATHER, image, run } from "./scene.mjs";

const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: "unused" });
const messages = [{ role: "user", content: PROMPT }];
const completions = client.chat.completions;

await run({
  async chat() {
    const answer = await completions.create({ model: MODEL, messages });
    return { text: answer.choices[0].message.content, usage: answer.usage.completion_tokens };
  },
  async stream() {
    let [text, usage] = ["", null];
    const chunks = await completions.create({ model: MODEL, messages, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of chunks) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    return { text, usage: usage.completion_tokens };
  },
  async tools() {
    const tool = { type: "function", function: { name: "weather", parameters: WEATHER } };
    const answer = await completions.create({ model: MODEL, messages, tools: [tool] });
    const call = answer.choices[0].message.tool_calls[0].function;
    return { tool: call.name, arguments: call.arguments };
  },
  async vision() {
    const url = `data:image/png;base64,${image().toString("base64")}`;
    const content = [{ type: "text", text: PROMPT }, { type: "image_url", image_url: { url } }];
    const answer = await completions.create({ model: MODEL, messages: [{ role: "user", content }] });
    return { text: answer.choices[0].message.content };
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: MODEL, input: PROMPT });
    return { dimensions: answer.data[0].embedding.length };
  },
  async responses() {
    const answer = await client.responses.stream({ model: MODEL, input: PROMPT }).finalResponse();
    return { text: answer.output_text, usage: answer.usage.output_tokens };
  },
});
