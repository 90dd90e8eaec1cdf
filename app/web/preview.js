/** Small pictures that are loaded from the service. */

import { blobImage, clear, element } from "./dom.js";

/**
 * Put a picture into an element as soon as it is there.
 *
 * @param {HTMLElement} holder
 * @param {Promise<Blob>} loading
 * @param {string} alt
 */
export async function fill(holder, loading, alt) {
  try {
    const blob = await loading;
    if (!holder.isConnected) return;
    clear(holder);
    holder.append(blobImage(blob, { alt }));
  } catch {
    holder.replaceChildren(element("span", { class: "missing" }, "not available"));
  }
}
