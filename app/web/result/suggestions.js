/**
 * Google's search suggestions, unchanged, in a frame. The frame is a document of this service with a policy of its own,
 * which allows Google's styles and no scripts but one. It has no origin, so it can reach nothing of this page.
 */

import { element, find } from "../dom.js";

const MOST_PIXELS = 600;

/** Loaded with the first suggestions, and used again for the next ones. */
class SuggestionsFrame {
  #html = "";
  #isLoaded = false;
  #frame = element("iframe", {
    title: "Google Search suggestions",
    sandbox: "allow-scripts allow-popups allow-popups-to-escape-sandbox",
    src: new URL("web/suggestions/frame.html", document.baseURI).href,
    load: () => this.#fill(),
  });

  /** @param {HTMLElement} holder */
  constructor(holder) {
    holder.append(this.#frame);
    addEventListener("message", ({ source, data }) => {
      if (source !== this.#frame.contentWindow || !(data?.height > 0)) return; // while it is hidden it has no height
      this.#frame.style.height = `${Math.min(data.height, MOST_PIXELS)}px`;
    });
  }

  /** @param {string} html */
  show(html) {
    this.#html = html;
    if (this.#isLoaded) this.#fill();
  }

  #fill() {
    this.#isLoaded = true;
    this.#frame.contentWindow?.postMessage({ html: this.#html }, "*"); // the frame has no origin that could be named
  }
}

/** @type {SuggestionsFrame | null} */
let frame = null;

/** @param {string} html as Google sent it; empty if there is none */
export function showSuggestions(html) {
  const holder = find("suggestions", HTMLElement);
  holder.hidden = !html;
  if (html) frame ??= new SuggestionsFrame(holder);
  frame?.show(html);
}
