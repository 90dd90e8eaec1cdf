/**
 * Google's search suggestions, unchanged, in a frame. The frame is a document of this service with a policy of its own,
 * which allows Google's styles and no scripts but one. It has no origin, so it can reach nothing of this page.
 */

import { element, find } from "../dom.js";

const MOST_PIXELS = 600;

/** @param {string} html as Google sent it; empty if there is none */
export function showSuggestions(html) {
  const holder = find("suggestions", HTMLElement);
  holder.hidden = !html;
  holder.replaceChildren();
  if (!html) return;
  const frame = element("iframe", {
    title: "Google Search suggestions",
    sandbox: "allow-scripts allow-popups allow-popups-to-escape-sandbox",
    src: new URL("web/suggestions/frame.html", document.baseURI).href,
    load: () => frame.contentWindow?.postMessage({ html }, "*"), // the frame has no origin that could be named
  });
  const resize = (/** @type {MessageEvent} */ event) => {
    if (!frame.isConnected) return removeEventListener("message", resize);
    if (event.source !== frame.contentWindow || typeof event.data?.height !== "number") return;
    frame.style.height = `${Math.min(event.data.height, MOST_PIXELS)}px`;
  };
  addEventListener("message", resize);
  holder.append(frame);
}
