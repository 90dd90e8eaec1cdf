// Watches a generation with `EventSource` until it stops reconnecting.
import { EventSource } from "eventsource";
import { report } from "./report.mjs";

const STATUSES = ["queued", "running", "succeeded", "failed", "cancelled", "interrupted"];

const run = ({ url }) =>
  new Promise((resolve) => {
    const source = new EventSource(url);
    const events = [];
    let connections = 0;
    source.onopen = () => connections++;
    for (const status of STATUSES)
      source.addEventListener(status, ({ lastEventId, data }) =>
        events.push({ id: lastEventId, name: status, document: JSON.parse(data) }),
      );
    source.onerror = ({ code }) => {
      if (source.readyState === EventSource.CLOSED) resolve({ events, connections, code });
    };
  });

await report(run, () => ({}));
