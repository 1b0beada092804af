/** Calls whose result is streamed. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { stream } from "../src/stream.js";
import { connectedClient, STREAM, type Command, type Peer } from "./client_setup.js";
import { settle } from "./fake_browser.js";

/** A subscription, and a stream of its method "ask" that the server has begun. */
async function setUp() {
  const { window, client, peer } = await connectedClient();
  const room = client.subscribe("room");
  peer.reply(await peer.command("subscribe"), STREAM);
  const items = stream(room, "ask", { question: "why" });
  const first = items.next();
  const command = await peer.command("rpc");
  return { window, client, peer, room, items, first, command };
}

const idOf = ({ body }: Command): string => body.data.data.id;

function part(peer: Peer, command: Command, fields: object): void {
  peer.push("room", { message: { data: { stream: idOf(command), ...fields } } });
}

test("a streamed call yields the items until its end", async () => {
  const { peer, items, first, command } = await setUp();
  peer.reply(command, { data: null });
  part(peer, command, { items: ["a", "b"] });
  part(peer, command, { items: ["c"], end: true });

  const seen = [(await first).value];
  for await (const item of items) seen.push(item);

  assert.deepEqual(seen, ["a", "b", "c"]);
  assert.deepEqual(command.body, {
    method: "$call",
    data: {
      channel: "room",
      method: "$stream",
      data: { id: idOf(command), method: "ask", data: { question: "why" } },
    },
  });
  assert.deepEqual(await peer.commands(), []);
});

test("leaving the loop stops the method", async () => {
  const { peer, items, first, command } = await setUp();
  peer.reply(command, { data: null });
  part(peer, command, { items: ["a"] });
  await first;

  await items.return();

  const stop = await peer.command("rpc");
  assert.deepEqual(stop.body.data, {
    channel: "room",
    method: "$stop",
    data: { id: idOf(command) },
  });
});

test("a refused call throws", async () => {
  const { peer, first, command } = await setUp();

  peer.replyError(command, 104, "method not found");

  await assert.rejects(first, { name: "TopicError", code: 104 });
  assert.deepEqual(await peer.commands(), []);
});

test("an error of the method is thrown after its items", async () => {
  const { peer, items, first, command } = await setUp();
  peer.reply(command, { data: null });
  part(peer, command, { items: ["a"], error: { code: 499, message: "not today" } });

  assert.equal((await first).value, "a");
  await assert.rejects(items.next(), { name: "TopicError", code: 499, message: "not today" });
});

test("a lost connection ends the stream with an error", async () => {
  const { window, peer, items, first, command } = await setUp();
  peer.reply(command, { data: null });
  part(peer, command, { items: ["a"] });
  await first;
  const next = items.next();
  await settle();

  window.socket.break();

  await assert.rejects(next, { code: 2, temporary: true });
});

test("streams of one topic are kept apart, and from messages to the client", async () => {
  const { client, peer, room, first, command } = await setUp();
  const messages: unknown[] = [];
  client.addEventListener("message", ({ data }) => messages.push(data));
  const other = stream(room, "ask").next();
  const second = await peer.command("rpc");
  peer.reply(command, { data: null });
  peer.reply(second, { data: null });

  part(peer, second, { items: ["second"] });
  part(peer, command, { items: ["first"] });

  assert.equal((await first).value, "first");
  assert.equal((await other).value, "second");
  assert.deepEqual(messages, []);
});
