/** The chats and the recorded generations of this key, newest first. */

import { deleteChat, listChats } from "../api/chats.js";
import { deleteGeneration, listGenerations } from "../api/generations.js";
import { Problem } from "../api/client.js";
import { element, find, clear } from "../dom.js";
import { chatEntry, generationEntry } from "./entries.js";

/** @import { Client } from "../api/client.js" */
/** @import { Entry } from "./entries.js" */

const LOADED_AT_ONCE = 8;

export class Gallery {
  /** @type {(id: string) => void} Called when the user opens a chat. */
  onChat = () => {};
  /** @type {(id: string) => void} Called when the user opens a generation. */
  onGeneration = () => {};
  /** @type {(problem: Error) => void} */
  onError = () => {};
  /** @type {(id: string) => void} Called when a chat is gone. */
  onChatDeleted = () => {};
  #list = find("gallery-list", HTMLElement);
  #note = find("gallery-note", HTMLElement);
  #more = find("gallery-more", HTMLButtonElement);
  /** @type {{chats: string | null, generations: string | null}} */
  #cursors = { chats: null, generations: null };
  #version = 0;

  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    this.#more.addEventListener("click", () => this.#load(false));
  }

  /** Show the first page again. */
  refresh() {
    return this.#load(true);
  }

  /** @param {boolean} fromStart */
  async #load(fromStart) {
    const version = (this.#version += 1);
    try {
      const entries = await this.#read(fromStart);
      if (version !== this.#version) return; // a later call has taken over
      if (fromStart) clear(this.#list);
      this.#list.append(...entries.map((entry, place) => this.#item(entry, fromStart && place < LOADED_AT_ONCE)));
      this.#more.hidden = !this.#cursors.chats && !this.#cursors.generations;
      this.#describe();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.#note.textContent = error.message;
    }
  }

  /**
   * @param {boolean} fromStart
   * @returns {Promise<Entry[]>}
   */
  async #read(fromStart) {
    const { chats, generations } = this.#cursors;
    const [chatPage, generationPage] = await Promise.all([
      fromStart || chats ? listChats(this.client, fromStart ? null : chats) : null,
      fromStart || generations ? listGenerations(this.client, fromStart ? null : generations) : null,
    ]);
    this.#cursors = { chats: chatPage?.nextCursor ?? null, generations: generationPage?.nextCursor ?? null };
    return [
      ...(chatPage?.chats ?? []).filter((chat) => chat.lastTurn > 0 || chat.turnInProgress).map(chatEntry),
      ...(generationPage?.generations ?? []).filter(({ result }) => !result?.chatId).map(generationEntry),
    ].sort((one, other) => other.time.localeCompare(one.time));
  }

  /**
   * @param {Entry} entry
   * @param {boolean} atOnce load its picture now, not when it comes into sight
   */
  #item(entry, atOnce) {
    const { title, facts, preview } = entry;
    const open = () => (entry.kind === "chat" ? this.onChat(entry.id) : this.onGeneration(entry.id));
    const picture = entry.canOpen
      ? element("button", { type: "button", class: "preview", "aria-label": `Open ${title}`, click: open })
      : element("div", { class: "preview" });
    let loading = Promise.resolve();
    const remove = () => loading.then(() => this.#delete(entry, item)); // a deleted picture cannot be loaded
    const group = element(
      "div",
      { class: "entry", role: "group", "aria-label": title },
      picture,
      element("p", { class: "entry-title" }, title),
      element("p", { class: "entry-facts" }, facts),
      element("button", { type: "button", class: "quiet", click: remove }, "Delete"),
    );
    const item = element("li", {}, group);
    const load = () => (loading = preview(this.client, picture));
    if (atOnce) load();
    else whenVisible(item, load);
    return item;
  }

  /**
   * @param {Entry} entry
   * @param {HTMLElement} item
   */
  async #delete(entry, item) {
    try {
      await (entry.kind === "chat" ? deleteChat : deleteGeneration)(this.client, entry.id);
    } catch (error) {
      return this.onError(/** @type {Error} */ (error));
    }
    const next = item.nextElementSibling ?? item.previousElementSibling;
    clear(item);
    item.remove();
    this.#describe();
    /** @type {HTMLElement} */ (next?.querySelector("button") ?? find("gallery", HTMLElement)).focus();
    if (entry.kind === "chat") this.onChatDeleted(entry.id);
  }

  #describe() {
    const count = this.#list.childElementCount;
    this.#note.textContent = count ? "" : "Chats, and pictures that the service keeps, appear here.";
  }
}

/**
 * @param {Element} item
 * @param {() => void} callback called once
 */
function whenVisible(item, callback) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    observer.disconnect();
    callback();
  }, { rootMargin: "300px" });
  observer.observe(item);
}
