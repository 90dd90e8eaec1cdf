/** Requests to the service. The key is kept in this tab only (`sessionStorage`), and sent as a header. */

/** @import { ProblemRead } from "../types.js" */

const STORED_KEY = "api-key";

/** What a key can be: other characters do not fit into a header. */
const VISIBLE = /^[!-~]*$/;

/** A request that failed, with the service's problem document. Its message is a sentence for people. */
export class Problem extends Error {
  /** @param {Partial<ProblemRead> & {detail: string}} document */
  constructor(document) {
    super(document.detail.replace(/^body: /, "")); // what is about the whole request names no field
    this.code = document.code ?? "";
    this.status = document.status ?? 0;
    this.text = document.text ?? null;
    this.usage = document.usage ?? null;
  }
}

/** The service, as this page calls it. */
export class Client {
  /** Called when the service does not accept the key. */
  onUnauthorized = () => {};
  /** @type {(remainingUsd: number) => void} Called when a response tells what is left of the budget. */
  onBudget = () => {};

  /** @returns {string} */
  get key() {
    return sessionStorage.getItem(STORED_KEY) ?? "";
  }

  /** @param {string} key */
  set key(key) {
    if (key) sessionStorage.setItem(STORED_KEY, key);
    else sessionStorage.removeItem(STORED_KEY);
  }

  /**
   * Send a request.
   *
   * @param {string} path relative to the page, for example `models`
   * @param {{method?: string, json?: unknown, form?: FormData, accept?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<Response>} a successful one
   * @throws {Problem}
   */
  async send(path, { method, json, form, accept = "application/json", signal } = {}) {
    if (!VISIBLE.test(this.key)) {
      this.onUnauthorized();
      throw new Problem({ status: 401, detail: "This is no key: keys have only visible ASCII characters, and no spaces." });
    }
    const headers = new Headers({ Accept: accept });
    if (this.key) headers.set("Authorization", `Bearer ${this.key}`);
    if (json !== undefined) headers.set("Content-Type", "application/json");
    const body = json === undefined ? form : JSON.stringify(json);
    /** @type {Response} */
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), {
        method: method ?? (body === undefined ? "GET" : "POST"),
        headers,
        ...(body !== undefined && { body }),
        ...(signal && { signal }),
      });
    } catch (error) {
      throw signal?.aborted ? error : new Problem({ detail: "The service cannot be reached." });
    }
    const remaining = response.headers.get("X-Budget-Remaining-Usd");
    if (remaining !== null && Number.isFinite(Number(remaining))) this.onBudget(Number(remaining));
    if (response.ok) return response;
    if (response.status === 401) this.onUnauthorized();
    throw await problemOf(response);
  }

  /**
   * @param {string} path
   * @param {{method?: string, json?: unknown}} [options]
   * @returns {Promise<any>} the JSON document of the response
   */
  async json(path, options = {}) {
    return (await this.send(path, options)).json();
  }

  /**
   * @param {string} path of an image
   * @returns {Promise<Blob>}
   */
  async image(path) {
    return (await this.send(path, { accept: "image/*" })).blob();
  }
}

/**
 * @param {Response} response
 * @returns {Promise<Problem>}
 */
async function problemOf(response) {
  const document = await response.json().catch(() => null);
  const detail = document?.detail ?? document?.error;
  if (typeof detail === "string") return new Problem({ ...document, detail });
  return new Problem({ status: response.status, detail: `The service answered with status ${response.status}.` });
}
