/** How files come to the page: the file picker, dropping them anywhere, pasting them anywhere. */

import { find } from "../dom.js";

/**
 * Listen for files.
 *
 * @param {(files: File[]) => void} onFiles
 */
export function takeFiles(onFiles) {
  const input = find("add-references", HTMLInputElement);
  input.addEventListener("change", () => {
    const files = [...(input.files ?? [])];
    input.value = ""; // so that the same file can be chosen again
    if (files.length) onFiles(files);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    const isText = isTextField(event.target) && event.clipboardData?.types.includes("text/plain");
    if (!files.length || isText) return;
    event.preventDefault();
    onFiles(files);
  });
  takeDrops(onFiles);
}

/** @param {(files: File[]) => void} onFiles */
function takeDrops(onFiles) {
  const hint = find("drop-hint", HTMLElement);
  document.addEventListener("dragover", (event) => {
    // Otherwise the browser opens the file in place of the page. Text may still be dropped into fields.
    if (hasFiles(event) || !isTextField(event.target)) event.preventDefault();
    hint.hidden = !hasFiles(event);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) hint.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!hasFiles(event) && isTextField(event.target)) return;
    event.preventDefault();
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) onFiles(files);
  });
}

/** @param {DragEvent} event */
function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files") ?? false;
}

/** @param {EventTarget | null} target */
function isTextField(target) {
  return target instanceof HTMLTextAreaElement || target instanceof HTMLInputElement;
}
