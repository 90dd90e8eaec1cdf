/** The chat that is open: changing a picture, going back, forking, and the gallery from which chats are opened. */

import { pictureOf } from "../api/images.js";
import { find } from "../dom.js";
import { dateTime, fileName } from "../format.js";
import { Gallery } from "../gallery/gallery.js";
import { ChatSession } from "./session.js";
import { Thread } from "./thread.js";

/** @import { Client } from "../api/client.js" */
/** @import { Listener } from "../api/images.js" */
/** @import { CodeReference } from "../code/request.js" */
/** @import { RequestForm } from "../form/form.js" */
/** @import { ReferenceList } from "../references/list.js" */
/** @import { Result } from "../result/result.js" */
/** @import { Picture, RecordedRead, Reference, RequestBody, TurnRead } from "../types.js" */

const POLL_MS = 2000;

const CHANGE_EXAMPLE = "Make it night, keep everything else";

export class ChatView {
  onChange = () => {};
  /** Called when another picture is shown, or none, without a request for one. */
  onOther = () => {};
  /** @type {(problem: Error) => void} */
  onError = () => {};
  /** @type {(sentence: string) => void} */
  onSay = () => {};
  /** @type {ChatSession | null} */
  #session = null;
  #thread = new Thread();
  #example = "";

  /**
   * @param {Client} client
   * @param {RequestForm} form
   * @param {Result} result
   * @param {ReferenceList} references
   */
  constructor(client, form, result, references) {
    this.client = client;
    this.form = form;
    this.result = result;
    this.references = references;
    this.gallery = new Gallery(client);
    this.#example = form.example;
  }

  get isOpen() {
    return this.#session !== null;
  }

