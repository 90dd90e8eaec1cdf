/** The routes of chats. */

import { requestPicture } from "./images.js";

/** @import { Client } from "./client.js" */
/** @import { Listener } from "./images.js" */
/** @import { ChatRead, ChatSummary, Picture, Reference, RequestBody } from "../types.js" */

/**
 * @param {Client} client
 * @returns {Promise<ChatRead>} an empty chat; it costs nothing
 */
export function createChat(client) {
  return client.json("chats", { json: {} });
}

/**
 * @param {Client} client
 * @param {string} id
 * @returns {Promise<ChatRead>}
 */
export function readChat(client, id) {
  return client.json(`chats/${id}`);
}

/**
 * @param {Client} client
 * @param {string | null} cursor
 * @returns {Promise<{chats: ChatSummary[], nextCursor: string | null}>}
 */
export function listChats(client, cursor) {
  return client.json(`chats?limit=20${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
}

/**
 * Add a turn.
 *
 * @param {Client} client
 * @param {string} id
 * @param {RequestBody} body
 * @param {Reference[]} references
 * @param {Listener} listener
 * @param {AbortSignal} signal
 * @returns {Promise<Picture>}
 */
export function addTurn(client, id, body, references, listener, signal) {
  return requestPicture(client, `chats/${id}/turns`, body, references, listener, signal);
}

/**
 * @param {Client} client
 * @param {string} id
 * @param {number} fromTurn the last turn that the new chat has
 * @returns {Promise<ChatRead>}
 */
export function forkChat(client, id, fromTurn) {
  return client.json(`chats/${id}/fork`, { json: { fromTurn } });
}

/**
 * @param {Client} client
 * @param {string} id
 */
export async function deleteChat(client, id) {
  await client.send(`chats/${id}`, { method: "DELETE" });
}
