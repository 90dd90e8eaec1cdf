/** Two pictures of a chat in one place; a slider moves the border between them. */

import { clear, element, find } from "../dom.js";
import { fill } from "../preview.js";

/** @import { ChatSession } from "./session.js" */

const PREVIEW_WIDTH = 1280;

export class Comparison {
  #section = find("compare", HTMLElement);
  #slider = find("compare-slider", HTMLInputElement);
  #before = find("compare-before", HTMLSelectElement);
  #after = find("compare-after", HTMLSelectElement);
  /** @type {ChatSession | null} */
  #session = null;

  constructor() {
    this.#slider.addEventListener("input", () => this.#place());
    for (const select of [this.#before, this.#after]) select.addEventListener("change", () => this.#load());
  }

  /** @param {ChatSession} session */
  show(session) {
    this.#session = session;
    const options = session.turns.filter((turn) => turn.image).map(({ turn }) => ({ turn, label: `Turn ${turn}` }));
    if (session.hasStart) options.unshift({ turn: 0, label: "Start" });
    this.#section.hidden = options.length < 2;
    if (options.length < 2) return;
    for (const [select, fromEnd] of /** @type {const} */ ([[this.#before, 2], [this.#after, 1]])) {
      select.replaceChildren(...options.map(({ turn, label }) => new Option(label, String(turn))));
      select.value = String(options[options.length - fromEnd]?.turn);
    }
    this.#load();
  }

  #load() {
    const session = this.#session;
    if (!session) return;
    for (const [id, select] of /** @type {const} */ ([["before", this.#before], ["after", this.#after]])) {
      const place = find(`compare-${id}-image`, HTMLElement);
      clear(place);
      const holder = element("div", { class: "compare-picture" }); // a late picture of another turn finds its own one gone
      place.append(holder);
      const label = select.selectedOptions[0]?.textContent ?? "";
      fill(holder, session.preview(Number(select.value), PREVIEW_WIDTH), `${id === "before" ? "Before" : "After"}: ${label}`);
    }
    const { width, height } = session.size(Number(this.#before.value));
    this.#section.style.setProperty("--ratio", String(width / height));
    this.#place();
  }

  #place() {
    const percent = Number(this.#slider.value);
    find("compare-after-image", HTMLElement).style.clipPath = `inset(0 0 0 ${percent}%)`;
    find("compare-line", HTMLElement).style.left = `${percent}%`;
    this.#slider.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
  }
}
