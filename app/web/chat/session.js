/** One chat: a picture that is changed turn by turn. It exists on the service from its first turn on. */

import { addTurn, createChat, forkChat, readChat } from "../api/chats.js";
import { pictureOf } from "../api/images.js";
import { fileName } from "../format.js";

/** @import { Client } from "../api/client.js" */
/** @import { Listener } from "../api/images.js" */
/** @import { ChatRead, Picture, Reference, RequestBody, TurnRead } from "../types.js" */

/** The name under which Gemini gets the picture with which a chat begins. */
const START_NAME = "the picture to change";

export class ChatSession {
  /**
   * @param {Client} client
   * @param {{start?: Picture, chat?: ChatRead}} from the picture with which a new chat begins, or a chat of the service
   */
  constructor(client, { start, chat }) {
    this.client = client;
    this.start = start ?? null;
    this.chat = chat ?? null;
  }

  /**
   * @param {Client} client
   * @param {string} id
   */
  static async open(client, id) {
    return new ChatSession(client, { chat: await readChat(client, id) });
  }

  /** @returns {TurnRead[]} */
  get turns() {
    return this.chat?.turns ?? [];
  }

  /** @returns {TurnRead | null} the latest turn with a picture, on which the next one builds */
  get latest() {
    return this.turns.findLast((turn) => turn.image && turn.replacedBy === null) ?? null;
  }

  /**
   * Ask for the next picture.
   *
   * @param {RequestBody} body
   * @param {Reference[]} references
   * @param {Listener} listener
   * @param {AbortSignal} signal
   * @returns {Promise<Picture>}
   */
  async send(body, references, listener, signal) {
    this.chat ??= await createChat(this.client);
    const files = this.latest || !this.start ? references : [...references, startReference(this.start)];
    const turn = { ...body, afterTurn: this.latest?.turn ?? 0 };
    return addTurn(this.client, this.chat.id, turn, files, listener, signal);
  }

  /** Read the chat again. */
  async refresh() {
    if (this.chat) this.chat = await readChat(this.client, this.chat.id);
  }

  /**
   * @param {number} turn the last one that the fork has
   * @returns {Promise<ChatSession>}
   */
  async fork(turn) {
    if (!this.chat) throw new Error("There is no chat to fork.");
    return new ChatSession(this.client, { chat: await forkChat(this.client, this.chat.id, turn) });
  }

  /**
   * @param {TurnRead} turn one with an image
   * @returns {Promise<Picture>}
   */
  async picture(turn) {
    const { image } = turn;
    if (!image) throw new Error("This turn has no picture.");
    return pictureOf({ ...documentOf(turn), image }, turn.prompt, await this.client.image(this.#path(turn.turn)));
  }

  /**
   * @param {number} turn 0 for the picture with which the chat begins
   * @param {number} width in pixels
   * @returns {Promise<Blob>} a smaller copy
   */
  preview(turn, width) {
    if (turn > 0) return this.client.image(`${this.#path(turn)}?width=${width}`);
    if (this.start) return Promise.resolve(this.start.blob);
    return this.client.image(`chats/${this.chat?.id}/turns/1/references/${this.#startPlace}?width=${width}`);
  }

  /**
   * @param {number} turn 0 for the picture with which the chat begins
   * @returns {{width: number, height: number}} in pixels
   */
  size(turn) {
    if (turn === 0) return this.start ?? this.turns[0]?.references[this.#startPlace - 1] ?? { width: 1, height: 1 };
    return this.turns.find((one) => one.turn === turn)?.image ?? { width: 1, height: 1 };
  }

  /** Whether the chat begins with a picture that was made before. */
  get hasStart() {
    return this.start !== null || this.#startPlace > 0;
  }

  /** Position of that picture among the references of the first turn, from 1; 0 if there is none. */
  get #startPlace() {
    return (this.turns[0]?.references ?? []).findIndex(({ name }) => name === START_NAME) + 1;
  }

  /** @param {number} turn */
  #path(turn) {
    return `chats/${this.chat?.id}/turns/${turn}/image`;
  }
}

/**
 * @param {TurnRead} turn
 */
function documentOf({ turn, text, model, grounding, warnings, usage }) {
  return { turn, text, model, grounding, warnings, ...(usage && { usage }) };
}

/**
 * @param {Picture} picture
 * @returns {Reference}
 */
export function startReference({ blob, mimeType }) {
  return { file: blob, fileName: fileName(mimeType), role: "", name: START_NAME, type: mimeType };
}