  start() {
    find("edit", HTMLButtonElement).addEventListener("click", () => this.#do(() => this.#edit()));
    find("leave-chat", HTMLButtonElement).addEventListener("click", () => this.#leave());
    this.#thread.onShow = (turn) => this.#do(() => this.#showTurn(turn));
    this.#thread.onFork = (turn) => this.#do(() => this.#fork(turn));
    this.gallery.onChat = (id) => this.#do(() => this.#open(id));
    this.gallery.onGeneration = (id) => this.#do(() => this.#showGeneration(id));
    this.gallery.onError = (problem) => this.onError(problem);
    this.gallery.onChatDeleted = (id) => {
      if (this.#session?.chat?.id === id) this.#leave();
    };
    this.gallery.refresh();
  }

  /** @returns {CodeReference[]} the picture that is changed, as a request without a chat would send it */
  get codeReferences() {
    if (!this.#session) return [];
    const type = this.result.picture?.mimeType ?? this.#session.start?.mimeType ?? "image/jpeg";
    return [{ fileName: fileName(type), role: "", name: "", type }];
  }

  /**
   * Ask for the next turn.
   *
   * @param {RequestBody} body
   * @param {Reference[]} references
   * @param {Listener} listener
   * @param {AbortSignal} signal
   * @returns {Promise<Picture>}
   */
  async send(body, references, listener, signal) {
    const session = this.#session;
    if (!session) throw new Error("No chat is open.");
    const picture = await session.send(body, references, listener, signal);
    this.references.remove(references);
    if (this.form.prompt === body.prompt) this.form.prompt = ""; // else it is the next one already
    await this.#do(() => this.#refresh());
    return picture;
  }

  /**
   * The user does not wait for a turn. Gemini draws it nevertheless.
   *
   * @returns {string} a sentence that says so
   */
  cancelled() {
    const session = this.#session;
    if (!session?.chat) return "Cancelled. No picture is made.";
    this.#do(() => this.#followUp(session, session.latest?.turn ?? 0));
    return "Not waiting any longer. The picture is being made and paid for already: it will be in the gallery.";
  }

  /** A turn has failed. Gemini's refusals are turns of the chat as well. */
  failed() {
    if (this.#session?.chat) this.#do(() => this.#refresh());
  }

  /**
   * Look until the turn is over that nobody waits for.
   *
   * @param {ChatSession} session
   * @param {number} before the latest turn before it
   */
  async #followUp(session, before) {
    do {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      await session.refresh();
    } while (session.chat?.turnInProgress);
    if (session === this.#session) this.#thread.show(session);
    await this.gallery.refresh();
    const isMade = (session.latest?.turn ?? 0) > before;
    this.onSay(isMade ? "The picture that you did not wait for is in the gallery." : "No picture was made.");
  }

  async #refresh() {
    const session = this.#session;
    await session?.refresh();
    if (session && session === this.#session) this.#thread.show(session);
    this.gallery.refresh();
  }

  /** Change the picture that is shown. */
  async #edit() {
    const { picture } = this.result;
    if (!picture) return;
    const { turn } = picture;
    if (this.#session && turn !== undefined) {
      if (turn !== this.#session.latest?.turn) await this.#fork(turn);
    } else {
      this.references.clear();
      this.#enter(new ChatSession(this.client, { start: picture }));
    }
    this.form.prompt = "";
    this.form.focusPrompt();
  }

  /** @param {number} turn */
  async #fork(turn) {
    if (!this.#session) return;
    const fork = await this.#session.fork(turn);
    this.#enter(fork);
    if (fork.latest) await this.#showTurn(fork.latest);
    this.onSay(`A new chat begins with turn ${turn}. The old one stays in the gallery.`);
    this.form.focusPrompt();
    await this.gallery.refresh();
  }

  /** @param {string} id */
  async #open(id) {
    const session = await ChatSession.open(this.client, id);
    this.#enter(session);
    this.form.choose(session.latest?.model ?? "");
    if (session.latest) await this.#showTurn(session.latest);
    find("result", HTMLElement).scrollIntoView({ block: "nearest" });
    this.form.focusPrompt();
  }

  /** @param {TurnRead} turn */
  async #showTurn(turn) {
    const session = this.#session;
    const picture = await session?.picture(turn);
    if (!picture || session !== this.#session) return;
    this.#display(picture);
    this.onSay(`Turn ${turn.turn} is shown.`);
  }

  /** @param {string} id */
  async #showGeneration(id) {
    /** @type {RecordedRead} */
    const { result, createdAt } = await this.client.json(`generations/${id}`);
    const blob = await this.client.image(`generations/${id}/image`);
    const bitmap = await createImageBitmap(blob);
    const image = { url: "", mimeType: blob.type, width: bitmap.width, height: bitmap.height };
    bitmap.close();
    this.showInstead(pictureOf({ ...result, image }, `Picture of ${dateTime(createdAt)}`, blob));
  }

  /**
   * Show a picture that belongs to no chat.
   *
   * @param {Picture} picture
   */
  showInstead(picture) {
    this.#leave();
    this.#display(picture);
    find("result", HTMLElement).scrollIntoView({ block: "nearest" });
  }

  /** @param {Picture} picture */
  #display(picture) {
    this.onOther();
    this.result.show(picture);
    this.onChange();
  }

  /** @param {ChatSession} session */
  #enter(session) {
    this.#session = session;
    this.#thread.show(session);
    this.form.example = CHANGE_EXAMPLE;
    find("chat-banner", HTMLElement).hidden = false;
    this.onChange();
  }

  #leave() {
    if (!this.#session) return;
    this.#session = null;
    this.#thread.hide();
    this.result.hide();
    find("chat-banner", HTMLElement).hidden = true;
    this.form.example = this.#example;
    this.form.prompt = "";
    this.onOther();
    this.form.focusPrompt();
    this.onChange();
  }

  /** @param {() => Promise<void>} action one that the service may refuse */
  async #do(action) {
    try {
      await action();
    } catch (error) {
      this.onError(/** @type {Error} */ (error));
    }
  }
}
