/** How numbers are written on the page. */

/**
 * @param {number} amount in US dollars
 * @returns {string} with two to four decimals, for example `$0.134`
 */
export function dollars(amount) {
  const digits = amount.toFixed(4).replace(/0{1,2}$/, "");
  return `$${digits}`;
}

/**
 * @param {number} count
 * @returns {string} for example `1.4 MB`
 */
export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  if (count < 1_000_000) return `${Math.round(count / 1000)} kB`;
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

/**
 * @param {number} seconds
 * @returns {string} for example `1:04`, or `9 s` below a minute
 */
export function duration(seconds) {
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** @type {Record<string, string>} */
const TYPE_NAMES = { "image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WebP", "image/heic": "HEIC" };

/**
 * @param {string} mimeType
 * @returns {string} for example `JPEG`
 */
export function typeName(mimeType) {
  return TYPE_NAMES[mimeType] ?? mimeType;
}

/**
 * @param {string} mimeType
 * @returns {string} a file name without a folder
 */
export function fileName(mimeType) {
  const extension = mimeType === "image/jpeg" ? "jpg" : mimeType.replace("image/", "");
  return `image.${extension.replace(/[^a-z0-9]/g, "")}`;
}

/**
 * @param {string} time in ISO 8601
 * @returns {string}
 */
export function dateTime(time) {
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}
