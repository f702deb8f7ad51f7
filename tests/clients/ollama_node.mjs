import { Ollama } from "ollama";
import { BASE, MODEL, PROMPT, WEATHER, image, run } from "./scene.mjs";

const client = new Ollama({ host: BASE });
const messages = [{ role: "user", content: PROMPT }];

await run({
  async chat() {
    const answer = await client.chat({ model: MODEL, messages });
    return { text: answer.message.content, usage: answer.eval_count };
  },
  async stream() {
    let [text, usage] = ["", null];
    for await (const chunk of await client.chat({ model: MODEL, messages, stream: true })) {
      text += chunk.message.content;
      usage = chunk.eval_count ?? usage;
    }
    return { text, usage };
  },
  async tools() {
    const tool = { type: "function", function: { name: "weather", description: "", parameters: WEATHER } };
    const call = (await client.chat({ model: MODEL, messages, tools: [tool] })).message.tool_calls[0].function;
    return { tool: call.name, arguments: call.arguments };
  },
  async vision() {
    const answer = await client.chat({ model: MODEL, messages: [{ ...messages[0], images: [image()] }] });
    return { text: answer.message.content };
  },
  async embeddings() {
    return { dimensions: (await client.embed({ model: MODEL, input: PROMPT })).embeddings[0].length };
  },
});
