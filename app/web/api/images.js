/** Generating an image, with its progress as events. */

import { toBlob } from "./base64.js";
import { Problem } from "./client.js";
import { readEvents } from "./events.js";

/** @import { Client } from "./client.js" */
/** @import { GenerationRead, Picture, Reference, RequestBody } from "../types.js" */

/**
 * @typedef {object} Listener What is told about a generation while it runs.
 * @property {(model: string, attempt: number) => void} started
 * @property {(reason: string, waitSeconds: number, attempt: number) => void} retrying
 * @property {(text: string) => void} thought
 * @property {(draft: Blob) => void} draft
 */

/**
 * Generate an image.
 *
 * @param {Client} client
 * @param {RequestBody} body
 * @param {Reference[]} references
 * @param {Listener} listener
 * @param {AbortSignal} signal
 * @returns {Promise<Picture>}
 * @throws {Problem}
 */
export function generateImage(client, body, references, listener, signal) {
  const path = references.length ? "generate-image/with-references" : "generate-image";
  return requestPicture(client, path, body, references, listener, signal);
}

/**
 * Send a request to a route that makes an image, and follow its events.
 *
 * @param {Client} client
 * @param {string} path
 * @param {RequestBody} body
 * @param {Reference[]} references sent as files of a form
 * @param {Listener} listener
 * @param {AbortSignal} signal
 * @returns {Promise<Picture>}
 * @throws {Problem}
 */
export async function requestPicture(client, path, body, references, listener, signal) {
  const fields = { ...body, responseFormat: "b64" };
  const payload = references.length ? { form: formOf(fields, references) } : { json: fields };
  const response = await client.send(path, { ...payload, accept: "text/event-stream", signal });
  /** @type {GenerationRead | null} */
  let document = null;
  try {
    for await (const { name, data } of readEvents(/** @type {any} */ (response.body))) {
      if (name === "started") listener.started(data.model, data.attempt);
      else if (name === "retrying") listener.retrying(data.reason, data.waitSeconds, data.attempt);
      else if (name === "thought") listener.thought(data.text);
      else if (name === "draft") listener.draft(await toBlob(data.data, data.mimeType));
      else if (name === "image") document = data;
      else if (name === "problem") throw new Problem(data);
    }
  } catch (error) {
    if (signal.aborted || error instanceof Problem) throw error;
    throw new Problem({ detail: "The connection to the service broke." });
  }
  if (document === null) throw new Problem({ detail: "The service closed the connection before the picture came." });
  return pictureOf(document, body.prompt, await toBlob(document.image.data ?? "", document.image.mimeType));
}

/**
 * @param {Partial<GenerationRead> & {image: {mimeType: string, width: number, height: number}}} document
 * @param {string} prompt
 * @param {Blob} blob
 * @returns {Picture}
 */
export function pictureOf(document, prompt, blob) {
  return {
    blob,
    prompt,
    width: document.image.width,
    height: document.image.height,
    mimeType: document.image.mimeType,
    text: document.text ?? null,
    thoughts: document.thoughts ?? null,
    model: document.model ?? "",
    usage: document.usage ?? null,
    grounding: document.grounding ?? null,
    warnings: document.warnings ?? [],
    ...(document.turn !== undefined && { turn: document.turn }),
  };
}

/**
 * @param {object} fields
 * @param {Reference[]} references
 * @returns {FormData}
 */
function formOf(fields, references) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
  for (const { file, fileName, role, name } of references) {
    form.append("images", file, fileName);
    form.append("roles", role);
    form.append("names", name);
  }
  return form;
}
