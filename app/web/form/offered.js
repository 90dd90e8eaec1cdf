/** The models that the form offers. */

/** @import { Model, Models } from "../types.js" */

/**
 * Return the active models, and the default one: it may be deprecated, or one that the service does not describe.
 *
 * @param {Models} models
 * @returns {Model[]}
 */
export function offeredModels({ default: default_, models }) {
  const offered = models.filter(({ status, id }) => status === "active" || id === default_);
  return offered.some(({ id }) => id === default_) ? offered : [undescribed(default_), ...offered];
}

/**
 * @param {string} id
 * @returns {Model} one of which nothing is known but its id
 */
function undescribed(id) {
  return {
    id,
    name: id,
    status: "active",
    aspectRatios: [],
    defaultAspectRatio: null,
    imageSizes: [],
    defaultImageSize: null,
    pixels: {},
    outputType: null,
    references: { max: null, byRole: null },
    googleSearch: true,
    imageSearch: false,
    thinking: "none",
    thinkingLevels: [],
    defaultThinkingLevel: null,
    includeThoughts: false,
    prices: { searchQuery: null, image: {} },
  };
}
