/** The reference images of the next request: their order, roles and names. */

import { element, find } from "../dom.js";
import { inspect, Unusable } from "./inspect.js";
import { thumbnail } from "./thumbnail.js";

/** @import { Limits, Model, Reference, Role } from "../types.js" */

/** @typedef {Reference & {thumbnail: Element}} Entry */

const DRAGGED = "application/x-reference";

export class ReferenceList {
  /** Called after each change. */
  onChange = () => {};
  /** @type {Entry[]} */
  #entries = [];
  #list = find("references", HTMLElement);

  /** @param {Limits} limits */
  constructor(limits) {
    this.limits = limits;
  }

  /** @returns {Reference[]} */
  get all() {
    return this.#entries.map(({ file, fileName, role, name, type }) => ({ file, fileName, role, name, type }));
  }

  /**
   * Add files.
   *
   * @param {Iterable<File>} files
   * @param {Model} model
   * @returns {Promise<string[]>} a sentence for each file that cannot be used
   */
  async add(files, model) {
    const refused = [];
    for (const file of files) {
      try {
        this.#requireRoom(file, model);
        const type = await inspect(file, this.limits);
        this.#entries.push({ file, fileName: file.name, role: "", name: "", type, thumbnail: thumbnail(file, type) });
      } catch (error) {
        if (!(error instanceof Unusable)) throw error;
        refused.push(`${file.name || "The image"} cannot be used: ${error.message}.`);
      }
    }
    this.#render();
    return refused;
  }

  clear() {
    this.#entries = [];
    this.#render();
  }

  /** @param {Reference[]} sent what the next request does not send again */
  remove(sent) {
    const files = new Set(sent.map(({ file }) => file));
    this.#entries = this.#entries.filter(({ file }) => !files.has(file));
    this.#render();
  }

  /**
   * @param {Model} model
   * @returns {string} a sentence on too many references for the model; empty if it takes them
   */
  problem(model) {
    const { max, byRole } = model.references;
    if (max !== null && this.#entries.length > max) return `${model.name} takes ${max} references at most.`;
    for (const [role, count] of Object.entries(this.#counted())) {
      const most = byRole?.[role] ?? 0;
      if (byRole && count > most) return `${model.name} takes ${most} references with the role ${role} at most.`;
    }
    return "";
  }

  /** @returns {Record<string, number>} the references of each role; images of one character count once */
  #counted() {
    /** @type {Record<string, number>} */
    const counts = {};
    const characters = new Set();
    for (const { role, name } of this.#entries) {
      if (!role || (role === "character" && characters.has(name))) continue;
      if (role === "character" && name) characters.add(name);
      counts[role] = (counts[role] ?? 0) + 1;
    }
    return counts;
  }

  /**
   * @param {File} file
   * @param {Model} model
   */
  #requireRoom(file, model) {
    const { max } = model.references;
    if (max !== null && this.#entries.length >= max) throw new Unusable(`${model.name} takes ${max} references at most`);
    const sum = this.#entries.reduce((total, entry) => total + entry.file.size, file.size);
    if (sum > this.limits.referencesBytes) throw new Unusable("all references together are too large");
  }

  #render() {
    this.#list.replaceChildren(...this.#entries.map((entry, place) => this.#item(entry, place)));
    this.onChange();
  }

  /**
   * @param {Entry} entry
   * @param {number} place
   */
  #item(entry, place) {
    const number = place + 1;
    const group = element(
      "div",
      {
        class: "reference",
        role: "group",
        "aria-label": `Reference ${number}`,
        draggable: "true",
        dragstart: (/** @type {DragEvent} */ event) => event.dataTransfer?.setData(DRAGGED, String(place)),
        drop: (/** @type {DragEvent} */ event) => this.#dropped(event, place),
      },
      entry.thumbnail,
      element("span", { class: "reference-file" }, entry.fileName),
      this.#roleField(entry),
      this.#nameField(entry),
      element(
        "span",
        { class: "reference-buttons" },
        this.#button("Move earlier", "↑", place === 0, () => this.#move(place, place - 1)),
        this.#button("Move later", "↓", number === this.#entries.length, () => this.#move(place, place + 1)),
        this.#button("Remove", "×", false, () => this.#remove(place)),
      ),
    );
    return element("li", {}, group);
  }

  /** @param {Entry} entry */
  #roleField(entry) {
    const roles = ["character", "object", "style"].map((role) => new Option(role, role));
    const select = element("select", {
      "aria-label": "Role",
      change: () => {
        entry.role = /** @type {Role} */ (select.value);
        this.onChange();
      },
    });
    select.append(new Option("no role", ""), ...roles);
    select.value = entry.role;
    return select;
  }

  /** @param {Entry} entry */
  #nameField(entry) {
    const input = element("input", {
      type: "text",
      "aria-label": "Name",
      placeholder: "Name",
      maxlength: 100,
      value: entry.name,
      input: () => {
        entry.name = input.value.trim();
        this.onChange();
      },
    });
    return input;
  }

  /**
   * @param {string} label
   * @param {string} sign
   * @param {boolean} disabled
   * @param {() => void} click
   */
  #button(label, sign, disabled, click) {
    return element("button", { type: "button", class: "icon", "aria-label": label, title: label, disabled, click }, sign);
  }

  /**
   * @param {number} from
   * @param {number} to
   */
  #move(from, to) {
    const focused = document.activeElement?.getAttribute("aria-label") ?? "";
    const [entry] = this.#entries.splice(from, 1);
    if (entry) this.#entries.splice(to, 0, entry);
    this.#render();
    this.#focus(to, focused);
  }

  /** @param {number} place */
  #remove(place) {
    this.#entries.splice(place, 1);
    this.#render();
    if (this.#entries.length) this.#focus(Math.min(place, this.#entries.length - 1), "Remove");
    else find("add-references", HTMLElement).focus();
  }

  /**
   * Focus a button of an item that has been drawn again; another one if it is disabled now.
   *
   * @param {number} place
   * @param {string} label
   */
  #focus(place, label) {
    const buttons = [...(this.#list.children[place]?.querySelectorAll("button") ?? [])].filter((one) => !one.disabled);
    (buttons.find((one) => one.getAttribute("aria-label") === label) ?? buttons[0])?.focus();
  }

  /**
   * @param {DragEvent} event
   * @param {number} place
   */
  #dropped(event, place) {
    const from = event.dataTransfer?.getData(DRAGGED);
    if (!from) return;
    event.preventDefault();
    event.stopPropagation();
    this.#move(Number(from), place);
  }
}
