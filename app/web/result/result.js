/** A finished picture, and everything that is known about it. */

import { blobImage, clear, element, find } from "../dom.js";
import { bytes, dollars, fileName, typeName } from "../format.js";
import { showGrounding } from "./grounding.js";

/** @import { Picture } from "../types.js" */

export class Result {
  /** @type {Picture | null} */
  picture = null;
  #region = find("result", HTMLElement);
  #image = find("result-image", HTMLElement);
  #download = find("download-holder", HTMLElement);

  /** @param {Picture} picture */
  show(picture) {
    this.picture = picture;
    clear(this.#image);
    clear(this.#download);
    const { width, height, blob } = picture;
    const image = blobImage(blob, { alt: picture.prompt, width, height, class: "picture" });
    this.#image.append(image);
    this.#download.append(downloadButton(picture));
    showFacts(picture);
    showTexts("warning-field", "warnings", picture.warnings);
    showTexts("words-field", "words", picture.text ? [picture.text] : []);
    showGrounding(picture.grounding);
    this.#region.hidden = false;
    find("frame", HTMLElement).hidden = true;
  }

  /** Show no picture: the next one is being made, or there is none. */
  hide() {
    this.picture = null;
    this.#region.hidden = true;
    clear(this.#image);
    clear(this.#download);
    find("frame", HTMLElement).hidden = false;
  }
}

/**
 * A real button: it makes its object URL when it is pressed, and frees it.
 *
 * @param {Picture} picture
 * @returns {HTMLButtonElement}
 */
export function downloadButton({ blob, mimeType }) {
  const download = () => {
    const address = URL.createObjectURL(blob);
    element("a", { href: address, download: fileName(mimeType) }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  };
  return element("button", { type: "button", click: download }, "Download");
}

/** @param {Picture} picture */
function showFacts({ width, height, mimeType, blob, usage, model }) {
  const cost = usage?.estimatedCostUsd;
  const costField = find("cost", HTMLElement);
  costField.hidden = !usage;
  costField.textContent = cost == null ? "price unknown" : dollars(cost);
  const facts = [
    `${width} × ${height} pixels`,
    `${typeName(mimeType)}, ${bytes(blob.size)}`,
    ...(usage ? [`${usage.totalTokens.toLocaleString("en")} tokens`] : []),
    ...(model ? [model] : []),
  ];
  find("facts", HTMLElement).replaceChildren(...facts.map((fact) => element("li", {}, fact)));
}

/**
 * Show paragraphs, or hide the field if there are none.
 *
 * @param {string} field
 * @param {string} list
 * @param {string[]} texts
 */
function showTexts(field, list, texts) {
  find(field, HTMLElement).hidden = texts.length === 0;
  find(list, HTMLElement).replaceChildren(...texts.map((text) => element("p", {}, text)));
}
