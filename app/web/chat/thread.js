/** The turns of a chat, with their pictures. */

import { clear, element, find } from "../dom.js";
import { dollars } from "../format.js";
import { fill } from "../preview.js";
import { Comparison } from "./compare.js";

/** @import { ChatSession } from "./session.js" */
/** @import { TurnRead } from "../types.js" */

const PREVIEW_WIDTH = 320;

export class Thread {
  /** @type {(turn: TurnRead) => void} Called when the user wants to see a turn. */
  onShow = () => {};
  /** @type {(turn: number) => void} Called when the user wants to go on from a turn. */
  onFork = () => {};
  #section = find("chat", HTMLElement);
  #list = find("thread", HTMLElement);
  #comparison = new Comparison();

  /** @param {ChatSession} session */
  show(session) {
    clear(this.#list);
    if (session.hasStart) this.#list.append(startItem(session));
    this.#list.append(...session.turns.map((turn) => this.#item(session, turn)));
    this.#section.hidden = false;
    this.#comparison.show(session);
  }

  hide() {
    this.#section.hidden = true;
    clear(this.#list);
  }

  /**
   * @param {ChatSession} session
   * @param {TurnRead} turn
   */
  #item(session, turn) {
    const cost = turn.usage?.estimatedCostUsd;
    const picture = turn.image ? this.#pictureButton(session, turn) : element("p", { class: "refusal" }, reason(turn));
    const group = element(
      "div",
      { class: "turn", role: "group", "aria-label": `Turn ${turn.turn}` },
      picture,
      element("p", { class: "turn-prompt" }, turn.prompt),
      element("p", { class: "turn-facts" }, `Turn ${turn.turn}${cost == null ? "" : ` · ${dollars(cost)}`}`),
      element("button", { type: "button", click: () => this.onFork(turn.turn) }, "Fork from here"),
    );
    return element("li", {}, group);
  }

  /**
   * @param {ChatSession} session
   * @param {TurnRead} turn
   */
  #pictureButton(session, turn) {
    const label = `Show turn ${turn.turn}`;
    const button = element("button", { type: "button", class: "preview", "aria-label": label, click: () => this.onShow(turn) });
    fill(button, session.preview(turn.turn, PREVIEW_WIDTH), `Turn ${turn.turn}: ${turn.prompt}`);
    return button;
  }
}

/** @param {ChatSession} session */
function startItem(session) {
  const holder = element("div", { class: "preview" });
  fill(holder, session.preview(0, PREVIEW_WIDTH), session.start?.prompt ?? "The first picture");
  const text = session.start?.prompt ?? "";
  const group = element(
    "div",
    { class: "turn", role: "group", "aria-label": "Start" },
    holder,
    element("p", { class: "turn-prompt" }, text),
    element("p", { class: "turn-facts" }, "Start"),
  );
  return element("li", {}, group);
}

/** @param {TurnRead} turn */
function reason({ problem }) {
  return problem ? problem.detail : "This turn has no picture.";
}
