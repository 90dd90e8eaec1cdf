// Serves the route module named on the command line, as Next.js does: real `Request`s whose signal aborts when the client leaves.
import http from "node:http";
import { Readable } from "node:stream";

const route = await import(process.argv[2]);

const server = http.createServer(async (incoming, outgoing) => {
  const leaving = new AbortController();
  outgoing.on("close", () => outgoing.writableFinished || leaving.abort());
  const request = new Request(`http://${incoming.headers.host}${incoming.url}`, {
    method: incoming.method,
    headers: incoming.headers,
    body: Readable.toWeb(incoming),
    duplex: "half",
    signal: leaving.signal,
  });
  const answer = await route[incoming.method](request);
  outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
  if (!answer.body) return outgoing.end();
  Readable.fromWeb(answer.body)
    .on("error", () => outgoing.destroy())
    .pipe(outgoing);
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
