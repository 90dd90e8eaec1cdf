/** What the gallery shows of a chat and of a recorded generation. */

import { readChat } from "../api/chats.js";
import { element } from "../dom.js";
import { dateTime, dollars } from "../format.js";
import { fill } from "../preview.js";

/** @import { Client } from "../api/client.js" */
/** @import { ChatSummary, RecordedRead } from "../types.js" */

/**
 * @typedef {object} Entry
 * @property {"chat" | "generation"} kind
 * @property {string} id
 * @property {string} time in ISO 8601
 * @property {string} title
 * @property {string} facts
 * @property {boolean} canOpen
 * @property {(client: Client, holder: HTMLElement) => Promise<void>} preview puts a picture into an element
 */

const PREVIEW_WIDTH = 320;

/** @type {Record<RecordedRead["status"], string>} */
const STATES = {
  queued: "waits",
  running: "is being made",
  succeeded: "",
  failed: "has no picture",
  cancelled: "was cancelled",
  interrupted: "was interrupted",
};

/**
 * @param {ChatSummary} chat
 * @returns {Entry}
 */
export function chatEntry({ id, title, updatedAt, lastTurn, turnInProgress, estimatedCostUsd }) {
  const turns = `${lastTurn} ${lastTurn === 1 ? "turn" : "turns"}`;
  const state = turnInProgress ? "a picture is being made" : turns;
  return {
    kind: "chat",
    id,
    time: updatedAt,
    title: title ?? "Chat",
    facts: `${dateTime(updatedAt)} · ${state} · ${dollars(estimatedCostUsd)}`,
    canOpen: true,
    preview: (client, holder) => showLatest(client, id, title ?? "Chat", holder),
  };
}

/**
 * @param {RecordedRead} generation
 * @returns {Entry}
 */
export function generationEntry({ id, createdAt, status, result, problem }) {
  const hasImage = status === "succeeded";
  const cost = result?.usage?.estimatedCostUsd;
  const state = STATES[status] ? ` · ${STATES[status]}` : "";
  return {
    kind: "generation",
    id,
    time: createdAt,
    title: `Picture of ${dateTime(createdAt)}`,
    facts: `${result?.model ?? "Image"}${state}${cost == null ? "" : ` · ${dollars(cost)}`}`,
    canOpen: hasImage,
    preview: async (client, holder) => {
      if (hasImage) await fill(holder, client.image(`generations/${id}/image?width=${PREVIEW_WIDTH}`), dateTime(createdAt));
      else holder.replaceChildren(element("span", { class: "missing" }, problem?.detail ?? STATES[status]));
    },
  };
}

/**
 * Show the latest picture of a chat. Its latest turn may have none.
 *
 * @param {Client} client
 * @param {string} id
 * @param {string} alt
 * @param {HTMLElement} holder
 */
async function showLatest(client, id, alt, holder) {
  const chat = await readChat(client, id).catch(() => null);
  const turn = chat?.turns.findLast(({ image }) => image);
  if (turn) await fill(holder, client.image(`chats/${id}/turns/${turn.turn}/image?width=${PREVIEW_WIDTH}`), alt);
  else holder.replaceChildren(element("span", { class: "missing" }, "no picture yet"));
}
