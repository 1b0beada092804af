/** The growing messages of a topic, joined from the appends that the server sends. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { growing, type GrowingMessage } from "../src/grow.js";
import { connectedClient, reconnectClient, STREAM } from "./client_setup.js";

type Seen = [state: string, text: string, added: string | null][];

/** A subscription whose growing messages are recorded. */
async function setUp(result: object = STREAM) {
  const { window, client, peer } = await connectedClient();
  const seen: Seen = [];
  const messages: GrowingMessage[] = [];
  const room = client.subscribe("room");
  const stop = growing(room, (message) => {
    messages.push(message);
    seen.push([message.state, message.data.text, message.added]);
  });
  peer.reply(await peer.command("subscribe"), result);
  return { window, peer, room, seen, messages, stop };
}

const whole = (text: string, state = "growing", more: object = {}) => ({
  pub: { data: { by: "ai", text }, tags: { grow: "a", grow_state: state }, ...more },
});

const append = (text: string, position: number, state = "growing") => ({
  pub: {
    data: { text },
    tags: { grow: "a", grow_state: state, grow_position: String(position) },
  },
});

test("appends are joined to the whole text so far", async () => {
  const { peer, seen, messages } = await setUp();

  peer.push("room", whole("Hel"));
  peer.push("room", append("lo 😀", 3));
  peer.push("room", append("!", 8));

  assert.deepEqual(seen, [
    ["growing", "Hel", null],
    ["growing", "Hello 😀", "lo 😀"],
    ["growing", "Hello 😀!", "!"],
  ]);
  assert.equal(messages[2]!.data.by, "ai");
});

test("the end is announced once, though the topic's publication follows it", async () => {
  const { peer, seen } = await setUp();

  peer.push("room", whole("Hi"));
  peer.push("room", append("!", 2, "finished"));
  peer.push("room", whole("Hi!", "finished", { offset: 1 }));

  assert.deepEqual(seen, [
    ["growing", "Hi", null],
    ["finished", "Hi!", "!"],
  ]);
});

test("a publication of the history is a message that has ended", async () => {
  const { seen } = await setUp({
    ...STREAM,
    recovered: true,
    publications: [whole("Hi!", "failed", { offset: 1 }).pub],
  });

  assert.deepEqual(seen, [["failed", "Hi!", null]]);
});

test("what comes after the end of a message is left out", async () => {
  const { peer, seen } = await setUp();

  peer.push("room", whole("Hi!", "finished", { offset: 1 }));
  peer.push("room", whole("Hi"));
  peer.push("room", append("!", 2));

  assert.deepEqual(seen, [["finished", "Hi!", null]]);
});

test("the topic's publication corrects an end that was announced before", async () => {
  const { peer, seen } = await setUp();

  peer.push("room", whole("Hi"));
  peer.push("room", append("", 2, "failed"));
  peer.push("room", whole("Hi!", "finished", { offset: 1 }));

  assert.deepEqual(seen, [
    ["growing", "Hi", null],
    ["failed", "Hi", ""],
    ["finished", "Hi!", null],
  ]);
});

test("an append that does not follow the text is left out until the whole text comes", async () => {
  const { peer, seen } = await setUp();

  peer.push("room", append("lo", 3));
  peer.push("room", whole("Hello"));

  assert.deepEqual(seen, [["growing", "Hello", null]]);
});

test("publications that are no growing messages are left out", async () => {
  const { peer, seen } = await setUp();

  peer.publish("room", { text: "hi" }, 1);

  assert.deepEqual(seen, []);
});

test("a message is unknown after a gap, until the server sends it again", async () => {
  const { window, peer, seen } = await setUp();
  peer.push("room", whole("Hi"));

  const next = await reconnectClient(window);
  next.reply(await next.command("subscribe"), { ...STREAM, recovered: false });
  next.push("room", whole("Hi there"));

  assert.deepEqual(seen, [
    ["growing", "Hi", null],
    ["unknown", "Hi", ""],
    ["growing", "Hi there", null],
  ]);
});

test("a message is cancelled by a call of its topic", async () => {
  const { peer, messages } = await setUp();
  peer.push("room", whole("Hi"));

  const cancelled = messages[0]!.cancel();
  const command = await peer.command("rpc");
  peer.reply(command, { data: null });

  assert.deepEqual(command.body, {
    method: "$call",
    data: { channel: "room", method: "$cancel", data: { id: "a" } },
  });
  assert.equal(await cancelled, undefined);
});

test("nothing is announced after a stop", async () => {
  const { peer, seen, stop } = await setUp();

  stop();
  peer.push("room", whole("Hi"));

  assert.deepEqual(seen, []);
});

test("a later listener gets the messages that are growing at once", async () => {
  const { peer, room, stop } = await setUp();
  peer.push("room", whole("Hi"));
  peer.push("room", append("!", 2));
  const seen: Seen = [];

  growing(room, ({ state, data, added }) => seen.push([state, data.text, added]));
  stop();
  peer.push("room", append("?", 3));

  assert.deepEqual(seen, [
    ["growing", "Hi!", null],
    ["growing", "Hi!?", "?"],
  ]);
});
