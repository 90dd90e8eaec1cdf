/** What Google obliges a page to show with a picture that is grounded in its search: suggestions and sources. */

import { element, externalLink, find } from "../dom.js";
import { showSuggestions } from "./suggestions.js";

/** @import { Grounding } from "../types.js" */

/**
 * Show the sources, linked directly. For an image source the page that contains the image is linked.
 *
 * @param {Grounding | null} grounding
 */
export function showGrounding(grounding) {
  const links = [
    ...(grounding?.sources ?? []).map(({ uri, title }) => externalLink(uri, title || uri)),
    ...(grounding?.imageSources ?? []).map((source) => imageSource(source)),
  ];
  find("source-field", HTMLElement).hidden = links.length === 0;
  find("sources", HTMLElement).replaceChildren(...links.map((link) => element("li", {}, link)));
  showSuggestions(grounding?.searchSuggestionsHtml ?? "");
}

/** @param {Grounding["imageSources"][number]} source */
function imageSource({ sourceUri, title, domain }) {
  const name = title || domain || sourceUri;
  return externalLink(sourceUri, `${name} (image${domain && domain !== name ? `, ${domain}` : ""})`);
}
