/** What is happening while a picture is made. Screen readers hear the sentences, not the seconds. */

import { blobImage, clear, element, find } from "../dom.js";
import { duration } from "../format.js";
import { reasonInWords } from "./reasons.js";

/** @import { Listener } from "../api/images.js" */

export class Progress {
  #status = find("progress", HTMLElement);
  #elapsed = find("elapsed", HTMLElement);
  #thoughts = find("thought-log", HTMLElement);
  #drafts = find("draft-list", HTMLElement);
  #began = 0;
  #timer = 0;

  /**
   * Begin to count the time.
   *
   * @param {string} sentence
   */
  begin(sentence) {
    this.clear();
    this.#began = performance.now();
    this.say(sentence);
    find("stage", HTMLElement).classList.add("working");
    this.#tick();
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#tick(), 500);
  }

  /**
   * Stop counting.
   *
   * @param {string} sentence what became of it
   */
  end(sentence) {
    clearInterval(this.#timer);
    find("stage", HTMLElement).classList.remove("working");
    this.#elapsed.textContent = "";
    this.say(sentence);
  }

  /** Forget the last request. */
  clear() {
    this.say("");
    this.#thoughts.replaceChildren();
    clear(this.#drafts);
    find("thought-field", HTMLElement).hidden = true;
    find("draft-field", HTMLElement).hidden = true;
  }

  /** @param {string} sentence */
  say(sentence) {
    this.#status.textContent = sentence;
  }

  get seconds() {
    return (performance.now() - this.#began) / 1000;
  }

  /**
   * @param {(model: string) => string} nameOf the name of a model by its id
   * @returns {Listener}
   */
  listener(nameOf) {
    return {
      started: (model, attempt) => {
        this.say(attempt > 1 ? `Attempt ${attempt}: ${nameOf(model)} is drawing…` : `${nameOf(model)} is drawing…`);
      },
      retrying: (reason, waitSeconds, attempt) => {
        const wait = waitSeconds >= 1 ? ` in ${Math.round(waitSeconds)} s` : "";
        this.say(`${reasonInWords(reason)}. Attempt ${attempt} begins${wait}.`);
      },
      thought: (text) => {
        find("thought-field", HTMLElement).hidden = false;
        for (const paragraph of text.split(/\n{2,}/)) {
          const plain = paragraph.trim().replace(/^\*\*(.*)\*\*$/s, "$1");
          if (plain) this.#thoughts.append(element("p", {}, plain));
        }
        this.#thoughts.scrollTop = this.#thoughts.scrollHeight;
      },
      draft: (draft) => {
        find("draft-field", HTMLElement).hidden = false;
        const number = this.#drafts.childElementCount + 1;
        this.#drafts.append(blobImage(draft, { alt: `Draft ${number}`, class: "draft" }));
      },
    };
  }

  #tick() {
    this.#elapsed.textContent = duration(this.seconds);
  }
}
