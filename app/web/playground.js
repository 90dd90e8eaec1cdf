/** Making pictures and changing them: the form, the request, and what is shown of it. */

import { generateImage } from "./api/images.js";
import { Problem } from "./api/client.js";
import { ChatView } from "./chat/view.js";
import { find } from "./dom.js";
import { EarlierPictures } from "./earlier/earlier.js";
import { dollars, duration } from "./format.js";
import { showEstimate } from "./form/estimate.js";
import { RequestForm } from "./form/form.js";
import { CodePanel } from "./panel/code-panel.js";
import { Progress } from "./progress/progress.js";
import { takeFiles } from "./references/intake.js";
import { ReferenceList } from "./references/list.js";
import { Result } from "./result/result.js";

/** @import { Client } from "./api/client.js" */
/** @import { ErrorMessage } from "./error.js" */
/** @import { Models, Picture } from "./types.js" */

export class Playground {
  /** Called when a request for a picture is over. */
  onDone = () => {};
  #generate = find("generate", HTMLButtonElement);
  #cancel = find("cancel", HTMLButtonElement);
  #code = new CodePanel();
  #earlier = new EarlierPictures();
  #progress = new Progress();
  #result = new Result();
  /** @type {AbortController | null} */
  #running = null;

  /**
   * @param {Client} client
   * @param {Models} models
   * @param {ErrorMessage} error
   */
  constructor(client, models, error) {
    this.client = client;
    this.error = error;
    this.form = new RequestForm(models);
    this.references = new ReferenceList(models.limits);
    this.chat = new ChatView(client, this.form, this.#result, this.references);
  }

  start() {
    this.form.onChange = () => this.#update();
    this.references.onChange = () => this.#update();
    this.chat.onChange = () => this.#update();
    this.chat.onOther = () => this.#progress.clear();
    this.chat.onError = (problem) => this.error.show(problem);
    this.chat.onSay = (sentence) => this.#progress.say(sentence);
    this.#earlier.onShow = (picture) => this.chat.showInstead(picture);
    takeFiles((files) => this.#add(files));
    find("request", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#running) this.#run();
    });
    find("prompt", HTMLElement).addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.#running) this.#run();
    });
    this.#cancel.addEventListener("click", () => this.#running?.abort());
    this.#update();
    this.chat.start();
  }

  /** @param {File[]} files */
  async #add(files) {
    this.error.clear();
    const refused = await this.references.add(files, this.form.model);
    if (refused.length) this.error.say(refused);
  }

  /** Show what follows from the form. */
  #update() {
    this.form.hasPictures = this.references.all.length > 0 || this.chat.isOpen;
    showEstimate(this.form);
    const problem = this.references.problem(this.form.model);
    find("reference-problem", HTMLElement).textContent = problem;
    this.#code.show({
      origin: new URL(".", document.baseURI).href.replace(/\/$/, ""),
      body: { ...this.form.body(), prompt: this.form.prompt || this.form.example },
      references: [...this.references.all, ...this.chat.codeReferences],
      keyNeeded: document.documentElement.dataset.keys === "required",
      ...(this.form.model.outputType && { outputType: this.form.model.outputType }),
    });
    find("code-chat-note", HTMLElement).hidden = !this.chat.isOpen;
  }

  async #run() {
    this.error.clear();
    if (!this.form.prompt.trim()) {
      this.error.say(["Write a prompt first."]);
      return this.form.focusPrompt();
    }
    const previous = this.#result.picture;
    const running = new AbortController();
    this.#setRunning(running);
    this.#result.hide();
    this.#progress.begin("The request is sent…");
    find("stage", HTMLElement).scrollIntoView({ block: "nearest" });
    try {
      const picture = await this.#request(running.signal);
      this.#result.show(picture);
      this.#progress.end(this.#summary(picture));
    } catch (error) {
      if (previous) this.#result.show(previous);
      this.#fail(error, running.signal);
    } finally {
      this.#setRunning(null);
      this.onDone();
    }
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Picture>}
   */
  async #request(signal) {
    const listener = this.#progress.listener((id) => this.form.nameOf(id));
    const references = this.references.all;
    if (this.chat.isOpen) return this.chat.send(this.form.turnBody(), references, listener, signal);
    const picture = await generateImage(this.client, this.form.body(), references, listener, signal);
    this.#earlier.add(picture);
    return picture;
  }

  /**
   * @param {unknown} error
   * @param {AbortSignal} signal
   */
  #fail(error, signal) {
    if (signal.aborted) {
      this.#progress.end(this.chat.isOpen ? this.chat.cancelled() : "Cancelled. No picture is made.");
    } else if (error instanceof Problem) {
      this.#progress.end("There is no new picture.");
      this.error.show(error);
      if (error.status !== 401) this.chat.failed(); // without a valid key the chat cannot be read either
    } else {
      this.#progress.end("There is no new picture.");
      throw error;
    }
  }

  /** @param {Picture} picture */
  #summary({ width, height, usage }) {
    const cost = usage?.estimatedCostUsd;
    const price = cost == null ? "" : ` and ${dollars(cost)}`;
    return `Ready: ${width} × ${height} pixels after ${duration(this.#progress.seconds)}${price}.`;
  }

  /** @param {AbortController | null} running */
  #setRunning(running) {
    this.#running = running;
    const isBusy = running !== null;
    this.#generate.disabled = isBusy;
    if (isBusy) this.#cancel.hidden = false;
    else if (document.activeElement === this.#cancel) this.#generate.focus();
    this.#cancel.hidden = !isBusy;
    for (const id of ["chat", "gallery", "earlier"]) find(id, HTMLElement).inert = isBusy;
  }
}
