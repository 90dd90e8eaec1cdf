/** A group of radio buttons that look like tiles. The browser's own radios are inside, so the keyboard works. */

import { element } from "../dom.js";

/** @typedef {{value: string, label: string, detail?: string, picture?: Element}} Choice */

export class RadioGroup {
  /** @type {Choice[]} */
  #choices = [];

  /**
   * @param {HTMLElement} container with the role `radiogroup`
   * @param {string} name of the radios; unique on the page
   * @param {(value: string) => void} onChange called when the user chooses
   */
  constructor(container, name, onChange) {
    this.container = container;
    this.name = name;
    this.onChange = onChange;
  }

  /**
   * Offer other choices.
   *
   * @param {Choice[]} choices
   * @param {string} chosen the value of one of them
   */
  show(choices, chosen) {
    const focused = this.container.contains(document.activeElement);
    this.#choices = choices;
    this.container.replaceChildren(...choices.map((choice) => this.#tile(choice, choice.value === chosen)));
    if (focused) /** @type {HTMLElement | null} */ (this.container.querySelector("input:checked"))?.focus();
  }

  /** @param {string} value */
  has(value) {
    return this.#choices.some((choice) => choice.value === value);
  }

  /**
   * @param {Choice} choice
   * @param {boolean} checked
   */
  #tile({ value, label, detail, picture }, checked) {
    const radio = element("input", {
      type: "radio",
      name: this.name,
      value,
      checked,
      change: () => this.onChange(value),
    });
    return element(
      "label",
      { class: "tile" },
      radio,
      picture ?? null,
      element("span", { class: "tile-label" }, label),
      detail ? element("span", { class: "tile-detail" }, ` ${detail}`) : null,
    );
  }
}
