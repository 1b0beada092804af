/** What is written to the browser's console when the page does not listen. */

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { ClientEvents, SubscriptionEvents } from "../src/events.js";
import { settle } from "./fake_browser.js";
import { connectedClient, connectingClient } from "./client_setup.js";

/** Every event, which the compiler holds to the types. */
const CLIENT_EVENTS = Object.keys({
  state: 1,
  connecting: 1,
  connected: 1,
  disconnected: 1,
  message: 1,
  subscribed: 1,
  unsubscribed: 1,
  publication: 1,
  whisper: 1,
  gap: 1,
  join: 1,
  leave: 1,
  error: 1,
} satisfies Record<keyof ClientEvents, 1>);
const SUBSCRIPTION_EVENTS = Object.keys({
  publication: 1,
  whisper: 1,
  subscribing: 1,
  subscribed: 1,
  unsubscribed: 1,
  gap: 1,
  join: 1,
  leave: 1,
  joined: 1,
  left: 1,
  presence: 1,
  error: 1,
  stream: 1,
} satisfies Record<keyof SubscriptionEvents, 1>);

/** Return what `console.warn` writes from now on. */
function warnings(context: TestContext): string[] {
  const written: string[] = [];
  context.mock.method(console, "warn", (...what: unknown[]) => written.push(what.join(" ")));
  return written;
}

test("a refused subscription without a listener is a warning with topic, reason and code", async (context) => {
  const written = warnings(context);
  const { client, peer } = await connectedClient();
  client.subscribe("room");

  peer.replyError(await peer.command("subscribe"), 103, "permission denied");

  assert.deepEqual(written, ["tiderace, room: no subscription: permission denied (103)"]);
});

test("a refused subscription with a listener is no warning", async (context) => {
  const written = warnings(context);
  const { client, peer } = await connectedClient();
  client.subscribe("room").addEventListener("unsubscribed", () => undefined);

  peer.replyError(await peer.command("subscribe"), 103, "permission denied");

  assert.deepEqual(written, []);
});

test("a refused subscription is thrown by its loop, and no warning", async (context) => {
  const written = warnings(context);
  const { client, peer } = await connectedClient();
  const loop = client.subscribe("room")[Symbol.asyncIterator]().next();

  peer.replyError(await peer.command("subscribe"), 103, "permission denied");

  await assert.rejects(loop, { message: "permission denied (103, room)", topic: "room" });
  assert.deepEqual(written, []);
});

test("a subscription that the page ends is no warning", async (context) => {
  const written = warnings(context);
  const { client } = await connectedClient();

  client.subscribe("room").unsubscribe();

  assert.deepEqual(written, []);
});

test("a subscription that is tried again is a warning with the error", async (context) => {
  const written = warnings(context);
  const { client, peer } = await connectedClient();
  client.subscribe("room");

  peer.replyError(await peer.command("subscribe"), 100, "internal server error", true);

  assert.deepEqual(written, ["tiderace, room: TopicError: internal server error"]);
});

test("an end of the client without a listener is a warning", async (context) => {
  const written = warnings(context);
  const { peer } = await connectedClient();

  peer.send({ push: { disconnect: { code: 3500, reason: "invalid token" } } });

  assert.deepEqual(written, ["tiderace: disconnected: invalid token (3500)"]);
});

test("a page that shows the state gets no warning", async (context) => {
  const written = warnings(context);
  const { client, peer } = await connectedClient();
  client.addEventListener("state", () => undefined);

  peer.send({ push: { disconnect: { code: 3500, reason: "invalid token" } } });

  assert.deepEqual(written, []);
});

test("a lost connection that is opened again is no warning", async (context) => {
  const written = warnings(context);
  const { window } = await connectedClient();

  window.socket.break();
  await settle();

  assert.deepEqual(written, []);
});

test("a connection that takes too long and is tried again is no warning", async (context) => {
  const written = warnings(context);
  const { window } = await connectingClient();

  await window.advance(10);

  assert.deepEqual(written, []);
});

test("a token that cannot be fetched is a warning with the error", async (context) => {
  const written = warnings(context);
  await connectingClient({
    getToken: () => {
      throw new Error("HTTP 502");
    },
  });

  assert.deepEqual(written, ["tiderace: Error: HTTP 502"]);
});

test("a refused publication names its topic and code", async () => {
  const { client, peer } = await connectedClient();
  const done = client.publish("room", "a");

  peer.replyError(await peer.command("rpc"), 103, "permission denied");

  await assert.rejects(done, { message: "permission denied (103, room)", topic: "room" });
});

test("a refused call of a topic names its topic and code", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room");
  peer.reply(await peer.command("subscribe"));
  const done = room.call("rename");

  peer.replyError(await peer.command("rpc"), 104, "method not found");

  await assert.rejects(done, { message: "method not found (104, room)" });
});

test("an error of the application keeps its message for the page", async () => {
  const { client, peer } = await connectedClient();
  const done = client.publish("room", "a");

  peer.replyError(await peer.command("rpc"), 422, "too rude");

  await assert.rejects(done, { message: "too rude", topic: "room" });
});

test("a listener to an event that does not exist is a warning with those that do", async (context) => {
  const written = warnings(context);
  const { client } = await connectedClient();

  client.addEventListener("conected", () => undefined);
  client.subscribe("room").addEventListener("message", () => undefined);

  assert.match(written[0]!, /^tiderace: no event "conected"; known: .*\bconnected\b/);
  assert.match(written[1]!, /^tiderace: no event "message"; known: .*\bpublication\b/);
});

test("the events of the documentation are known", async (context) => {
  const written = warnings(context);
  const { client } = await connectedClient();
  const room = client.subscribe("room");

  for (const type of CLIENT_EVENTS) client.addEventListener(type, () => undefined);
  for (const type of SUBSCRIPTION_EVENTS) room.addEventListener(type, () => undefined);

  assert.deepEqual(written, []);
});
