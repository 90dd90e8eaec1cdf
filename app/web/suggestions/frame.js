/**
 * Shows what the page around this document sends: the HTML of Google's search suggestions, unchanged. The policy of
 * this document lets nothing in it run. Links open in a new tab.
 */

const tellHeight = () => parent.postMessage({ height: document.documentElement.offsetHeight }, "*");

addEventListener("message", (event) => {
  const holder = document.getElementById("suggestions");
  if (event.source !== parent || typeof event.data?.html !== "string" || !holder) return;
  holder.innerHTML = event.data.html;
  tellHeight();
});

new ResizeObserver(tellHeight).observe(document.documentElement);
