/** The page: its parts, and what happens between them. */

import { Client, Problem } from "./api/client.js";
import { find } from "./dom.js";
import { Playground } from "./playground.js";
import { KeyForm } from "./key/key.js";
import { ErrorMessage } from "./error.js";

/** @import { Models } from "./types.js" */

const client = new Client();
const keys = new KeyForm(client);
const error = new ErrorMessage();

/** @type {Playground | null} */
let playground = null;

async function start() {
  error.clear();
  try {
    /** @type {Models} */
    const models = await client.json("models");
    await keys.accept();
    if (playground) playground.chat.gallery.refresh(); // another key has other pictures
    else playground = open(models);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    error.show(problem);
  }
}

/**
 * @param {Models} models
 * @returns {Playground}
 */
function open(models) {
  const opened = new Playground(client, models, error);
  opened.onDone = () => keys.refreshBudget();
  opened.start();
  find("playground", HTMLElement).hidden = false;
  find("reference-field", HTMLElement).after(find("error", HTMLElement)); // beside what it is about, from now on
  return opened;
}

keys.onKey = start;
if (document.documentElement.dataset.keys === "required" && !client.key) keys.ask();
else await start();
