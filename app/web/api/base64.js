/** Base64 to a blob, in slices, so that an image of many megabytes does not freeze the page. */

const SLICE = 512 * 1024; // characters; a multiple of four, which is three bytes

/**
 * @param {string} base64
 * @param {string} type the media type of the blob
 * @returns {Promise<Blob>}
 */
export async function toBlob(base64, type) {
  /** @type {BlobPart[]} */
  const parts = [];
  for (let start = 0; start < base64.length; start += SLICE) {
    const binary = atob(base64.slice(start, start + SLICE));
    const bytes = new Uint8Array(binary.length);
    for (let place = 0; place < binary.length; place += 1) bytes[place] = binary.charCodeAt(place);
    parts.push(bytes);
    await new Promise((resolve) => setTimeout(resolve));
  }
  return new Blob(parts, { type });
}
