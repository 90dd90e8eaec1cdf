/** "Show me the code": the request on the screen in five languages, as tabs. */

import { snippets } from "../code/snippets.js";
import { element, find } from "../dom.js";

/** @import { CodeRequest } from "../code/request.js" */
/** @import { Snippets } from "../code/snippets.js" */

/** @type {[keyof Snippets, string][]} */
const LANGUAGES = [
  ["curl", "curl"],
  ["python", "Python"],
  ["javascript", "JavaScript"],
  ["openaiPython", "OpenAI Python"],
  ["openaiJavascript", "OpenAI JavaScript"],
];

export class CodePanel {
  #tabs = find("code-tabs", HTMLElement);
  #code = find("code-text", HTMLElement);
  #panel = find("code-panel", HTMLElement);
  #copied = find("copied", HTMLElement);
  /** @type {keyof Snippets} */
  #language = "curl";
  /** @type {Snippets | null} */
  #snippets = null;

  constructor() {
    this.#tabs.append(...LANGUAGES.map(([language, label]) => this.#tab(language, label)));
    this.#tabs.addEventListener("keydown", (event) => this.#onKey(event));
    find("copy", HTMLButtonElement).addEventListener("click", () => this.#copy());
    this.#choose("curl");
  }

  /** @param {CodeRequest} request */
  show(request) {
    this.#snippets = snippets(request);
    this.#render();
  }

  /**
   * @param {keyof Snippets} language
   * @param {string} label
   */
  #tab(language, label) {
    return element(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${language}`,
        "data-language": language,
        "aria-controls": "code-panel",
        click: () => this.#choose(language),
      },
      label,
    );
  }

  /** @param {keyof Snippets} language */
  #choose(language) {
    this.#language = language;
    for (const tab of this.#tabs.children) {
      const isChosen = tab.id === `tab-${language}`;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.setAttribute("tabindex", isChosen ? "0" : "-1");
    }
    this.#panel.setAttribute("aria-labelledby", `tab-${language}`);
    this.#render();
  }

  #render() {
    this.#code.textContent = this.#snippets?.[this.#language] ?? "";
    this.#copied.textContent = "";
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const place = LANGUAGES.findIndex(([language]) => language === this.#language);
    const last = LANGUAGES.length - 1;
    /** @type {Record<string, number>} */
    const targets = {
      ArrowRight: place === last ? 0 : place + 1,
      ArrowLeft: place === 0 ? last : place - 1,
      Home: 0,
      End: last,
    };
    const target = LANGUAGES[targets[event.key] ?? -1];
    if (!target) return;
    event.preventDefault();
    this.#choose(target[0]);
    find(`tab-${target[0]}`, HTMLButtonElement).focus();
  }

  async #copy() {
    const text = this.#code.textContent ?? "";
    const isCopied = await copyText(text, this.#code);
    this.#copied.textContent = isCopied ? "Copied." : "The browser does not allow it. The code is selected: press Ctrl+C.";
  }
}

/**
 * @param {string} text
 * @param {HTMLElement} source the element that shows the text
 * @returns {Promise<boolean>} false if the text is only selected: browsers forbid copying on pages without TLS
 */
async function copyText(text, source) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection()?.selectAllChildren(source);
    return false;
  }
}
