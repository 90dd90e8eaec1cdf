/** "Show me the code": a request as source code. Each snippet makes exactly one call and fails if there is no image. */

import { curl } from "./curl.js";
import { javascriptCode } from "./javascript.js";
import { openaiJavascript, openaiPython } from "./openai.js";
import { pythonCode } from "./python.js";

/**
 * @typedef {import("./request.js").CodeRequest} CodeRequest
 *
 * @typedef {Object} Snippets
 * @property {string} curl
 * @property {string} python
 * @property {string} javascript
 * @property {string} openaiPython
 * @property {string} openaiJavascript
 */

/**
 * @param {CodeRequest} request
 * @returns {Snippets}
 */
export function snippets(request) {
  return {
    curl: curl(request),
    python: pythonCode(request),
    javascript: javascriptCode(request),
    openaiPython: openaiPython(request),
    openaiJavascript: openaiJavascript(request),
  };
}
