/**
 * Values as source code. A text never ends its own quotation, whatever it contains.
 *
 * @typedef {string | number | boolean | null | Value[] | {[name: string]: Value}} Value JSON
 *
 * @typedef {Object} Dialect
 * @property {string} yes
 * @property {string} no
 * @property {string} nothing
 * @property {(name: string) => string} key
 */

/** @type {Dialect} */
const JSON_DIALECT = { yes: "true", no: "false", nothing: "null", key: text };
/** @type {Dialect} */
const PYTHON = { yes: "True", no: "False", nothing: "None", key: text };
/** @type {Dialect} */
const JAVASCRIPT = { ...JSON_DIALECT, key: (name) => (/^[A-Za-z]\w*$/.test(name) ? name : text(name)) };

/** Characters that a screen does not show, or that change the direction of what it shows. */
const INVISIBLE = /[\u007f-\u009f\u00ad\u061c\u200b-\u200c\u200e-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/**
 * Return a text in double quotation marks. JSON, JavaScript and Python read it in the same way.
 *
 * @param {string} value
 */
export function text(value) {
  return JSON.stringify(value).replace(INVISIBLE, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** @param {Value} value */
export const json = (value) => literal(value, JSON_DIALECT);

/** @param {Value} value */
export const python = (value) => literal(value, PYTHON);

/** @param {Value} value */
export const javascript = (value) => literal(value, JAVASCRIPT);

/**
 * Return a word of a command line of a POSIX shell.
 *
 * @param {string} value
 */
export function shell(value) {
  return /^[\w@%+:,./=-]+$/.test(value) ? value : `'${value.replaceAll("'", String.raw`'\''`)}'`;
}

/**
 * @param {Value} value
 * @param {Dialect} dialect
 * @returns {string}
 */
function literal(value, dialect) {
  if (typeof value === "string") return text(value);
  if (typeof value === "boolean") return value ? dialect.yes : dialect.no;
  if (value === null) return dialect.nothing;
  if (typeof value === "number") return String(value);
  if (Array.isArray(value)) return `[${value.map((item) => literal(item, dialect)).join(", ")}]`;
  const members = Object.entries(value).map(([name, item]) => `${dialect.key(name)}: ${literal(item, dialect)}`);
  return `{${members.join(", ")}}`;
}
