import Anthropic from "@anthropic-ai/sdk";
import { BASE, MODEL, PROMPT, WEATHER, image, run } from "./scene.mjs";

const client = new Anthropic({ baseURL: BASE, apiKey: "unused" });
const messages = [{ role: "user", content: PROMPT }];
const max_tokens = 100;

await run({
  async chat() {
    const answer = await client.messages.create({ model: MODEL, messages, max_tokens });
    return { text: answer.content[0].text, usage: answer.usage.output_tokens };
  },
  async stream() {
    const answer = await client.messages.stream({ model: MODEL, messages, max_tokens }).finalMessage();
    return { text: answer.content[0].text, usage: answer.usage.output_tokens };
  },
  async tools() {
    const tools = [{ name: "weather", input_schema: WEATHER }];
    const answer = await client.messages.stream({ model: MODEL, messages, max_tokens, tools }).finalMessage();
    const call = answer.content.find((block) => block.type === "tool_use");
    return { tool: call.name, arguments: call.input };
  },
  async vision() {
    const source = { type: "base64", media_type: "image/png", data: image().toString("base64") };
    const content = [{ type: "image", source }, { type: "text", text: PROMPT }];
    const answer = await client.messages.create({ model: MODEL, messages: [{ role: "user", content }], max_tokens });
    return { text: answer.content[0].text };
  },
});
