/**
 * Whether a file can be a reference. The service checks it too; here the user learns it before the upload.
 * The type is read from the file's bytes, as the service does it.
 */

/** @import { Limits } from "../types.js" */

/** A reason why a file cannot be used. It completes the sentence "photo.gif cannot be used: …". */
export class Unusable extends Error {}

/** @typedef {{recognise: (head: Uint8Array) => boolean, type: string, check?: (file: DataView) => void}} Format */

/** @type {Format[]} */
const FORMATS = [
  { type: "image/png", recognise: (head) => starts(head, "\x89PNG\r\n\x1a\n"), check: checkPng },
  { type: "image/jpeg", recognise: (head) => starts(head, "\xff\xd8\xff"), check: checkJpeg },
  { type: "image/webp", recognise: (head) => starts(head, "RIFF") && starts(head, "WEBP", 8), check: checkWebp },
  { type: "image/heic", recognise: (head) => starts(head, "ftyp", 4) && /^(hei[cxms]|hev)/.test(text(head, 8)) },
  { type: "image/heif", recognise: (head) => starts(head, "ftyp", 4) && /^(mif1|msf1)/.test(text(head, 8)) },
];

/** @type {[RegExp, string][]} */
const OTHERS = [
  [/^GIF8/, "it is a GIF"],
  [/^BM/, "it is a BMP"],
  [/^.{4}ftypavi/s, "it is AVIF"],
  [/^(II\*\0|MM\0\*)/, "it is a TIFF"],
  [/^%PDF/, "it is a PDF"],
  [/^.{4}ftyp|^.{4}moov|^\x1aE\xdf\xa3/s, "it is a video"],
  [/^\s*(<\?xml[^]*)?<svg/i, "it is an SVG"],
];

/**
 * Return the type of a file that can be a reference.
 *
 * @param {Blob} file
 * @param {Limits} limits
 * @returns {Promise<string>} its media type
 * @throws {Unusable}
 */
export async function inspect(file, limits) {
  if (file.size === 0) throw new Unusable("it is empty");
  if (file.size > limits.referenceBytes) throw new Unusable(`it has more than ${megabytes(limits.referenceBytes)}`);
  const view = new DataView(await file.arrayBuffer());
  const head = new Uint8Array(view.buffer, 0, Math.min(1024, view.byteLength));
  const format = FORMATS.find(({ recognise }) => recognise(head));
  if (!format) {
    const other = OTHERS.find(([pattern]) => pattern.test(text(head, 0)));
    throw new Unusable(`${other?.[1] ?? "it is not an image that Gemini takes"}. Use PNG, JPEG, WebP or HEIC`);
  }
  format.check?.(view);
  await checkPixels(file, limits);
  return format.type;
}

/**
 * @param {Blob} file
 * @param {Limits} limits
 */
async function checkPixels(file, limits) {
  const bitmap = await createImageBitmap(file).catch(() => null); // this browser may not decode HEIC
  if (!bitmap) return;
  const { width, height } = bitmap;
  bitmap.close();
  if (width * height > limits.referencePixels) {
    const most = (limits.referencePixels / 1e6).toFixed(0);
    throw new Unusable(`it has ${width} × ${height} pixels, and ${most} million are allowed`);
  }
}

/** @param {DataView} file */
function checkPng(file) {
  let place = 8;
  while (place + 12 <= file.byteLength) {
    const length = file.getUint32(place);
    const name = text(new Uint8Array(file.buffer, place + 4, 4), 0);
    if (name === "acTL") throw new Unusable("it is animated");
    if (name === "IEND") return;
    place += length + 12;
  }
  throw new Unusable("it is incomplete");
}

/** @param {DataView} file */
function checkJpeg(file) {
  for (let place = file.byteLength - 2; place > 1; place -= 1) {
    if (file.getUint8(place) === 0xff && file.getUint8(place + 1) === 0xd9) return;
  }
  throw new Unusable("it is incomplete");
}

/** @param {DataView} file */
function checkWebp(file) {
  if (file.byteLength < 21 || file.getUint32(4, true) + 8 > file.byteLength) throw new Unusable("it is incomplete");
  const isExtended = text(new Uint8Array(file.buffer, 12, 4), 0) === "VP8X";
  if (isExtended && file.getUint8(20) & 2) throw new Unusable("it is animated");
}

/**
 * @param {Uint8Array} head
 * @param {string} signature
 * @param {number} [offset]
 */
function starts(head, signature, offset = 0) {
  return text(head.subarray(0, offset + signature.length), offset) === signature;
}

/**
 * @param {Uint8Array} data
 * @param {number} offset
 * @returns {string} one character for each byte
 */
function text(data, offset) {
  return String.fromCharCode(...data.subarray(offset));
}

/** @param {number} count */
function megabytes(count) {
  return `${Math.floor(count / 1024 / 1024)} MB`;
}
