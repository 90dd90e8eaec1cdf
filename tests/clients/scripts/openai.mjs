// Calls one method of OpenAI's library for Node.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";
import { report } from "./report.mjs";

// How a caller can hand over an image: an open file, which is sent in chunks without a length, or bytes.
const upload = {
  file: (path) => fs.createReadStream(path),
  bytes: (path) => toFile(fs.readFileSync(path), "image.png", { type: "image/png" }),
};

async function run({ url, key, retries, method, body, headers, images, mask, as, parse }) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: retries });
  const owner = method.split(".").slice(0, -1).reduce((found, name) => found[name], client);
  const call = owner[method.split(".").at(-1)].bind(owner);
  if (images) {
    const files = await Promise.all(images.map(upload[as]));
    body = { ...body, image: files.length === 1 ? files[0] : files };
  }
  if (mask) body = { ...body, mask: await upload[as](mask) };
  if (parse === "response") {
    const { data, response } = await call(body, { headers }).withResponse();
    return { data, headers: Object.fromEntries(response.headers) };
  }
  const first = method === "models.retrieve" ? body.model : body;
  const answer = await (first ? call(first, { headers }) : call({ headers }));
  if (!body?.stream) return answer;
  const events = [];
  for await (const event of answer) events.push(event);
  return events;
}

const describe = ({ status, code, param, type, requestID, headers }) => ({
  status,
  code,
  param,
  type,
  request_id: requestID,
  headers: headers && Object.fromEntries(headers),
});

await report(run, describe);
