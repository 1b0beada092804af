// Node's `ws`: a broadcast at /fan/, an echo elsewhere. Arguments: the folder with `ws`
// in it, the port.
"use strict";
const { createRequire } = require("node:module");
const { WebSocketServer } = createRequire(process.argv[2] + "/")("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[3]) });
server.on("connection", (socket, request) => {
  const together = request.url === "/fan/";
  socket.on("error", () => socket.terminate());
  socket.on("message", (data) => {
    for (const each of together ? server.clients : [socket]) {
      if (each.readyState === 1) each.send(data, { binary: false });
    }
  });
});
process.on("SIGTERM", () => process.exit(0));
