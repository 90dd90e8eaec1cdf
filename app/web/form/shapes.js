/** Small drawings for the choices: an aspect ratio as a rectangle, a size as a grid of dots. */

const SVG = "http://www.w3.org/2000/svg";
const BOX = 26;

/**
 * @param {Record<string, string | number>} attributes
 * @param {string} name
 */
function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

function canvas() {
  return shape("svg", { viewBox: `0 0 ${BOX} ${BOX}`, class: "shape", "aria-hidden": "true" });
}

/**
 * @param {string} ratio for example `16:9`
 * @returns {Element}
 */
export function ratioShape(ratio) {
  const [across, down] = ratio.split(":").map(Number);
  const svg = canvas();
  if (!across || !down) return svg;
  const scale = Math.sqrt(300 / (across * down)); // the same area for all, within the box
  const fitted = Math.min(scale, 24 / across, 24 / down);
  const [width, height] = [Math.max(across * fitted, 3), Math.max(down * fitted, 3)];
  svg.append(shape("rect", { x: (BOX - width) / 2, y: (BOX - height) / 2, width, height, rx: 2 }));
  return svg;
}

/** @returns {Element} for the ratio of the picture that is changed */
export function sameShape() {
  const svg = canvas();
  svg.append(
    shape("rect", { x: 3, y: 6, width: 20, height: 14, rx: 2, class: "dashed" }),
    shape("circle", { cx: 9, cy: 11, r: 1.6 }),
    shape("path", { d: "M5 18l5-5 3 3 4-4 4 5" }),
  );
  return svg;
}

/**
 * @param {number} place of the size among the model's sizes, from 0
 * @returns {Element}
 */
export function sizeShape(place) {
  const count = place + 1;
  const svg = canvas();
  const step = 20 / count;
  for (let row = 0; row < count; row += 1) {
    for (let column = 0; column < count; column += 1) {
      const side = step - 2;
      svg.append(shape("rect", { x: 4 + column * step, y: 4 + row * step, width: side, height: side, rx: 1 }));
    }
  }
  return svg;
}
