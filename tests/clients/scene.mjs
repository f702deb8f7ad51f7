// What the script of each client is told, and what it prints: see scene.py.

import { crc32, deflateSync } from "node:zlib";

export const [SCENE, BASE, MODEL] = process.argv.slice(2);
export const PROMPT = "What is the weather in Paris?";
export const WEATHER = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const PLAYED_BY = { patient: "stream", patient_responses: "responses", failing: "chat", failing_stream: "stream" };

/** A PNG of 64 by 64 pixels that compresses badly, so that the backend can tell by its length that it arrived. */
export function image() {
  const pixels = Buffer.alloc(64 * (1 + 64 * 3));
  let state = 1;
  for (let at = 0; at < pixels.length; at++) {
    if (at % (1 + 64 * 3) === 0) continue;
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    pixels[at] = (state >> 16) & 0xff;
  }
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(data.length);
    const sum = Buffer.alloc(4);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const header = Buffer.from([0, 0, 0, 64, 0, 0, 0, 64, 8, 2, 0, 0, 0]);
  const begin = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([begin, chunk("IHDR", header), chunk("IDAT", deflateSync(pixels)), chunk("IEND", Buffer.alloc(0))]);
}

/** Plays the scene, and prints what its function returns or throws. */
export async function run(scenes) {
  let seen;
  try {
    seen = await scenes[PLAYED_BY[SCENE] ?? SCENE]();
  } catch (error) {
    seen = { error: error.constructor.name, message: String(error.message) };
  }
  console.log(`\nSEEN ${JSON.stringify(seen)}`);
  process.exit(0);
}
