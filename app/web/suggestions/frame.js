/**
 * Shows what the page around this document sends: the HTML of Google's search suggestions, unchanged. The policy of
 * this document lets nothing in it run. Links open in a new tab.
 */

addEventListener("message", (event) => {
  const holder = document.getElementById("suggestions");
  if (event.source !== parent || typeof event.data?.html !== "string" || !holder) return;
  holder.innerHTML = event.data.html;
  const tell = () => parent.postMessage({ height: document.documentElement.offsetHeight }, "*");
  new ResizeObserver(tell).observe(document.documentElement);
  tell();
});
