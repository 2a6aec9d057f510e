// A plain HTTP server. It knows nothing of nanofaas but the variable PORT.
"use strict";

const http = require("node:http");

const EVENTS = 3;
const EVENT_MS = 100;

function root(request, response) {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ server: "node", method: request.method, url: request.url }));
}

// Each piece of the body is returned as it comes.
function echo(request, response) {
  response.setHeader("Content-Type", request.headers["content-type"] ?? "application/octet-stream");
  request.pipe(response);
}

function events(request, response) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  let number = 0;
  const send = () => {
    number += 1;
    response.write(`data: ${number}\n\n`);
    if (number === EVENTS) {
      clearInterval(timer);
      response.end();
    }
  };
  const timer = setInterval(send, EVENT_MS);
  // Without this, a client that leaves would not stop the timer.
  response.on("close", () => clearInterval(timer));
  send();
}

const paths = new Map([["/", root], ["/echo", echo], ["/invoke", echo], ["/events", events]]);

const server = http.createServer((request, response) => {
  const handler = paths.get(request.url.split("?", 1)[0]);
  if (handler === undefined) {
    response.writeHead(404).end();
    return;
  }
  handler(request, response);
});
// The platform keeps an idle connection for up to 30 s, so the server must not close it earlier.
server.keepAliveTimeout = 65_000;
server.listen(Number(process.env.PORT ?? 8080));

process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
