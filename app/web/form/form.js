/** The form: what the chosen model can do, what the user has chosen, and the request that follows from both. */

import { find } from "../dom.js";
import { typeName } from "../format.js";
import { offeredModels } from "./offered.js";
import { RadioGroup } from "./radios.js";
import { ratioShape, sameShape, sizeShape } from "./shapes.js";

/** @import { Model, Models, RequestBody } from "../types.js" */

const SAME = "same";

export class RequestForm {
  /** Called after each change. */
  onChange = () => {};
  #prompt = find("prompt", HTMLTextAreaElement);
  #googleSearch = find("google-search", HTMLInputElement);
  #imageSearch = find("image-search", HTMLInputElement);
  #thoughts = find("thoughts", HTMLInputElement);
  #drafts = find("drafts", HTMLInputElement);
  #thinking = find("thinking", HTMLSelectElement);
  #format = find("format", HTMLSelectElement);
  #models = new RadioGroup(find("models", HTMLElement), "model", (id) => this.#choose("model", id));
  #ratios = new RadioGroup(find("ratios", HTMLElement), "ratio", (ratio) => this.#choose("ratio", ratio));
  #sizes = new RadioGroup(find("sizes", HTMLElement), "size", (size) => this.#choose("size", size));
  /** What the user has chosen; empty where the default applies. */
  #chosen = { model: "", ratio: "", size: "" };
  #hasPictures = false;

  /** @param {Models} models */
  constructor(models) {
    this.default = models.default;
    this.offered = offeredModels(models);
    this.#showModels();
    const changed = () => this.onChange();
    for (const field of [this.#googleSearch, this.#imageSearch, this.#thoughts, this.#drafts]) {
      field.addEventListener("change", changed);
    }
    for (const field of [this.#thinking, this.#format]) field.addEventListener("change", changed);
    this.#prompt.addEventListener("input", changed);
    this.#offer();
  }

  /** @returns {Model} */
  get model() {
    const id = this.#chosen.model || this.default;
    return /** @type {Model} */ (this.offered.find((model) => model.id === id));
  }

  /**
   * Choose a model, if it is offered.
   *
   * @param {string} id
   */
  choose(id) {
    if (!this.offered.some((model) => model.id === id)) return;
    this.#chosen.model = id;
    this.#showModels();
    this.#offer();
    this.onChange();
  }

  /**
   * @param {string} id
   * @returns {string} the name of a model
   */
  nameOf(id) {
    return this.offered.find((model) => model.id === id)?.name ?? id;
  }

  get prompt() {
    return this.#prompt.value;
  }

  set prompt(text) {
    this.#prompt.value = text;
    this.onChange();
  }

  /** @param {string} example shown while the prompt is empty */
  set example(example) {
    this.#prompt.placeholder = example;
  }

  get example() {
    return this.#prompt.placeholder;
  }

  focusPrompt() {
    this.#prompt.focus();
  }

  /** @returns {string} the ratio of the next picture; empty if it is that of another picture */
  get ratio() {
    const own = this.model.aspectRatios.includes(this.#chosen.ratio) ? this.#chosen.ratio : "";
    return own || (this.#hasPictures ? "" : (this.model.defaultAspectRatio ?? ""));
  }

  /** @returns {string} the size of the next picture; empty if the model has no sizes */
  get size() {
    const own = this.model.imageSizes.includes(this.#chosen.size) ? this.#chosen.size : "";
    return own || (this.model.defaultImageSize ?? "");
  }

  get googleSearch() {
    return this.model.googleSearch && this.#googleSearch.checked;
  }

  get imageSearch() {
    return this.model.imageSearch && this.#imageSearch.checked;
  }

  /**
   * Tell the form whether the request has pictures. Then their ratio is the default.
   *
   * @param {boolean} hasPictures
   */
  set hasPictures(hasPictures) {
    if (hasPictures === this.#hasPictures) return;
    this.#hasPictures = hasPictures;
    this.#offer();
  }

  /** @returns {RequestBody} with the fields that differ from the API's defaults */
  body() {
    const { model } = this;
    const ratio = this.model.aspectRatios.includes(this.#chosen.ratio) ? this.#chosen.ratio : "";
    const isDefaultRatio = !this.#hasPictures && ratio === model.defaultAspectRatio;
    const level = model.thinkingLevels.includes(this.#thinking.value) ? this.#thinking.value : "";
    return {
      prompt: this.prompt,
      ...(model.id !== this.default && { model: model.id }),
      ...(ratio && !isDefaultRatio && { aspectRatio: ratio }),
      ...(this.size && this.size !== model.defaultImageSize && { imageSize: this.size }),
      ...(this.googleSearch && { googleSearch: true }),
      ...(this.imageSearch && { imageSearch: true }),
      ...(level && { thinkingLevel: level }),
      ...(model.includeThoughts && this.#thoughts.checked && { includeThoughts: true }),
      ...(this.#drafts.checked && { includeDrafts: true }),
      ...(this.#format.value && { outputFormat: this.#format.value }),
    };
  }

  /** @returns {RequestBody} for a chat, which may have other defaults than the API */
  turnBody() {
    const { model, size } = this;
    const level = model.defaultThinkingLevel;
    return {
      model: model.id,
      ...(size && { imageSize: size }),
      googleSearch: this.googleSearch,
      imageSearch: this.imageSearch,
      ...(level && { thinkingLevel: level }),
      ...this.body(),
    };
  }

  #showModels() {
    const choices = this.offered.map(({ id, name }) => ({ value: id, label: name, detail: name === id ? "" : id }));
    this.#models.show(choices, this.model.id);
  }

  /**
   * @param {"model" | "ratio" | "size"} what
   * @param {string} value
   */
  #choose(what, value) {
    this.#chosen[what] = value === SAME ? "" : value;
    if (what === "model") this.#offer();
    this.onChange();
  }

  /** Offer what the model has. */
  #offer() {
    const { model } = this;
    const ratios = model.aspectRatios.map((ratio) => ({ value: ratio, label: ratio, picture: ratioShape(ratio) }));
    const same = { value: SAME, label: "Same", picture: sameShape() };
    this.#ratios.show(this.#hasPictures ? [same, ...ratios] : ratios, this.ratio || SAME);
    const sizes = model.imageSizes.map((size, place) => ({ value: size, label: size, picture: sizeShape(place) }));
    this.#sizes.show(sizes, this.size);
    find("ratio-field", HTMLElement).hidden = ratios.length === 0;
    find("size-field", HTMLElement).hidden = sizes.length < 2;
    find("google-search-field", HTMLElement).hidden = !model.googleSearch;
    find("image-search-field", HTMLElement).hidden = !model.imageSearch;
    find("search-field", HTMLElement).hidden = !model.googleSearch && !model.imageSearch;
    find("thoughts-field", HTMLElement).hidden = !model.includeThoughts;
    find("thinking-field", HTMLElement).hidden = model.thinkingLevels.length === 0;
    const level = this.#thinking.value;
    const levels = model.thinkingLevels.map((one) => new Option(one, one));
    this.#thinking.replaceChildren(new Option(`default (${model.defaultThinkingLevel ?? "the model’s"})`, ""), ...levels);
    this.#thinking.value = model.thinkingLevels.includes(level) ? level : "";
    const own = model.outputType ? ` (${typeName(model.outputType)})` : "";
    /** @type {HTMLOptionElement} */ (this.#format.options[0]).textContent = `as Gemini makes it${own}`;
  }
}
