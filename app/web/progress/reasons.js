/** Why the service asks Gemini again, in words. */

/** @type {Record<string, string>} */
const REASONS = {
  upstream_busy: "Gemini had no capacity",
  quota_exhausted: "Gemini’s quota was used up for the moment",
  upstream_error: "Gemini failed",
  upstream_timeout: "Gemini took too long",
  upstream_invalid_response: "Gemini’s answer could not be read",
  no_image: "Gemini sent no picture",
};

/**
 * @param {string} code of a problem
 * @returns {string}
 */
export function reasonInWords(code) {
  return REASONS[code] ?? `Gemini failed (${code.replaceAll("_", " ")})`;
}
