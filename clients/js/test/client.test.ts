/** The client: connecting, states, heartbeat, frames, calls, server-side subscriptions. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { Client, topics } from "../src/index.js";
import { FakeWindow, settle } from "./fake_browser.js";
import frames from "../../../spec/vectors/frames.json" with { type: "json" };
import vectors from "../../../spec/vectors/codes.json" with { type: "json" };
import { connectingClient, reconnectClient, logEvents, connectedClient, Peer, acceptClient } from "./client_setup.js";

test("the first command is connect, on the websocket endpoint", async () => {
  const { window } = await connectingClient({ data: { tab: 1 }, headers: { "X-Team": "a" } });
  const peer = new Peer(window.socket);

  window.socket.accept();

  assert.equal(window.socket.url, "wss://site.test/connection/websocket");
  const { id, body } = await peer.command("connect");
  assert.equal(id, 1);
  assert.deepEqual(body, {
    name: "tiderace",
    data: { tab: 1 },
    headers: { "X-Team": "a" },
    subs: {},
  });
});

test("a slash is appended to a prefix without one", async () => {
  const window = new FakeWindow();

  new Client("https://live.test/rt", { window });
  await settle();

  assert.equal(window.socket.url, "wss://live.test/rt/websocket");
});

test("a client is connected when the server answers connect", async () => {
  const { window, client } = await connectingClient();
  const seen = logEvents(client, "connecting", "connected");

  assert.equal(client.state, "connecting");
  await acceptClient(window, { client: "c7", data: { motd: "hi" } });

  assert.equal(client.state, "connected");
  assert.equal(client.transport, "websocket");
  assert.deepEqual(seen, [
    ["connected", { client: "c7", transport: "websocket", data: { motd: "hi" } }],
  ]);
});

test("a client reconnects after a lost connection", async () => {
  const { window, client } = await connectedClient();
  const seen = logEvents(client, "connecting", "connected", "disconnected");

  await reconnectClient(window, { client: "c2" });

  assert.deepEqual(seen, [
    ["connecting", { code: 1006, reason: "" }],
    ["connected", { client: "c2", transport: "websocket", data: undefined }],
  ]);
});

test("a URL that cannot be parsed ends the client with an error", async () => {
  const window = new FakeWindow();
  const client = new Client("https://[", { window });
  const seen = logEvents(client, "error", "disconnected");

  await window.advance(600);

  assert.deepEqual(
    seen.map(([type]) => type),
    ["error", "disconnected"],
  );
  assert.equal(window.timers, 0);
});

for (const [options, message] of [
  [{ transports: ["websockets"] }, 'unknown transports "websockets"; known: websocket, http_stream, sse'],
  [{ transports: "ws" }, 'unknown transports "ws"; known: websocket, http_stream, sse'],
  [{ whenFull: "drop" }, 'unknown whenFull "drop"; known: throw, drop-oldest, drop-newest'],
  [{ getToken: "a-secret" }, 'unknown getToken "string"; known: function'],
  [{ getToken: undefined }, 'unknown getToken "undefined"; known: function'],
  [{ transports: undefined }, 'unknown transports "undefined"; known: websocket, http_stream, sse'],
  [{ minDelay: "5" }, 'unknown minDelay "string"; known: number, undefined'],
] as [object, string][]) {
  test(`the option ${inspect(options)} is refused`, () => {
    assert.throws(() => new Client("/connection/", options), { name: "TypeError", message });
  });
}

for (const [options, message] of [
  [{ since: 5 }, 'unknown since "number"; known: object, undefined'],
  [{ getToken: true }, 'unknown getToken "boolean"; known: function'],
  [{ getState: {} }, 'unknown getState "object"; known: function'],
  [{ getState: undefined }, 'unknown getState "undefined"; known: function'],
  [{ getToken: undefined }, 'unknown getToken "undefined"; known: function'],
] as [object, string][]) {
  test(`the option ${inspect(options)} of a subscription is refused`, async () => {
    const { client } = await connectedClient();

    assert.throws(() => client.subscribe("room", options), { name: "TypeError", message });
  });
}

test("options that a page may not have are undefined", async () => {
  const options = { token: undefined, data: undefined, headers: undefined };
  const { client } = await connectedClient(options as object);
  const none = { since: undefined, token: undefined, data: undefined, tagsFilter: undefined };

  assert.doesNotThrow(() => client.subscribe("room", none as object));
});

test("an unknown option is refused by name, also when it is undefined", () => {
  const options = { window: new FakeWindow(), getTokn: () => "" };

  assert.throws(() => new Client("/connection/", options), /unknown option "getTokn"; known: .*getToken/);
  assert.throws(
    () => new Client("/connection/", { ...options, getTokn: undefined } as object),
    /unknown option "getTokn"/,
  );
});

test("every step of an outage is a state event", async () => {
  const { window, client } = await connectedClient({ minDelay: 2, maxDelay: 2 });
  const seen = logEvents(client, "state");

  window.socket.break();
  await window.advance(2);
  window.goOffline();
  window.goOnline();
  await settle();
  await acceptClient(window);
  client.disconnect();

  assert.deepEqual(
    seen.map(([, { state, status, delay }]) => [state, status, delay]),
    [
      ["connecting", "waiting", 2],
      ["connecting", "connecting", 0],
      ["connected", "open", 0],
      ["disconnected", "closed", 0],
    ],
  );
});

for (const { code, reconnect } of vectors.close) {
  test(`after a close with ${code} it ${reconnect ? "comes back" : "stays away"}`, async () => {
    const { window, client } = await connectedClient();
    const seen = logEvents(client, "disconnected");

    window.socket.serverClose(code, "so");
    await window.advance(2);

    assert.equal(window.sockets.length, reconnect ? 2 : 1);
    assert.equal(client.state, reconnect ? "connecting" : "disconnected");
    assert.deepEqual(seen, reconnect ? [] : [["disconnected", { code, reason: "so" }]]);
  });
}

test("a final close leaves no timer behind", async () => {
  const { window } = await connectedClient();

  window.socket.serverClose(3500);

  assert.equal(window.timers, 0);
  assert.equal(window.listeners, 0);
});

test("a client reconnects after a drain with the first delay, whatever failed before", async () => {
  const { window } = await connectingClient({ minDelay: 1, maxDelay: 64 });
  window.chance = 1;
  for (let failures = 0; failures < 4; failures++) {
    window.socket.break();
    await window.advance(64);
  }
  await acceptClient(window);
  const before = window.sockets.length;

  window.socket.serverClose(3001, "shutdown");
  await window.advance(2);

  assert.equal(window.sockets.length, before + 1);
});

test("delays grow from attempt to attempt", async () => {
  const { window, client } = await connectingClient({ minDelay: 1, maxDelay: 8, transports: ["websocket"] });
  window.chance = 1;
  const seen = logEvents(client, "state");

  for (let attempt = 0; attempt < 4; attempt++) {
    window.socket.break();
    await window.advance(10);
  }

  const delays = seen.filter(([, { status }]) => status === "waiting").map(([, { delay }]) => delay);
  assert.deepEqual(delays, [2, 3, 5, 8]);
});

test("a hidden page waits for the longest delay", async () => {
  const { window, client } = await connectedClient({ minDelay: 1, maxDelay: 60 });
  window.chance = 1;
  const seen = logEvents(client, "state");
  window.hide();

  window.socket.break();

  assert.equal(seen.at(-1)![1].delay, 60);
});

test("a page that is shown again connects at once", async () => {
  const { window } = await connectedClient({ minDelay: 1, maxDelay: 60 });
  window.chance = 1;
  window.hide();
  window.socket.break();

  window.show();
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a page in the page cache disconnects and reconnects when it is shown", async () => {
  const { window, client } = await connectedClient();

  window.fire("pagehide");
  assert.equal(client.state, "connecting");
  window.fire("pageshow");
  await settle();
  await acceptClient(window);

  assert.equal(client.state, "connected");
});

test("a timeout of an attempt that the page cache ended does not affect the next", async () => {
  const { window, client } = await connectingClient();
  window.socket.accept();
  await settle();
  window.fire("pagehide");
  window.fire("pageshow");
  await settle();
  await acceptClient(window);

  await window.advance(14);

  assert.equal(client.state, "connected");
});

test("a connect command without a reply fails the attempt", async () => {
  const { window, client } = await connectingClient({ transports: ["websocket"] });
  const errors = logEvents(client, "error");

  window.socket.accept();
  await window.advance(9.9);
  assert.deepEqual(errors, []);
  await window.advance(0.1);

  assert.match(String(errors[0]![1]), /no reply within 10 s/);
  assert.equal(window.socket.readyState, 2);
});

test("a temporary error of connect is followed by another attempt", async () => {
  const { window, client } = await connectingClient();
  const peer = new Peer(window.socket);
  window.socket.accept();

  peer.replyError(await peer.command("connect"), 111, "too many requests", true);
  await window.advance(2);

  assert.equal(client.state, "connecting");
  assert.equal(window.sockets.length, 2);
});

test("a final error of connect ends the client with its code", async () => {
  const { window, client } = await connectingClient();
  const seen = logEvents(client, "disconnected");
  const peer = new Peer(window.socket);
  window.socket.accept();

  peer.replyError(await peer.command("connect"), 101, "unauthorized");
  window.socket.serverClose(1000);
  await window.advance(600);

  assert.deepEqual(seen, [["disconnected", { code: 101, reason: "unauthorized" }]]);
  assert.equal(window.sockets.length, 1);
  assert.equal(window.listeners, 0);
});

test("connect connects a disconnected client", async () => {
  const { window, client } = await connectedClient();
  const seen = logEvents(client, "disconnected", "connecting", "connected");

  client.disconnect();
  assert.equal(client.state, "disconnected");
  client.disconnect();
  client.connect();
  client.connect();
  await settle();
  await acceptClient(window);

  assert.equal(client.state, "connected");
  assert.deepEqual(
    seen.map(([type, { code }]) => [type, code]),
    [
      ["disconnected", 0],
      ["connecting", 0],
      ["connected", undefined],
    ],
  );
});

test("connect on a connected client changes nothing", async () => {
  const { window, client, peer } = await connectedClient();

  client.connect();
  await settle();

  assert.equal(peer.native.closedWith, undefined);
  assert.equal(window.sockets.length, 1);
});

test("disconnect leaves no timer and no listener behind", async () => {
  const { window, client, peer } = await connectedClient({ getToken: () => "t" }, { expires: true, ttl: 60 });
  const room = client.subscribe("room", { presence: true });
  peer.reply((await peer.commands())[0]!, {});
  const call = client.call("slow");

  client.disconnect();
  await assert.rejects(call, { code: 2 });
  window.socket.serverClose(1000);
  await settle();

  assert.equal(window.timers, 0);
  assert.equal(window.listeners, 0);
  assert.equal(room.state, "subscribing");
});

test("subscriptions continue after disconnect and connect", async () => {
  const { window, client, peer } = await connectedClient();
  const room = client.subscribe("room");
  peer.reply(await peer.command("subscribe"));
  client.disconnect();

  client.connect();
  await settle();
  const next = await acceptClient(window);

  assert.equal((await next.command("subscribe")).body.channel, "room");
  assert.equal(room.state, "subscribing");
});

// Heartbeat

test("a ping is answered when the server expects a pong", async () => {
  const { peer } = await connectedClient();

  peer.send({});

  assert.deepEqual(peer.frames(), ["{}"]);
});

test("a ping is not answered when the server expects no pong", async () => {
  const { peer } = await connectedClient({}, { pong: undefined });

  peer.send({});

  assert.deepEqual(peer.frames(), []);
});

test("a connection is lost after ten seconds of silence beyond the ping interval", async () => {
  const { window, client } = await connectedClient({}, { ping: 25 });

  await window.advance(34.9);
  assert.equal(client.state, "connected");
  await window.advance(0.1);

  assert.equal(client.state, "connecting");
});

test("any frame restarts the heartbeat", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 25 });

  await window.advance(29);
  peer.publish("unknown", 1);
  await window.advance(29);

  assert.equal(client.state, "connected");
});

test("a ping is sent to a silent server", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 25 });

  await window.advance(30);
  const { id, body } = await peer.command("ping");
  assert.equal(id, 2);
  assert.deepEqual(body, {});
  peer.reply({ id, method: "ping", body });
  await window.advance(29);

  assert.equal(client.state, "connected");
});

test("a ping is sent at once when the page is shown again", async () => {
  const { window, peer } = await connectedClient();
  window.hide();

  window.show();

  await peer.command("ping");
});

test("without a ping interval silence does not end the connection", async () => {
  const { window, client } = await connectedClient({}, { ping: 0 });

  await window.advance(3600);

  assert.equal(client.state, "connected");
});

// Frames

test("commands of one task are sent in one frame", async () => {
  const { client, peer } = await connectedClient();

  client.subscribe("a");
  client.subscribe("b");
  void client.call("c");
  await settle();

  const frames = peer.frames();
  assert.equal(frames.length, 1);
  assert.equal(frames[0]!.split("\n").length, 3);
});

test("a frame stays below the server's limit", async () => {
  const { client, peer } = await connectedClient();

  for (let n = 0; n < 5; n++) void client.publish("room", "x".repeat(6000)).catch(() => undefined);
  await settle();

  const frames = peer.frames();
  assert.deepEqual(
    frames.map((frame) => frame.split("\n").length),
    [2, 2, 1],
  );
});

test("a command that is longer than a frame is sent alone", async () => {
  const { client, peer } = await connectedClient();

  void client.call("first");
  void client.call("long", "x".repeat(20000));
  await settle();

  assert.deepEqual(
    peer.frames().map((frame) => frame.split("\n").length),
    [1, 1],
  );
});

test("replies and publications of one frame are handled in order", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room");
  const seen = logEvents(room, "subscribed", "publication");
  const [command] = await peer.commands();

  peer.send(
    { id: command!.id, subscribe: {} },
    { push: { channel: "room", pub: { data: "right after" } } },
  );

  assert.deepEqual(
    seen.map(([type]) => type),
    ["subscribed", "publication"],
  );
});

test("command ids are not reused on the next connection", async () => {
  const { window, client } = await connectedClient();
  void client.call("a").catch(() => undefined);
  await settle();
  window.socket.break();
  await window.advance(2);
  const peer = new Peer(window.socket);

  window.socket.accept();

  assert.equal((await peer.command("connect")).id, 3);
});

test("a reply with an unknown id is ignored", async () => {
  const { client, peer } = await connectedClient();
  const errors = logEvents(client, "error");

  peer.send({ id: 999, rpc: {} });

  assert.equal(client.state, "connected");
  assert.deepEqual(errors, []);
});

test("unknown fields and unknown pushes are ignored", async () => {
  const { client, peer } = await connectedClient();
  const errors = logEvents(client, "error");
  const room = client.subscribe("room");
  peer.reply(await peer.command("subscribe"), { news: 1 });

  peer.send({ push: { channel: "room", fossil: {} } }, { push: { news: {} } }, { news: 1 });

  assert.equal(room.state, "subscribed");
  assert.deepEqual(errors, []);
  assert.deepEqual(peer.frames(), []);
});

for (const frame of ["{", "null", '{"push":null}\nx', '{"push":{"channel":"room","join":7,"leave":{}}}', new Blob(["{}"])]) {
  test(`a malformed frame is an error and a new connection: ${frame}`, async () => {
    const { window, client, peer } = await connectedClient();
    const room = client.subscribe("room", { presence: true });
    peer.reply((await peer.commands())[0]!);
    const errors = logEvents(client, "error");

    window.socket.receive(frame);
    assert.equal(errors.length, 1);
    assert.equal(client.state, "connecting");
    await reconnectClient(window);

    assert.equal(client.state, "connected");
    assert.equal(room.state, "subscribing");
  });
}

test("lines after a malformed line are ignored", async () => {
  const { window, client } = await connectedClient();
  const seen = logEvents(client, "message", "error");

  window.socket.receive('{\n{"push":{"message":{"data":1}}}\n{');

  assert.deepEqual(
    seen.map(([type]) => type),
    ["error"],
  );
});

test("a message push is a message event", async () => {
  const { client, peer } = await connectedClient();
  const seen: unknown[] = [];
  client.addEventListener("message", ({ data }) => seen.push(data));

  peer.send({ push: { message: { data: { motd: "hi" } } } });

  assert.deepEqual(seen, [{ motd: "hi" }]);
});

test("a disconnect push acts as a close code", async () => {
  const { client, peer } = await connectedClient();
  const seen = logEvents(client, "disconnected");

  peer.send({ push: { disconnect: { code: 3503, reason: "kicked" } } });

  assert.deepEqual(seen, [["disconnected", { code: 3503, reason: "kicked" }]]);
});

test("a disconnect push with a temporary code is followed by an attempt", async () => {
  const { window, client, peer } = await connectedClient();

  peer.send({ push: { disconnect: { code: 3001, reason: "shutdown", reconnect: true } } });
  await window.advance(1);

  assert.equal(client.state, "connecting");
  assert.equal(window.sockets.length, 2);
});

test("lines after a disconnect push are ignored", async () => {
  const { client, peer } = await connectedClient();
  const seen = logEvents(client, "message");

  peer.send({ push: { disconnect: { code: 3001, reason: "" } } }, { push: { message: { data: 1 } } });

  assert.deepEqual(seen, []);
});

test("empty lines are ignored", async () => {
  const { window, client, peer } = await connectedClient();
  const seen = logEvents(client, "message", "error");

  window.socket.receive('\n{"push":{"message":{"data":1}}}\n\n');

  assert.equal(seen.length, 1);
  assert.deepEqual(peer.frames(), []);
});

for (const { name, text } of frames.filter(({ by }: { by: string }) => by === "server")) {
  test(`a frame of the specification is accepted: ${name}`, async () => {
    const { window, client } = await connectedClient();
    const errors = logEvents(client, "error");

    window.socket.receive(text);

    assert.deepEqual(errors, []);
  });
}

// Calls

test("a call is an rpc command, and its result the data of the reply", async () => {
  const { client, peer } = await connectedClient();

  const call = client.call("add", { a: 1 });
  const command = await peer.command("rpc");
  peer.reply(command, { data: { sum: 3 } });

  assert.deepEqual(command.body, { method: "add", data: { a: 1 } });
  assert.deepEqual(await call, { sum: 3 });
});

test("an error of a call has a code and whether it is temporary", async () => {
  const { client, peer } = await connectedClient();

  const call = client.call("add");
  peer.replyError(await peer.command("rpc"), 422, "no numbers", true);

  await assert.rejects(call, {
    name: "TopicError",
    code: 422,
    message: "no numbers",
    temporary: true,
  });
});

test("a call waits for the connection", async () => {
  const { window, client } = await connectingClient();

  const call = client.call("add");
  const peer = await acceptClient(window);
  peer.reply(await peer.command("rpc"), { data: 1 });

  assert.equal(await call, 1);
});

test("a call is not repeated when the connection is lost before the reply", async () => {
  const { window, client, peer } = await connectedClient();
  const call = client.call("pay");
  await peer.command("rpc");

  const rejected = assert.rejects(call, { code: 2, temporary: true });
  const next = await reconnectClient(window);

  await rejected;
  assert.deepEqual(await next.commands(), []);
});

test("a call without a reply is rejected after the timeout", async () => {
  const { window, client, peer } = await connectedClient({ timeout: 3 }, { ping: 0 });
  const call = client.call("slow");
  const command = await peer.command("rpc");

  const rejected = assert.rejects(call, { code: 1, temporary: true });
  await window.advance(3);
  await rejected;
  peer.reply(command, { data: "late" });

  assert.equal(client.state, "connected");
});

test("a call without a connection is rejected after the timeout and not sent", async () => {
  const { window, client } = await connectingClient({ timeout: 3 });
  const call = client.call("slow");

  const rejected = assert.rejects(call, { code: 1 });
  await window.advance(3);
  await rejected;
  const peer = await acceptClient(window);

  assert.deepEqual(await peer.commands(), []);
});

test("a call on a disconnected client is rejected", async () => {
  const { client } = await connectedClient();
  client.disconnect();

  await assert.rejects(client.call("add"), { code: 3, temporary: false });
  await assert.rejects(client.publish("room", 1), { code: 3 });
});

test("a waiting call is rejected when the client is disconnected", async () => {
  const { client } = await connectingClient();
  const call = client.call("add");

  client.disconnect();

  await assert.rejects(call, { code: 3 });
});

test("send sends a message without an id", async () => {
  const { client, peer } = await connectedClient();

  assert.equal(client.send({ typing: true }), true);
  await settle();

  assert.deepEqual(peer.frames(), ['{"send":{"data":{"typing":true}}}']);
});

test("send does not wait for a connection", async () => {
  const { window, client } = await connectingClient();

  assert.equal(client.send("lost"), false);

  assert.deepEqual(await (await acceptClient(window)).commands(), []);
});

// Server-side subscriptions

test("events of a server-side subscription are emitted by the client, with the topic", async () => {
  const { client, peer } = await connectedClient({}, { subs: { "#7": { recoverable: true, epoch: "e" } } });
  const seen = logEvents(client, "publication", "join", "leave", "unsubscribed");
  const info = { user: "7", client: "c" };

  peer.push("#7", { pub: { data: "hi", offset: 1 } });
  peer.push("#7", { join: { info } });
  peer.push("#7", { leave: { info } });
  peer.push("#7", { unsubscribe: { code: 2000, reason: "over" } });
  peer.push("#7", { pub: { data: "late", offset: 2 } });

  assert.deepEqual(seen, [
    ["publication", { topic: "#7", data: "hi", offset: 1 }],
    ["join", { topic: "#7", ...info }],
    ["leave", { topic: "#7", ...info }],
    ["unsubscribed", { topic: "#7", code: 2000, reason: "over" }],
  ]);
});

test("a server-side subscription is recovered with the connection", async () => {
  const sub = { recoverable: true, epoch: "e", offset: 4 };
  const { window, client, peer } = await connectedClient({}, { subs: { "#7": sub } });
  peer.publish("#7", "five", 5);
  const seen = logEvents(client, "subscribed", "publication", "gap");
  window.socket.break();
  await window.advance(2);
  const next = new Peer(window.socket);

  window.socket.accept();
  const connect = await next.command("connect");
  next.reply(connect, {
    client: "c2",
    subs: { "#7": { ...sub, offset: 5, recovered: true, publications: [{ data: "six", offset: 6 }] } },
  });

  assert.deepEqual(connect.body.subs, { "#7": { recover: true, offset: 5, epoch: "e" } });
  assert.deepEqual(seen, [
    ["subscribed", {
      topic: "#7",
      recovered: true,
      wasRecovering: true,
      data: undefined,
      publications: [{ data: "six", offset: 6 }],
    }],
    ["publication", { topic: "#7", data: "six", offset: 6 }],
  ]);
});

test("server-side subscriptions are not recovered after their state was invalidated", async () => {
  const sub = { recoverable: true, epoch: "e", offset: 4 };
  const { window, client } = await connectedClient({}, { subs: { "#7": sub } });
  const seen = logEvents(client, "gap");

  window.socket.serverClose(3014);
  await window.advance(2);
  const next = new Peer(window.socket);
  window.socket.accept();
  const connect = await next.command("connect");
  next.reply(connect, { client: "c2", subs: { "#7": { ...sub, offset: 5 } } });

  assert.deepEqual(connect.body.subs, {});
  assert.equal(seen.length, 1);
});

test("a server-side subscription that is missing after a reconnect is unsubscribed", async () => {
  const { window, client } = await connectedClient({}, { subs: { "#7": {} } });
  const seen = logEvents(client, "unsubscribed");

  await reconnectClient(window);

  assert.deepEqual(seen, [
    ["unsubscribed", { topic: "#7", code: 2000, reason: "not subscribed" }],
  ]);
});

test("a subscribe push starts a server-side subscription", async () => {
  const { client, peer } = await connectedClient();
  const seen = logEvents(client, "subscribed", "publication");

  peer.push("news", { subscribe: { data: "welcome" } });
  peer.publish("news", "first");

  assert.deepEqual(seen, [
    ["subscribed", { topic: "news", recovered: false, wasRecovering: false, data: "welcome", publications: [] }],
    ["publication", { topic: "news", data: "first" }],
  ]);
});

test("publications of a topic without a subscription are ignored", async () => {
  const { client, peer } = await connectedClient();
  const seen = logEvents(client, "publication");

  peer.publish("unknown", 1);

  assert.deepEqual(seen, []);
});

// The page's settings

function page(elements: Record<string, object>): void {
  const scripts = Object.entries(elements).map(([id, value]) => [
    `script#${id}`,
    { textContent: JSON.stringify(value) },
  ]);
  const bySelector = new Map(scripts as [string, unknown][]);
  const querySelector = (selector: string) => bySelector.get(selector) ?? null;
  Object.assign(globalThis, { document: { querySelector } });
}

test("the page's settings apply to topics()", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-config": { topics: "/live/", minDelay: 3, heartbeat: 25 } });
  const window = new FakeWindow();

  const client = topics({ window });
  await settle();
  const seen = logEvents(client, "state");
  await acceptClient(window);
  window.socket.break();

  assert.equal(window.socket.url, "wss://site.test/live/websocket");
  assert.equal(seen.at(-1)![1].delay, 3);
});

test("the page's heartbeat and retryOn do not apply to topics()", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-config": { heartbeat: 1, retryOn: [3500] } });
  const window = new FakeWindow();
  const client = topics({ window });
  await settle();
  const peer = await acceptClient(window, { ping: 0 });

  await window.advance(60);
  assert.deepEqual(await peer.commands(), []);
  window.socket.serverClose(3500);

  assert.equal(client.state, "disconnected");
});

test("a given url overrides the page's", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-config": { topics: "/live/" } });
  const window = new FakeWindow();

  topics({ url: "/other/", window });
  await settle();

  assert.equal(window.socket.url, "wss://site.test/other/websocket");
});

test("positions of the page are used once, by the first subscription to each topic", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-positions": { positions: { room: ["e1", 7] } } });
  const window = new FakeWindow();
  const client = topics({ window });
  await settle();
  const peer = await acceptClient(window);

  const room = client.subscribe("room");
  const first = await peer.command("subscribe");
  room.unsubscribe();
  client.subscribe("room");
  const second = (await peer.commands()).at(-1)!;

  assert.deepEqual(first.body, {
    channel: "room",
    recoverable: true,
    recover: true,
    offset: 7,
    epoch: "e1",
  });
  assert.deepEqual(second.body, { channel: "room", recoverable: true });
});
