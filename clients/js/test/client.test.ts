/** One connection to the topics: its greeting, its states, its commands. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { settle } from "./fakes.js";
import { calling, comeBack, log, online, Peer, welcome } from "./peer.js";

test("the first command is connect, on the websocket endpoint", async () => {
  const { window } = await calling();
  const peer = new Peer(window.socket);

  window.socket.accept();

  assert.equal(window.socket.url, "wss://site.test/connection/websocket");
  const connect = await peer.command("connect");
  assert.equal(connect.id, 1);
  assert.equal(connect.body.name, "tiderace");
});

test("a client is connected when the server has welcomed it", async () => {
  const { window, client } = await calling();
  const seen = log(client, "connecting", "connected");

  assert.equal(client.state, "connecting");
  await welcome(window, { client: "c7", data: { motd: "hi" } });

  assert.equal(client.state, "connected");
  assert.deepEqual(seen, [
    ["connected", { client: "c7", transport: "websocket", data: { motd: "hi" } }],
  ]);
});

test("what is subscribed before the connection is subscribed on it", async () => {
  const { window, client } = await calling();
  const room = client.subscribe("room:lobby");
  const peer = await welcome(window);

  const asked = await peer.command("subscribe");
  assert.equal(asked.body.channel, "room:lobby");
  assert.equal(room.state, "subscribing");
  peer.answer(asked, {});

  assert.equal(room.state, "subscribed");
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

test("commands of one task go out in one frame", async () => {
  const { client, peer } = await online();

  client.subscribe("a");
  client.subscribe("b");
  void client.publish("c", 1);
  await settle();

  const frames = peer.frames();
  assert.equal(frames.length, 1);
  assert.equal(frames[0]!.split("\n").length, 3);
});
