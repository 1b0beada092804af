/** One connection to the topics: its greeting, its states, its heartbeat, its frames. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, topics } from "../src/index.js";
import { FakeWindow, settle } from "./fakes.js";
import frames from "../../../spec/vectors/frames.json" with { type: "json" };
import vectors from "../../../spec/vectors/codes.json" with { type: "json" };
import { calling, comeBack, log, online, Peer, welcome } from "./peer.js";

test("the first command is connect, on the websocket endpoint", async () => {
  const { window } = await calling({ data: { tab: 1 }, headers: { "X-Team": "a" } });
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

test("a prefix without a slash at its end is one with it", async () => {
  const window = new FakeWindow();

  new Client("https://live.test/rt", { window });
  await settle();

  assert.equal(window.socket.url, "wss://live.test/rt/websocket");
});

test("a client is connected when the server has welcomed it", async () => {
  const { window, client } = await calling();
  const seen = log(client, "connecting", "connected");

  assert.equal(client.state, "connecting");
  await welcome(window, { client: "c7", data: { motd: "hi" } });

  assert.equal(client.state, "connected");
  assert.equal(client.transport, "websocket");
  assert.deepEqual(seen, [
    ["connected", { client: "c7", transport: "websocket", data: { motd: "hi" } }],
  ]);
});

test("a lost connection is one to come back from", async () => {
  const { window, client } = await online();
  const seen = log(client, "connecting", "connected", "disconnected");

  await comeBack(window, { client: "c2" });

  assert.deepEqual(seen, [
    ["connecting", { code: 1006, reason: "" }],
    ["connected", { client: "c2", transport: "websocket", data: undefined }],
  ]);
});

test("an address that cannot be parsed is an error and the end", async () => {
  const window = new FakeWindow();
  const client = new Client("https://[", { window });
  const seen = log(client, "error", "disconnected");

  await window.advance(600);

  assert.deepEqual(
    seen.map(([type]) => type),
    ["error", "disconnected"],
  );
  assert.equal(window.timers, 0);
});

test("an unknown option is refused by name", () => {
  const options = { window: new FakeWindow(), getTokn: () => "" };

  assert.throws(() => new Client("/connection/", options), /unknown option "getTokn"; known: .*getToken/);
});

test("a badge hears every step of an outage", async () => {
  const { window, client } = await online({ minDelay: 2, maxDelay: 2 });
  const seen = log(client, "state");

  window.socket.break();
  await window.advance(2);
  window.goOffline();
  window.goOnline();
  await settle();
  await welcome(window);
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
    const { window, client } = await online();
    const seen = log(client, "disconnected");

    window.socket.hangUp(code, "so");
    await window.advance(2);

    assert.equal(window.sockets.length, reconnect ? 2 : 1);
    assert.equal(client.state, reconnect ? "connecting" : "disconnected");
    assert.deepEqual(seen, reconnect ? [] : [["disconnected", { code, reason: "so" }]]);
  });
}

test("a final close leaves no timer behind", async () => {
  const { window } = await online();

  window.socket.hangUp(3500);

  assert.equal(window.timers, 0);
  assert.equal(window.listeners, 0);
});

test("after a drain it comes back with the first delay, however long the outage was", async () => {
  const { window } = await calling({ minDelay: 1, maxDelay: 64 });
  window.chance = 1;
  for (let failures = 0; failures < 4; failures++) {
    window.socket.break();
    await window.advance(64);
  }
  await welcome(window);
  const before = window.sockets.length;

  window.socket.hangUp(3001, "shutdown");
  await window.advance(2);

  assert.equal(window.sockets.length, before + 1);
});

test("pauses grow from attempt to attempt", async () => {
  const { window, client } = await calling({ minDelay: 1, maxDelay: 8, transports: ["websocket"] });
  window.chance = 1;
  const seen = log(client, "state");

  for (let attempt = 0; attempt < 4; attempt++) {
    window.socket.break();
    await window.advance(10);
  }

  const delays = seen.filter(([, { status }]) => status === "waiting").map(([, { delay }]) => delay);
  assert.deepEqual(delays, [2, 3, 5, 8]);
});

test("a hidden page waits with the longest pauses", async () => {
  const { window, client } = await online({ minDelay: 1, maxDelay: 60 });
  window.chance = 1;
  const seen = log(client, "state");
  window.hide();

  window.socket.break();

  assert.equal(seen.at(-1)![1].delay, 60);
});

test("a page that is shown again connects at once", async () => {
  const { window } = await online({ minDelay: 1, maxDelay: 60 });
  window.chance = 1;
  window.hide();
  window.socket.break();

  window.show();
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a page that is put away hangs up and comes back with its return", async () => {
  const { window, client } = await online();

  window.fire("pagehide");
  assert.equal(client.state, "connecting");
  window.fire("pageshow");
  await settle();
  await welcome(window);

  assert.equal(client.state, "connected");
});

test("an attempt that the page cache cut off has no say in the next", async () => {
  const { window, client } = await calling();
  window.socket.accept();
  await settle();
  window.fire("pagehide");
  window.fire("pageshow");
  await settle();
  await welcome(window);

  await window.advance(14);

  assert.equal(client.state, "connected");
});

test("a connect that is not answered is given up", async () => {
  const { window, client } = await calling({ transports: ["websocket"] });
  const errors = log(client, "error");

  window.socket.accept();
  await window.advance(9.9);
  assert.deepEqual(errors, []);
  await window.advance(0.1);

  assert.match(String(errors[0]![1]), /no answer to connect within 10 s/);
  assert.equal(window.socket.readyState, 2);
});

test("a temporary refusal to connect is followed by another attempt", async () => {
  const { window, client } = await calling();
  const peer = new Peer(window.socket);
  window.socket.accept();

  peer.refuse(await peer.command("connect"), 111, "too many requests", true);
  await window.advance(2);

  assert.equal(client.state, "connecting");
  assert.equal(window.sockets.length, 2);
});

test("a final refusal to connect ends the client with its code", async () => {
  const { window, client } = await calling();
  const seen = log(client, "disconnected");
  const peer = new Peer(window.socket);
  window.socket.accept();

  peer.refuse(await peer.command("connect"), 101, "unauthorized");
  window.socket.hangUp(1000);
  await window.advance(600);

  assert.deepEqual(seen, [["disconnected", { code: 101, reason: "unauthorized" }]]);
  assert.equal(window.sockets.length, 1);
  assert.equal(window.listeners, 0);
});

test("a client that was disconnected connects again when asked", async () => {
  const { window, client } = await online();
  const seen = log(client, "disconnected", "connecting", "connected");

  client.disconnect();
  assert.equal(client.state, "disconnected");
  client.disconnect();
  client.connect();
  client.connect();
  await settle();
  await welcome(window);

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

test("connecting a client that is connected changes nothing", async () => {
  const { window, client, peer } = await online();

  client.connect();
  await settle();

  assert.equal(peer.native.closedWith, undefined);
  assert.equal(window.sockets.length, 1);
});

test("disconnecting leaves no timer and no listener behind", async () => {
  const { window, client, peer } = await online({ getToken: () => "t" }, { expires: true, ttl: 60 });
  const room = client.subscribe("room", { presence: true });
  peer.answer((await peer.commands())[0]!, {});
  const call = client.call("slow");

  client.disconnect();
  await assert.rejects(call, { code: 2 });
  window.socket.hangUp(1000);
  await settle();

  assert.equal(window.timers, 0);
  assert.equal(window.listeners, 0);
  assert.equal(room.state, "subscribing");
});

test("subscriptions outlive a disconnect", async () => {
  const { window, client, peer } = await online();
  const room = client.subscribe("room");
  peer.answer(await peer.command("subscribe"));
  client.disconnect();

  client.connect();
  await settle();
  const next = await welcome(window);

  assert.equal((await next.command("subscribe")).body.channel, "room");
  assert.equal(room.state, "subscribing");
});

// Heartbeat

test("a ping is answered when the server asks for it", async () => {
  const { peer } = await online();

  peer.say({});

  assert.deepEqual(peer.frames(), ["{}"]);
});

test("a ping is not answered when the server does not ask for it", async () => {
  const { peer } = await online({}, { pong: undefined });

  peer.say({});

  assert.deepEqual(peer.frames(), []);
});

test("a server that was silent for its interval and ten seconds is dead", async () => {
  const { window, client } = await online({}, { ping: 25 });

  await window.advance(34.9);
  assert.equal(client.state, "connected");
  await window.advance(0.1);

  assert.equal(client.state, "connecting");
});

test("any frame is a sign of life", async () => {
  const { window, client, peer } = await online({}, { ping: 25 });

  await window.advance(29);
  peer.publish("unknown", 1);
  await window.advance(29);

  assert.equal(client.state, "connected");
});

test("a silent server is asked before it is given up", async () => {
  const { window, client, peer } = await online({}, { ping: 25 });

  await window.advance(30);
  const { id, body } = await peer.command("ping");
  assert.equal(id, 2);
  assert.deepEqual(body, {});
  peer.answer({ id, method: "ping", body });
  await window.advance(29);

  assert.equal(client.state, "connected");
});

test("a page that is shown again asks an open connection at once", async () => {
  const { window, peer } = await online();
  window.hide();

  window.show();

  await peer.command("ping");
});

test("without an interval the server is never given up", async () => {
  const { window, client } = await online({}, { ping: 0 });

  await window.advance(3600);

  assert.equal(client.state, "connected");
});

// Frames

test("commands of one task go out in one frame", async () => {
  const { client, peer } = await online();

  client.subscribe("a");
  client.subscribe("b");
  void client.call("c");
  await settle();

  const frames = peer.frames();
  assert.equal(frames.length, 1);
  assert.equal(frames[0]!.split("\n").length, 3);
});

test("a frame stays below what a server takes", async () => {
  const { client, peer } = await online();

  for (let n = 0; n < 5; n++) void client.publish("room", "x".repeat(6000)).catch(() => undefined);
  await settle();

  const frames = peer.frames();
  assert.deepEqual(
    frames.map((frame) => frame.split("\n").length),
    [2, 2, 1],
  );
});

test("one message that is longer than a frame is sent alone", async () => {
  const { client, peer } = await online();

  void client.call("first");
  void client.call("long", "x".repeat(20000));
  await settle();

  assert.deepEqual(
    peer.frames().map((frame) => frame.split("\n").length),
    [1, 1],
  );
});

test("many answers come in one frame, with publications between them", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room");
  const seen = log(room, "subscribed", "publication");
  const [asked] = await peer.commands();

  peer.say(
    { id: asked!.id, subscribe: {} },
    { push: { channel: "room", pub: { data: "right after" } } },
  );

  assert.deepEqual(
    seen.map(([type]) => type),
    ["subscribed", "publication"],
  );
});

test("command ids grow over connections", async () => {
  const { window, client } = await online();
  void client.call("a").catch(() => undefined);
  await settle();
  window.socket.break();
  await window.advance(2);
  const peer = new Peer(window.socket);

  window.socket.accept();

  assert.equal((await peer.command("connect")).id, 3);
});

test("an answer that nobody waits for is passed over", async () => {
  const { client, peer } = await online();
  const errors = log(client, "error");

  peer.say({ id: 999, rpc: {} });

  assert.equal(client.state, "connected");
  assert.deepEqual(errors, []);
});

test("unknown fields and unknown pushes are passed over", async () => {
  const { client, peer } = await online();
  const errors = log(client, "error");
  const room = client.subscribe("room");
  peer.answer(await peer.command("subscribe"), { news: 1 });

  peer.say({ push: { channel: "room", fossil: {} } }, { push: { news: {} } }, { news: 1 });

  assert.equal(room.state, "subscribed");
  assert.deepEqual(errors, []);
  assert.deepEqual(peer.frames(), []);
});

for (const frame of ["{", "null", '{"push":null}\nx', '{"push":{"channel":"room","join":7,"leave":{}}}', new Blob(["{}"])]) {
  test(`a malformed frame is an error and a new connection: ${frame}`, async () => {
    const { window, client, peer } = await online();
    const room = client.subscribe("room", { presence: true });
    peer.answer((await peer.commands())[0]!);
    const errors = log(client, "error");

    window.socket.receive(frame);
    assert.equal(errors.length, 1);
    assert.equal(client.state, "connecting");
    await comeBack(window);

    assert.equal(client.state, "connected");
    assert.equal(room.state, "subscribing");
  });
}

test("what follows a malformed line is not read", async () => {
  const { window, client } = await online();
  const seen = log(client, "message", "error");

  window.socket.receive('{\n{"push":{"message":{"data":1}}}\n{');

  assert.deepEqual(
    seen.map(([type]) => type),
    ["error"],
  );
});

test("what the server says to the connection is a message event", async () => {
  const { client, peer } = await online();
  const seen: unknown[] = [];
  client.addEventListener("message", ({ data }) => seen.push(data));

  peer.say({ push: { message: { data: { motd: "hi" } } } });

  assert.deepEqual(seen, [{ motd: "hi" }]);
});

test("a disconnect that is pushed is obeyed as a close code is", async () => {
  const { client, peer } = await online();
  const seen = log(client, "disconnected");

  peer.say({ push: { disconnect: { code: 3503, reason: "kicked" } } });

  assert.deepEqual(seen, [["disconnected", { code: 3503, reason: "kicked" }]]);
});

test("a disconnect that is pushed with a code to come back is obeyed too", async () => {
  const { window, client, peer } = await online();

  peer.say({ push: { disconnect: { code: 3001, reason: "shutdown", reconnect: true } } });
  await window.advance(1);

  assert.equal(client.state, "connecting");
  assert.equal(window.sockets.length, 2);
});

test("what follows a disconnect in its frame is not read", async () => {
  const { client, peer } = await online();
  const seen = log(client, "message");

  peer.say({ push: { disconnect: { code: 3001, reason: "" } } }, { push: { message: { data: 1 } } });

  assert.deepEqual(seen, []);
});

test("empty lines say nothing", async () => {
  const { window, client, peer } = await online();
  const seen = log(client, "message", "error");

  window.socket.receive('\n{"push":{"message":{"data":1}}}\n\n');

  assert.equal(seen.length, 1);
  assert.deepEqual(peer.frames(), []);
});

for (const { name, text } of frames.filter(({ by }: { by: string }) => by === "server")) {
  test(`a frame of the specification is understood: ${name}`, async () => {
    const { window, client } = await online();
    const errors = log(client, "error");

    window.socket.receive(text);

    assert.deepEqual(errors, []);
  });
}

// Calls

test("a call is an rpc and its answer the data of the result", async () => {
  const { client, peer } = await online();

  const call = client.call("add", { a: 1 });
  const asked = await peer.command("rpc");
  peer.answer(asked, { data: { sum: 3 } });

  assert.deepEqual(asked.body, { method: "add", data: { a: 1 } });
  assert.deepEqual(await call, { sum: 3 });
});

test("a refused call says its code and whether to try again", async () => {
  const { client, peer } = await online();

  const call = client.call("add");
  peer.refuse(await peer.command("rpc"), 422, "no numbers", true);

  await assert.rejects(call, {
    name: "TopicError",
    code: 422,
    message: "no numbers",
    temporary: true,
  });
});

test("a call waits for the connection", async () => {
  const { window, client } = await calling();

  const call = client.call("add");
  const peer = await welcome(window);
  peer.answer(await peer.command("rpc"), { data: 1 });

  assert.equal(await call, 1);
});

test("a call is not repeated when the connection breaks before the answer", async () => {
  const { window, client, peer } = await online();
  const call = client.call("pay");
  await peer.command("rpc");

  const rejected = assert.rejects(call, { code: 2, temporary: true });
  const next = await comeBack(window);

  await rejected;
  assert.deepEqual(await next.commands(), []);
});

test("a call that is not answered in time is given up", async () => {
  const { window, client, peer } = await online({ timeout: 3 }, { ping: 0 });
  const call = client.call("slow");
  const asked = await peer.command("rpc");

  const rejected = assert.rejects(call, { code: 1, temporary: true });
  await window.advance(3);
  await rejected;
  peer.answer(asked, { data: "late" });

  assert.equal(client.state, "connected");
});

test("a call that finds no connection in time is given up and never sent", async () => {
  const { window, client } = await calling({ timeout: 3 });
  const call = client.call("slow");

  const rejected = assert.rejects(call, { code: 1 });
  await window.advance(3);
  await rejected;
  const peer = await welcome(window);

  assert.deepEqual(await peer.commands(), []);
});

test("a call on a disconnected client is refused", async () => {
  const { client } = await online();
  client.disconnect();

  await assert.rejects(client.call("add"), { code: 3, temporary: false });
  await assert.rejects(client.publish("room", 1), { code: 3 });
});

test("a call that waits is refused when the client is disconnected", async () => {
  const { client } = await calling();
  const call = client.call("add");

  client.disconnect();

  await assert.rejects(call, { code: 3 });
});

test("what needs no answer is said without an id", async () => {
  const { client, peer } = await online();

  assert.equal(client.send({ typing: true }), true);
  await settle();

  assert.deepEqual(peer.frames(), ['{"send":{"data":{"typing":true}}}']);
});

test("what needs no answer is not kept for a connection", async () => {
  const { window, client } = await calling();

  assert.equal(client.send("lost"), false);

  assert.deepEqual(await (await welcome(window)).commands(), []);
});

// Subscriptions that the server makes

test("a subscription of the server is heard on the client, with its topic", async () => {
  const { client, peer } = await online({}, { subs: { "#7": { recoverable: true, epoch: "e" } } });
  const seen = log(client, "publication", "join", "leave", "unsubscribed");
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

test("a subscription of the server is recovered with the connection", async () => {
  const sub = { recoverable: true, epoch: "e", offset: 4 };
  const { window, client, peer } = await online({}, { subs: { "#7": sub } });
  peer.publish("#7", "five", 5);
  const seen = log(client, "subscribed", "publication", "gap");
  window.socket.break();
  await window.advance(2);
  const next = new Peer(window.socket);

  window.socket.accept();
  const connect = await next.command("connect");
  next.answer(connect, {
    client: "c2",
    subs: { "#7": { ...sub, offset: 5, recovered: true, publications: [{ data: "six", offset: 6 }] } },
  });

  assert.deepEqual(connect.body.subs, { "#7": { recover: true, offset: 5, epoch: "e" } });
  assert.deepEqual(seen, [
    ["subscribed", { topic: "#7", recovered: true, wasRecovering: true, data: undefined }],
    ["publication", { topic: "#7", data: "six", offset: 6 }],
  ]);
});

test("a connection whose state was invalidated continues no subscription of the server", async () => {
  const sub = { recoverable: true, epoch: "e", offset: 4 };
  const { window, client } = await online({}, { subs: { "#7": sub } });
  const seen = log(client, "gap");

  window.socket.hangUp(3014);
  await window.advance(2);
  const next = new Peer(window.socket);
  window.socket.accept();
  const connect = await next.command("connect");
  next.answer(connect, { client: "c2", subs: { "#7": { ...sub, offset: 5 } } });

  assert.deepEqual(connect.body.subs, {});
  assert.equal(seen.length, 1);
});

test("a subscription that the server does not renew is told as ended", async () => {
  const { window, client } = await online({}, { subs: { "#7": {} } });
  const seen = log(client, "unsubscribed");

  await comeBack(window);

  assert.deepEqual(seen, [
    ["unsubscribed", { topic: "#7", code: 2000, reason: "not subscribed any more" }],
  ]);
});

test("the server may subscribe a connection at any time", async () => {
  const { client, peer } = await online();
  const seen = log(client, "subscribed", "publication");

  peer.push("news", { subscribe: { data: "welcome" } });
  peer.publish("news", "first");

  assert.deepEqual(seen, [
    ["subscribed", { topic: "news", recovered: false, wasRecovering: false, data: "welcome" }],
    ["publication", { topic: "news", data: "first" }],
  ]);
});

test("publications of a topic that nobody subscribed to are passed over", async () => {
  const { client, peer } = await online();
  const seen = log(client, "publication");

  peer.publish("unheard-of", 1);

  assert.deepEqual(seen, []);
});

// The page's settings

function page(elements: Record<string, object>): void {
  const getElementById = (id: string): unknown =>
    id in elements ? { textContent: JSON.stringify(elements[id]) } : null;
  Object.assign(globalThis, { document: { getElementById } });
}

test("the page says where the topics are, and how long to pause", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-config": { topics: "/live/", minDelay: 3, heartbeat: 25 } });
  const window = new FakeWindow();

  const client = topics({ window });
  await settle();
  const seen = log(client, "state");
  await welcome(window);
  window.socket.break();

  assert.equal(window.socket.url, "wss://site.test/live/websocket");
  assert.equal(seen.at(-1)![1].delay, 3);
});

test("a heartbeat of the page is for its sockets", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-config": { heartbeat: 1, retryOn: [3500] } });
  const window = new FakeWindow();
  const client = topics({ window });
  await settle();
  const peer = await welcome(window, { ping: 0 });

  await window.advance(60);
  assert.deepEqual(await peer.commands(), []);
  window.socket.hangUp(3500);

  assert.equal(client.state, "disconnected");
});

test("an address that is given wins over the page's", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-config": { topics: "/live/" } });
  const window = new FakeWindow();

  topics({ url: "/other/", window });
  await settle();

  assert.equal(window.socket.url, "wss://site.test/other/websocket");
});

test("positions of the page are where its topics continue, once", async (context) => {
  context.after(() => Object.assign(globalThis, { document: undefined }));
  page({ "tiderace-positions": { positions: { room: ["e1", 7] } } });
  const window = new FakeWindow();
  const client = topics({ window });
  await settle();
  const peer = await welcome(window);

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
