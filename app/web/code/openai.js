/** The same request through OpenAI's libraries. Gemini's own parameters are beside OpenAI's, under other names. */

import { javascript, python, text } from "./literals.js";
import { fieldsOf, filesOf, notesOf, PLACEHOLDER } from "./request.js";

/**
 * @typedef {import("./literals.js").Value} Value
 * @typedef {import("./request.js").CodeRequest} CodeRequest
 */

/** @type {{[field: string]: string}} Names of the fields that OpenAI's own method has. */
const OPENAI_NAMES = {
  model: "model",
  prompt: "prompt",
  outputFormat: "output_format",
  outputQuality: "output_compression",
};

/** @type {{[field: string]: string}} Names of the fields that `/v1` takes besides. The others do not exist there. */
const OUR_NAMES = {
  aspectRatio: "aspect_ratio",
  imageSize: "image_size",
  googleSearch: "google_search",
  imageSearch: "image_search",
  thinkingLevel: "thinking_level",
  seed: "seed",
  systemInstruction: "system_instruction",
  fallbackModel: "fallback_model",
};

/**
 * @param {CodeRequest} request
 * @returns {string}
 */
export function openaiPython(request) {
  const { references, output } = filesOf(request);
  const extra = renamed(request, OUR_NAMES).map(([name, value]) => `        ${text(name)}: ${python(value)},`);
  const images = references.map((name) => `        open(${text(name)}, "rb"),`);
  const lines = [
    ...["pip install openai", ...openaiNotes(request)].map((note) => `# ${note}`),
    "import base64",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${text(`${request.origin}/v1`)}, api_key="${keyOf(request)}", max_retries=0)`,
    `answer = client.images.${images.length ? "edit" : "generate"}(`,
    ...renamed(request, OPENAI_NAMES).map(([name, value]) => `    ${name}=${python(value)},`),
    ...(images.length ? ["    image=[", ...images, "    ],"] : []),
    ...(extra.length ? ["    extra_body={", ...extra, "    },"] : []),
    ")",
    `with open(${text(output)}, "wb") as file:`,
    "    file.write(base64.b64decode(answer.data[0].b64_json))",
  ];
  return `${lines.join("\n")}\n`;
}

/**
 * @param {CodeRequest} request
 * @returns {string}
 */
export function openaiJavascript(request) {
  const { references, output } = filesOf(request);
  const images = references.map((name) => `    createReadStream(${text(name)}),`);
  const lines = [
    ...["npm install openai", ...openaiNotes(request)].map((note) => `// ${note}`),
    `import { ${images.length ? "createReadStream, " : ""}writeFileSync } from "node:fs";`,
    'import OpenAI from "openai";',
    "",
    "const client = new OpenAI({",
    `  baseURL: ${text(`${request.origin}/v1`)},`,
    `  apiKey: "${keyOf(request)}",`,
    "  maxRetries: 0,",
    "});",
    `const answer = await client.images.${images.length ? "edit" : "generate"}({`,
    ...renamed(request, { ...OPENAI_NAMES, ...OUR_NAMES }).map(([name, value]) => `  ${name}: ${javascript(value)},`),
    ...(images.length ? ["  image: [", ...images, "  ],"] : []),
    "});",
    `writeFileSync(${text(output)}, Buffer.from(answer.data[0].b64_json, "base64"));`,
  ];
  return `${lines.join("\n")}\n`;
}

/**
 * Return the fields that are in a table, under their names there.
 *
 * @param {CodeRequest} request
 * @param {{[field: string]: string}} names
 * @returns {[string, Value][]}
 */
function renamed(request, names) {
  return fieldsOf(request)
    .filter(([name]) => Object.hasOwn(names, name))
    .map(([name, value]) => [names[name], value]);
}

/** @param {CodeRequest} request */
function keyOf(request) {
  return request.keyNeeded ? PLACEHOLDER : "not-needed";
}

/** @param {CodeRequest} request */
function openaiNotes(request) {
  const labelled = request.references.some(({ role, name }) => role || name);
  const notes = notesOf(request, "the answer has them as grounding");
  if (labelled) notes.push("OpenAI's API has no roles and names of images. Say in the prompt what each one is.");
  return notes;
}
