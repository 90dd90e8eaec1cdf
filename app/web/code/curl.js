import { json, shell } from "./literals.js";
import { fieldsOf, filesOf, notesOf, PLACEHOLDER } from "./request.js";

/** @typedef {import("./request.js").CodeRequest} CodeRequest */

/** Linux passes at most 128 KiB in one argument of a program. Longer texts are written to its input. */
const MAX_ARGUMENT_BYTES = 100_000;

/**
 * Return a command for a POSIX shell.
 *
 * @param {CodeRequest} request
 * @returns {string}
 */
export function curl(request) {
  const files = filesOf(request);
  const form = request.references.length > 0;
  const { input, words } = form ? formWords(request, files.references) : jsonWords(request);
  const command = [
    `curl --fail-with-body ${shell(`${request.origin}/generate-image${form ? "/with-references" : ""}`)}`,
    ...(request.keyNeeded ? [`-H 'Authorization: Bearer ${PLACEHOLDER}'`] : []),
    `-H 'Accept: image/*' -o ${files.output}`,
    ...words,
  ].join(" \\\n  ");
  const notes = notesOf(request, "ask for Accept: application/json").map((note) => `# ${note}\n`);
  return `${notes.join("")}${input === null ? "" : `printf %s ${shell(input)} |\n`}${command}\n`;
}

/** @param {CodeRequest} request */
function jsonWords(request) {
  const body = json(Object.fromEntries(fieldsOf(request)));
  const long = isLong(body);
  const words = ["-H 'Content-Type: application/json'", `-d ${long ? "@-" : shell(body)}`];
  return { input: long ? body : null, words };
}

/**
 * @param {CodeRequest} request
 * @param {string[]} files
 */
function formWords(request, files) {
  /** @type {string | null} */
  let input = null;
  const words = [];
  for (const [name, value] of fieldsOf(request)) {
    const written = typeof value === "string" ? value : json(value);
    if (isLong(written) && input === null) {
      input = written;
      words.push(`-F '${name}=<-'`);
    } else {
      words.push(field(name, written));
    }
  }
  const labelled = request.references.some(({ role, name }) => role || name);
  request.references.forEach(({ role, name }, index) => {
    const labels = labelled ? [field("roles", role ?? ""), field("names", name ?? "")] : [];
    words.push([`-F ${shell(`images=@${fileWord(files[index])}`)}`, ...labels].join(" "));
  });
  return { input, words };
}

/**
 * Return the option for a field of a form. Unlike `-F` it reads no file if the value begins with `@` or `<`.
 *
 * @param {string} name
 * @param {string} value
 */
function field(name, value) {
  return `--form-string ${shell(`${name}=${value}`)}`;
}

/**
 * Return a file name as curl's option `-F` takes it.
 *
 * @param {string} name
 */
function fileWord(name) {
  const path = name === "-" ? "./-" : name;
  return /^[\w.+/-]+$/.test(path) ? path : `"${path.replace(/["\\]/g, String.raw`\$&`)}"`;
}

/** @param {string} value */
function isLong(value) {
  return new TextEncoder().encode(shell(value)).length > MAX_ARGUMENT_BYTES;
}
