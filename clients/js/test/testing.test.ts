/** The fake server for tests of pages, with the real client. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, type ClientOptions } from "../src/index.js";
import { FakeServer, Refusal, type FakeServerOptions } from "../src/testing.js";
import { FakeWindow } from "./fake_browser.js";
import { logEvents } from "./client_setup.js";

/** A fake server and its client, in a window whose clock the test advances. */
function setup(options: FakeServerOptions = {}, client: ClientOptions = {}) {
  const server = new FakeServer(options);
  const window = new FakeWindow();
  window.WebSocket = server.window.WebSocket;
  return { server, window, client: new Client("/connection/", { window, ...client }) };
}

test("a page receives a publication of the server", async () => {
  const { server, client } = setup();
  const room = client.subscribe("room:lobby");
  const seen = logEvents(room, "publication");
  await server.settled();

  const position = server.publish("room:lobby", { text: "hi" }, { tags: { a: "b" } });

  assert.deepEqual(
    seen.map(([, detail]) => detail),
    [{ topic: "room:lobby", data: { text: "hi" }, offset: 1, tags: { a: "b" } }],
  );
  assert.deepEqual(room.position, position);
});

test("the window of a fake server is the only option that a client needs", async () => {
  const server = new FakeServer();
  const client = new Client("/connection/", { window: server.window });
  await server.settled();

  assert.equal(client.state, "connected");
  client.disconnect();
  await server.settled();
  assert.equal(server.connections.size, 0);
});

test("a publication of a page is acknowledged, recorded and delivered", async () => {
  const { server, client } = setup({}, { token: "ada" });
  const room = client.subscribe("room");
  const seen = logEvents(room, "publication");

  const done = room.publish("hi");
  await server.settled();
  await done;

  assert.deepEqual(
    server.published.map(({ topic, data, user }) => [topic, data, user]),
    [["room", "hi", "ada"]],
  );
  assert.equal(seen[0]![1].info.user, "ada");
});

test("an outage is recovered, and a repeated publication accepted once", async () => {
  const { server, window, client } = setup();
  const room = client.subscribe("room");
  const seen = logEvents(room, "publication", "gap");
  await server.settled();
  server.publish("room", 1);
  const done = room.publish(2);
  await Promise.resolve();
  await Promise.resolve();

  server.down();
  server.publish("room", 3);
  await window.advance(5);
  assert.equal(client.state, "connecting");
  server.up();
  await window.advance(20);
  await done;

  assert.deepEqual(
    seen.map(([, { data }]) => data).sort(),
    [1, 2, 3],
  );
  assert.equal(server.published.length, 1);
});

test("a recovery beyond the history is a gap", async () => {
  const { server, window, client } = setup({ history: 2 });
  const room = client.subscribe("room");
  const seen = logEvents(room, "gap");
  await server.settled();
  server.down();
  for (const n of [1, 2, 3]) server.publish("room", n);

  server.up();
  await window.advance(20);

  assert.equal(seen.length, 1);
});

test("forgetHistory causes a gap", async () => {
  const { server, window, client } = setup();
  const room = client.subscribe("room");
  await server.settled();
  server.publish("room", 1);
  const seen = logEvents(room, "gap");

  server.forgetHistory();
  await window.advance(20);

  assert.equal(seen.length, 1);
  assert.equal(room.state, "subscribed");
});

test("an unrecoverable position is refused for a page with getState", async () => {
  const { server, window, client } = setup();
  const position = server.publish("room", 1);
  let calls = 0;
  const room = client.subscribe("room", {
    getState: () => (calls++ ? server.publish("room", 2) : { ...position, epoch: "old" }),
  });

  await window.advance(1);

  assert.equal(calls, 2);
  assert.equal(room.state, "subscribed");
});

test("topics without a history have no positions", async () => {
  const { server, client } = setup({ history: 0 });
  const room = client.subscribe("room");
  await server.settled();

  server.publish("room", 1);

  assert.equal(room.position, undefined);
  await rejectsSoon(server, room.history(), { code: 108 });
});

test("history is read from either end", async () => {
  const { server, client } = setup();
  const room = client.subscribe("room");
  await server.settled();
  for (const n of [1, 2, 3, 4]) server.publish("room", n);
  const { epoch } = room.position!;
  const read = async (...args: Parameters<typeof room.history>): Promise<unknown[]> => {
    const history = room.history(...args);
    await server.settled();
    return (await history).publications.map(({ data }) => data);
  };

  assert.deepEqual(await read(), [1, 2, 3, 4]);
  assert.deepEqual(await read({ limit: 0 }), []);
  assert.deepEqual(await read({ limit: 2 }), [1, 2]);
  assert.deepEqual(await read({ limit: 2, reverse: true }), [4, 3]);
  assert.deepEqual(await read({ since: { offset: 2, epoch } }), [3, 4]);
  assert.deepEqual(await read({ since: { offset: 3, epoch }, reverse: true }), [2, 1]);
  await rejectsSoon(server, room.history({ since: { offset: 1, epoch: "x" } }), { code: 112 });
});

