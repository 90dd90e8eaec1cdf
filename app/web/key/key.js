/** The API key, where the service needs one, and what is left of its budget. */

import { find } from "../dom.js";

/** @import { Client } from "../api/client.js" */

/** @type {Record<string, string>} */
const PERIODS = { day: " today", month: " this month" };

export class KeyForm {
  /** @type {() => Promise<void>} Called when the user has given a key. */
  onKey = async () => {};
  #form = find("key-form", HTMLFormElement);
  #input = find("api-key", HTMLInputElement);
  #current = find("current-key", HTMLElement);
  #period = "";

  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    client.onUnauthorized = () => this.ask();
    client.onBudget = (remaining) => this.#showBudget(remaining);
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
    find("budget", HTMLElement).textContent = "";
    this.#input.focus();
  }

  /** Show that a key is in use, and what is left of its budget. */
  async accept() {
    if (!this.client.key) return;
    this.#form.hidden = true;
    this.#current.hidden = false;
    await this.refreshBudget();
  }

  /** Read what is left of the budget. */
  async refreshBudget() {
    if (!this.client.key) return;
    const usage = await this.client.json("usage").catch(() => null);
    const budget = usage?.limits?.budget;
    if (typeof budget?.remainingUsd !== "number") return;
    this.#period = PERIODS[budget.per] ?? "";
    this.#showBudget(budget.remainingUsd);
  }

  /** @param {number} remaining in US dollars */
  #showBudget(remaining) {
    find("budget", HTMLElement).textContent = `$${remaining.toFixed(2)} left${this.#period}`;
  }
}
