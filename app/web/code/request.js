/**
 * What the snippets are written from, and what all languages need of it.
 *
 * @typedef {import("./literals.js").Value} Value
 *
 * @typedef {Object} CodeReference A reference image.
 * @property {string} fileName as the user's file is called; empty for an image without a file
 * @property {string} [role] `character`, `object` or `style`
 * @property {string} [name] the name of the image in the prompt
 * @property {string} [type] MIME type
 *
 * @typedef {Object} CodeRequest
 * @property {string} origin of the service, such as `http://127.0.0.1:8000`
 * @property {{[field: string]: Value | undefined}} body fields of `POST /generate-image`, without references
 * @property {CodeReference[]} references
 * @property {boolean} keyNeeded whether the service asks for a key
 * @property {string} [outputType] MIME type that the model draws, as `GET /models` has it; JPEG by default
 *
 * @typedef {Object} Files
 * @property {string[]} references the names of the reference images
 * @property {string} output the name of the file that is written
 */

/** Stands for the key, so that no snippet has a real one. */
export const PLACEHOLDER = "YOUR_KEY";

/**
 * Return the fields that are set.
 *
 * @param {CodeRequest} request
 * @returns {[string, Value][]}
 */
export function fieldsOf(request) {
  const fields = [];
  for (const [name, value] of Object.entries(request.body)) {
    if (value !== undefined && value !== null) fields.push(/** @type {[string, Value]} */ ([name, value]));
  }
  return fields;
}

/**
 * Return role and name of a reference image, as far as they are set.
 *
 * @param {CodeReference} reference
 * @returns {[string, string][]} keys and values
 */
export function labelsOf({ role, name }) {
  const labels = /** @type {[string, string | undefined][]} */ ([["role", role], ["name", name]]);
  return labels.filter((label) => Boolean(label[1])).map(([key, value]) => [key, value ?? ""]);
}

/**
 * Return names of files in the current folder. No two are the same, so that the image replaces no reference.
 *
 * @param {CodeRequest} request
 * @returns {Files}
 */
export function filesOf(request) {
  const taken = new Set();
  /** @param {string} name */
  const unique = (name) => {
    const [, stem, extension] = /^(.*?)(\.[^.]*)?$/s.exec(name) ?? [name, name];
    let free = name;
    for (let number = 2; taken.has(free.toLowerCase()); number++) free = `${stem}-${number}${extension ?? ""}`;
    taken.add(free.toLowerCase());
    return free;
  };
  const references = request.references.map(({ fileName, type }) =>
    unique(fileName.split("/").at(-1) || `reference.${extensionOf(type ?? "image/png")}`),
  );
  const type = request.body.outputFormat ? `image/${request.body.outputFormat}` : request.outputType;
  return { references, output: unique(`image.${extensionOf(type ?? "image/jpeg")}`) };
}

/**
 * Return the sentences that stand above a snippet, without quotation marks, which a shell might read.
 *
 * @param {CodeRequest} request
 * @param {string} grounding where the answer has the sources of a grounded image
 * @returns {string[]}
 */
export function notesOf(request, grounding) {
  const notes = [];
  if (request.keyNeeded) notes.push(`Replace ${PLACEHOLDER} with your key.`);
  if (request.references.length) notes.push("Run this in the folder of the reference images.");
  if (request.body.googleSearch || request.body.imageSearch) {
    notes.push(`Google obliges you to show its search suggestions and sources: ${grounding}.`);
  }
  return notes;
}

/** @param {string} type */
function extensionOf(type) {
  const format = type.split("/")[1]?.replace(/[^a-z0-9]/g, "") || "jpeg";
  return format === "jpeg" || format === "jpg" ? "jpg" : format;
}