test("clients receive each other's joins and leaves", async () => {
  const { server, window, client } = setup({}, { token: "ada" });
  const room = client.subscribe("room", { presence: true });
  const other = new Client("/connection/", { window, token: "bob" });
  other.subscribe("room");
  const seen = logEvents(room, "joined", "left");
  await server.settled();
  assert.equal(room.presence.size, 2);

  other.disconnect();
  await server.settled();

  assert.deepEqual(
    seen.map(([type, { user }]) => [type, user]),
    [
      ["joined", "ada"],
      ["joined", "bob"],
      ["left", "bob"],
    ],
  );
  assert.deepEqual(Object.keys(server.presence("room")), [...room.presence.keys()]);
});

test("a call runs the method of the test", async () => {
  const { server, client } = setup({}, { token: "ada" });
  server.method("add", ({ a, b }) => a + b);
  server.method("who", async (_, context) => context);
  const room = client.subscribe("room");
  await server.settled();

  const sum = client.call("add", { a: 1, b: 2 });
  const who = room.call("who");
  await server.settled();

  assert.equal(await sum, 3);
  assert.deepEqual(await who, { user: "ada", topic: "room" });
});

test("a method may refuse a call, and a call of an unknown method is refused", async () => {
  const { server, client } = setup();
  server.method("vote", () => {
    throw new Refusal(409, "voted already");
  });
  await server.settled();

  await rejectsSoon(server, client.call("vote"), { code: 409, message: "voted already" });
  await rejectsSoon(server, client.call("unknown"), { code: 104 });
});

test("refuse ends subscriptions, and allow permits them again", async () => {
  const { server, client } = setup();
  const room = client.subscribe("room");
  const seen = logEvents(room, "unsubscribed", "subscribed");
  await server.settled();

  server.refuse("room");
  room.subscribe();
  await server.settled();
  server.allow("room");
  room.subscribe();
  await server.settled();

  assert.deepEqual(
    seen.map(([type, { code }]) => [type, code]),
    [
      ["subscribed", undefined],
      ["unsubscribed", 2000],
      ["unsubscribed", 103],
      ["subscribed", undefined],
    ],
  );
});

test("publishing is for subscribers only", async () => {
  const { server, client } = setup();
  await server.settled();

  await rejectsSoon(server, client.publish("room", 1), { code: 103 });
});

test("the server ends subscriptions and connections", async () => {
  const { server, window, client } = setup();
  const room = client.subscribe("room");
  const seen = logEvents(client, "disconnected", "message");
  await server.settled();

  server.message("bye");
  server.unsubscribe("room", 2500, "again");
  assert.equal(room.state, "subscribing");
  await window.advance(1);
  assert.equal(room.state, "subscribed");
  server.disconnect(3503, "kicked");

  assert.deepEqual(
    seen.map(([type]) => type),
    ["message", "disconnected"],
  );
});

test("a refused token ends the client", async () => {
  const { server, client } = setup({
    user: () => {
      throw new Refusal(101, "unauthorized");
    },
  });

  await server.settled();

  assert.equal(client.state, "disconnected");
});

test("an unsubscribed client is no member", async () => {
  const { server, client } = setup();
  const room = client.subscribe("room");
  await server.settled();
  room.unsubscribe();
  await server.settled();

  assert.deepEqual(server.presence("room"), {});
});

async function rejectsSoon(server: FakeServer, promise: Promise<unknown>, error: object): Promise<void> {
  const rejected = assert.rejects(promise, error);
  await server.settled();
  await rejected;
}

test("the other subscribers get a whisper of a page and of the test", async () => {
  const server = new FakeServer();
  const [ada, bob] = ["ada", "bob"].map(
    (token) => new Client("/connection/", { window: server.window, token }),
  );
  const rooms = [ada!, bob!].map((client) => client.subscribe("room"));
  const [own, others] = rooms.map((room) => logEvents(room, "whisper"));
  await server.settled();

  rooms[0]!.whisper("typing");
  await server.settled();
  server.whisper("room", "a third", { client: "c3" });

  assert.deepEqual(
    others!.map(([, { data, info }]) => [data, info.user ?? info.client]),
    [
      ["typing", "ada"],
      ["a third", "c3"],
    ],
  );
  assert.equal(own!.length, 1);
  for (const client of [ada!, bob!]) client.disconnect();
});
