/** The API key, where the service needs one, and what is left of its budget. */

import { find } from "../dom.js";
import { dollars } from "../format.js";

/** @import { Client } from "../api/client.js" */

export class KeyForm {
  /** @type {() => Promise<void>} Called when the user has given a key. */
  onKey = async () => {};
  #form = find("key-form", HTMLFormElement);
  #input = find("api-key", HTMLInputElement);
  #current = find("current-key", HTMLElement);

  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    client.onUnauthorized = () => this.ask();
    client.onBudget = (remaining) => this.#showBudget(remaining, "");
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      client.key = this.#input.value.trim();
      this.#input.value = "";
      if (client.key) this.onKey();
    });
    find("forget-key", HTMLButtonElement).addEventListener("click", () => {
      client.key = "";
      location.reload();
    });
  }

  /** Ask for a key. */
  ask() {
    this.client.key = "";
    this.#form.hidden = false;
    this.#current.hidden = true;
    document.body.classList.add("without-key");
    this.#input.focus();
  }

  /** Show that a key is in use, and what is left of its budget. */
  async accept() {
    if (!this.client.key) return;
    this.#form.hidden = true;
    this.#current.hidden = false;
    document.body.classList.remove("without-key");
    const usage = await this.client.json("usage").catch(() => null);
    const budget = usage?.limits?.budget;
    if (budget) this.#showBudget(budget.remainingUsd, budget.per);
  }

  /**
   * @param {number | null | undefined} remaining
   * @param {string} [per]
   */
  #showBudget(remaining, per) {
    if (typeof remaining !== "number") return;
    find("budget", HTMLElement).textContent = `${dollars(remaining)} left${per ? ` this ${per}` : ""}`;
  }
}
