/** Server-sent events in the body of a response. `EventSource` cannot send a POST request, so the body is read here. */

/** @typedef {{name: string, data: any}} ServerEvent */

/**
 * Yield the events of a stream. Comments, which keep the connection open, are left out.
 *
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @returns {AsyncGenerator<ServerEvent>}
 */
export async function* readEvents(body) {
  let name = "message";
  /** @type {string[]} */
  let data = [];
  for await (const line of readLines(body)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
    else if (line === "" && data.length) {
      yield { name, data: JSON.parse(data.join("\n")) };
      name = "message";
      data = [];
    }
  }
}

/**
 * Yield the lines of a stream. The pieces of a line of many megabytes, which an image is, are joined only once.
 *
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @returns {AsyncGenerator<string>}
 */
async function* readLines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  /** @type {string[]} */
  let pieces = [];
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    let rest = read.value;
    for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
      pieces.push(rest.slice(0, end));
      yield pieces.join("");
      pieces = [];
      rest = rest.slice(end + 1);
    }
    pieces.push(rest);
  }
}
