/** A small picture of a file, drawn once, so that the page does not hold large ones. */

import { element } from "../dom.js";
import { typeName } from "../format.js";

const SIDE = 160;

/**
 * @param {Blob} file
 * @param {string} type
 * @returns {Element} filled as soon as the picture is decoded; the name of the type if this browser cannot decode it
 */
export function thumbnail(file, type) {
  const canvas = element("canvas", { class: "thumbnail", "aria-hidden": "true", width: SIDE, height: SIDE });
  const holder = element("span", { class: "thumbnail-holder" }, canvas);
  draw(file, canvas).catch(() => canvas.replaceWith(typeName(type)));
  return holder;
}

/**
 * @param {Blob} file
 * @param {HTMLCanvasElement} canvas
 */
async function draw(file, canvas) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.max(SIDE / bitmap.width, SIDE / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  canvas.getContext("2d")?.drawImage(bitmap, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  bitmap.close();
}
