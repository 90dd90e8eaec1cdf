/** The routes of recorded generations. */

/** @import { Client } from "./client.js" */
/** @import { RecordedRead } from "../types.js" */

/**
 * @param {Client} client
 * @param {string | null} cursor
 * @returns {Promise<{generations: RecordedRead[], nextCursor: string | null}>}
 */
export function listGenerations(client, cursor) {
  return client.json(`generations?limit=20${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
}

/**
 * @param {Client} client
 * @param {string} id
 */
export async function deleteGeneration(client, id) {
  await client.send(`generations/${id}`, { method: "DELETE" });
}
