/** The last pictures of this tab. The service does not keep them; they are gone when the tab is closed. */

import { element, find } from "../dom.js";
import { thumbnail } from "../references/thumbnail.js";

/** @import { Picture } from "../types.js" */

const MOST = 12;

export class EarlierPictures {
  /** @type {(picture: Picture) => void} Called when the user wants to see a picture again. */
  onShow = () => {};
  #list = find("earlier-list", HTMLElement);

  /** @param {Picture} picture */
  add(picture) {
    const { blob, mimeType, prompt } = picture;
    const button = element(
      "button",
      { type: "button", class: "earlier", "aria-label": `Show again: ${prompt}`, title: prompt, click: () => this.onShow(picture) },
      thumbnail(blob, mimeType),
    );
    this.#list.prepend(element("li", {}, button));
    while (this.#list.childElementCount > MOST) this.#list.lastElementChild?.remove();
    find("earlier", HTMLElement).hidden = this.#list.childElementCount < 2;
  }
}
