/** What a picture will cost, at Google's list price. */

import { find } from "../dom.js";
import { dollars } from "../format.js";

/** @import { RequestForm } from "./form.js" */

/**
 * Show the estimate for what the form asks for, and the pixels that the picture will have.
 *
 * @param {RequestForm} form
 */
export function showEstimate(form) {
  const { model, ratio, size } = form;
  const price = model.prices.image[size];
  const query = form.googleSearch || form.imageSearch ? (model.prices.searchQuery ?? 0) : 0;
  const known = price === undefined ? "Price unknown" : `About ${dollars(price)}`;
  const search = query ? `, and ${dollars(query)} for each search` : "";
  find("estimate", HTMLElement).textContent = `${known}${search}`;
  const pixels = model.pixels[ratio]?.[size];
  find("pixels", HTMLElement).textContent = pixels ? `${pixels[0]} × ${pixels[1]} pixels` : "";
  find("frame", HTMLElement).style.aspectRatio = pixels ? `${pixels[0]} / ${pixels[1]}` : "";
}
