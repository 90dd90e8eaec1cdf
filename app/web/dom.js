/** Making and finding elements. Text stays text: nothing here, or elsewhere in the page, parses HTML. */

/** @typedef {string | number | boolean | null | undefined | ((event: any) => void)} Attribute */

/**
 * Create an element.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, Attribute>} [attributes] Functions listen to the event of that name. `true` is an empty
 *   attribute; `false`, `null` and `undefined` are none.
 * @param {...(Node | string | null)} children Strings become text.
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * Find an element of the page.
 *
 * @template {HTMLElement} Type
 * @param {string} id
 * @param {{new (): Type}} type
 * @returns {Type}
 */
export function find(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`The page has no ${type.name} with the id ${id}.`);
  return found;
}

/**
 * A link to another site, or its text if the address is not one of the web.
 *
 * @param {string} address
 * @param {string} text
 * @returns {Node}
 */
export function externalLink(address, text) {
  const isWeb = URL.canParse(address) && ["http:", "https:"].includes(new URL(address).protocol);
  if (!isWeb) return document.createTextNode(text);
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, text);
}

/**
 * An image of a blob. Its object URL lives until `clear` removes the image.
 *
 * @param {Blob} blob
 * @param {Record<string, Attribute>} attributes
 * @returns {HTMLImageElement}
 */
export function blobImage(blob, attributes) {
  return element("img", { ...attributes, src: URL.createObjectURL(blob), decoding: "async" });
}

/**
 * Remove the children of an element, and free the images among them.
 *
 * @param {HTMLElement} parent
 */
export function clear(parent) {
  for (const image of parent.querySelectorAll("img")) {
    const release = () => URL.revokeObjectURL(image.src);
    if (image.complete) release();
    else for (const end of ["load", "error"]) image.addEventListener(end, release); // the browser is still reading it
  }
  parent.replaceChildren();
}
