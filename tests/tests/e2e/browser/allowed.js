// A page that streams a completion by the browser's own `fetch`, and reads errors. The address's fragment is the API and a key.
const [api, key] = location.hash.slice(1).split(",");
const headers = { authorization: `Bearer ${key}`, "content-type": "application/json", "x-reveille-wait": "60" };
const url = `${api}/v1/chat/completions`;
const chat = { model: "qwen", stream: true, messages: [{ role: "user", content: "hi" }] };

async function stream() {
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(chat) });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let chunks = 0, text = "";
  for (let read; !(read = await reader.read()).done; chunks++) text += read.value;
  const data = text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
  const said = data.filter((line) => line !== "[DONE]").map((line) => JSON.parse(line).choices[0]?.delta?.content ?? "");
  return {
    status: answer.status,
    provider: answer.headers.get("x-reveille-provider"),
    wake_id: answer.headers.get("x-reveille-wake-id"),
    chunks,
    said: said.join(""),
    done: data.at(-1) === "[DONE]",
  };
}

async function refused(url, options) {
  const answer = await fetch(url, options);
  const { error } = await answer.json();
  return { status: answer.status, code: error.code, request_id: answer.headers.get("x-request-id") };
}

async function use() {
  return {
    stream: await stream(),
    unknown_model: await refused(url, { method: "POST", headers, body: JSON.stringify({ ...chat, model: "nothing" }) }),
    no_key: await refused(`${api}/v1/models`),
    no_path: await refused(`${api}/nothing`, { headers }),
  };
}

use()
  .catch((error) => ({ error: String(error) }))
  .then((report) => fetch("/report", { method: "POST", body: JSON.stringify(report) }));
