/** What went wrong, as sentences. */

import { Problem } from "./api/client.js";
import { element, find } from "./dom.js";
import { dollars } from "./format.js";

/** In US dollars. A refused prompt of a few tokens costs less. */
const LEAST_COST = 0.0001;

export class ErrorMessage {
  #region = find("error", HTMLElement);

  clear() {
    this.#region.replaceChildren();
  }

  /**
   * Show a problem: the service's sentence, Gemini's own words, and what it cost.
   *
   * @param {Error} error
   */
  show(error) {
    /** @type {HTMLElement[]} */
    const lines = [element("p", {}, error.message)];
    if (error instanceof Problem) {
      if (error.text) lines.push(element("blockquote", {}, error.text));
      const cost = error.usage?.estimatedCostUsd;
      if (cost && cost >= LEAST_COST) lines.push(element("p", { class: "hint" }, `It cost ${dollars(cost)}.`));
    }
    this.#show(lines);
  }

  /** @param {string[]} sentences */
  say(sentences) {
    this.#show(sentences.map((sentence) => element("p", {}, sentence)));
  }

  /** @param {HTMLElement[]} lines */
  #show(lines) {
    this.#region.replaceChildren(...lines);
    this.#region.scrollIntoView({ block: "nearest" });
  }
}
