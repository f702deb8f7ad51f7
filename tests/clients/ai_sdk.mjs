import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, jsonSchema, streamText, tool } from "ai";
import { BASE, MODEL, PROMPT, WEATHER, image, run } from "./scene.mjs";

const provider = createOpenAICompatible({
  name: "reveille",
  baseURL: `${BASE}/v1`,
  apiKey: "unused",
  includeUsage: true,
});
const model = provider.chatModel(MODEL);

await run({
  async chat() {
    const answer = await generateText({ model, prompt: PROMPT });
    return { text: answer.text, usage: answer.usage.outputTokens };
  },
  async stream() {
    let failure;
    const answer = streamText({ model, prompt: PROMPT, onError: ({ error }) => (failure = error) });
    let text = "";
    for await (const part of answer.textStream) text += part;
    if (failure) throw failure;
    return { text, usage: (await answer.usage).outputTokens };
  },
  async tools() {
    const weather = tool({ description: "The weather of a city.", inputSchema: jsonSchema(WEATHER) });
    const call = (await generateText({ model, prompt: PROMPT, tools: { weather } })).toolCalls[0];
    return { tool: call.toolName, arguments: call.input };
  },
  async vision() {
    const content = [{ type: "text", text: PROMPT }, { type: "image", image: image() }];
    return { text: (await generateText({ model, messages: [{ role: "user", content }] })).text };
  },
  async embeddings() {
    const answer = await embed({ model: provider.embeddingModel(MODEL), value: PROMPT });
    return { dimensions: answer.embedding.length };
  },
  async responses() {
    const openai = createOpenAI({ baseURL: `${BASE}/v1`, apiKey: "unused" });
    const answer = streamText({ model: openai.responses(MODEL), prompt: PROMPT });
    return { text: await answer.text, usage: (await answer.usage).outputTokens };
  },
});
