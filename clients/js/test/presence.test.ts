/** Who is there: snapshots and news merged as a set. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { calling, comeBack, log, online, type Peer, welcome } from "./peer.js";
import type { Subscription } from "../src/index.js";

const info = (client: string): { user: string; client: string } => ({ user: `u-${client}`, client });
const snapshot = (...clients: string[]): { presence: object } => ({
  presence: Object.fromEntries(clients.map((client) => [client, info(client)])),
});
const members = (room: Subscription): string[] => [...room.presence.keys()].sort();
const names = (seen: [string, any][]): string[] => seen.map(([type, { client }]) => `${type} ${client}`);

/** Answer both commands of the next subscription, the second with those who are there. */
async function enter(peer: Peer, ...clients: string[]): Promise<void> {
  const [subscribe, presence] = await peer.commands();
  peer.answer(subscribe!, {});
  peer.answer(presence!, snapshot(...clients));
}

async function inside(...clients: string[]) {
  const site = await online({}, { ping: 0 });
  const room = site.client.subscribe("room", { presence: true });
  await enter(site.peer, ...clients);
  return { ...site, room };
}

const join = (peer: Peer, client: string): void => peer.push("room", { join: { info: info(client) } });
const leave = (peer: Peer, client: string): void => peer.push("room", { leave: { info: info(client) } });

test("the snapshot is asked for in the frame of the subscription, after it", async () => {
  const { client, peer } = await online();
  client.subscribe("room", { presence: true });

  const [subscribe, presence] = await peer.commands();

  assert.equal(subscribe!.body.join_leave, true);
  assert.deepEqual([presence!.method, presence!.body], ["presence", { channel: "room" }]);
});

test("without the option nothing is asked and nobody is there", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room");
  const asked = await peer.command("subscribe");
  peer.answer(asked);

  join(peer, "a");

  assert.equal(asked.body.join_leave, undefined);
  assert.deepEqual(members(room), []);
});

test("the snapshot says who is there, with who they are", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room", { presence: true });
  const seen = log(room, "joined", "presence");

  await enter(peer, "a", "b");

  assert.deepEqual(room.presence.get("a"), info("a"));
  assert.deepEqual(seen, [
    ["joined", info("a")],
    ["joined", info("b")],
    ["presence", room.presence],
  ]);
});

test("an empty room is told too", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room", { presence: true });
  const seen = log(room, "presence");

  await enter(peer);

  assert.equal(seen.length, 1);
});

test("who joins and who leaves is told once", async () => {
  const { peer, room } = await inside("a");
  const seen = log(room, "joined", "left");
  const changes = log(room, "presence");

  const told: number[] = [];
  for (const happen of [join, join]) told.push((happen(peer, "b"), changes.length));
  for (const happen of [leave, leave]) told.push((happen(peer, "a"), changes.length));

  assert.deepEqual(names(seen), ["joined b", "left a"]);
  assert.deepEqual(told, [1, 1, 2, 2]);
  assert.deepEqual(members(room), ["b"]);
});

test("the server's own words are told beside the set", async () => {
  const { peer, room } = await inside("a");
  const seen = log(room, "join", "leave");

  join(peer, "b");
  leave(peer, "b");

  assert.deepEqual(seen, [
    ["join", { topic: "room", ...info("b") }],
    ["leave", { topic: "room", ...info("b") }],
  ]);
});

test("who joined before a snapshot that does not name them yet is there", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room", { presence: true });
  const [subscribe, presence] = await peer.commands();
  peer.answer(subscribe!);
  const seen = log(room, "joined", "left");

  join(peer, "b");
  peer.answer(presence!, snapshot("a"));

  assert.deepEqual(members(room), ["a", "b"]);
  assert.deepEqual(names(seen), ["joined b", "joined a"]);
});

test("who left before a snapshot that still names them is not there", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room", { presence: true });
  const [subscribe, presence] = await peer.commands();
  peer.answer(subscribe!);

  leave(peer, "a");
  peer.answer(presence!, snapshot("a", "b"));

  assert.deepEqual(members(room), ["b"]);
});

test("who left does not come back with a late join", async () => {
  const { peer, room } = await inside("a");

  leave(peer, "a");
  join(peer, "a");

  assert.deepEqual(members(room), []);
});

test("every minute a new snapshot puts right what was lost", async () => {
  const { window, peer, room } = await inside("a", "b");
  const seen = log(room, "joined", "left");

  await window.advance(59.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  peer.answer(await peer.command("presence"), snapshot("b", "c"));

  assert.deepEqual(names(seen), ["left a", "joined c"]);
  assert.deepEqual(members(room), ["b", "c"]);
});

test("the clients of a room do not ask all at once", async () => {
  const { window, client, peer } = await online({}, { ping: 0 });
  window.chance = 1;
  client.subscribe("room", { presence: true });
  await enter(peer);

  await window.advance(65.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  await peer.command("presence");
});

const changed = (peer: Peer): void => peer.push("room", { changed: {} });
const crowd = (size: number): string[] => Array.from({ length: size }, (_, index) => `c${index}`);

test("when much has changed a small room asks at once", async () => {
  const { window, peer, room } = await inside("a", "b");

  changed(peer);
  await window.advance(0);
  peer.answer(await peer.command("presence"), snapshot("b", "c"));

  assert.deepEqual(members(room), ["b", "c"]);
});

test("when much has changed a crowd asks one after the other, twenty in a second", async () => {
  const { window, peer } = await inside(...crowd(100));
  window.chance = 0.5;

  changed(peer);

  await window.advance(2.4);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  await peer.command("presence");
});

test("no crowd is so large that nobody asks within a minute", async () => {
  const { window, peer } = await inside(...crowd(5000));
  window.chance = 1;

  changed(peer);
  await window.advance(60);

  await peer.command("presence");
});

test("what changes while a snapshot is on its way is asked for afterwards", async () => {
  const { window, peer, room } = await inside("a");
  await window.advance(60);
  const asked = await peer.command("presence");

  changed(peer);
  peer.answer(asked, snapshot("a"));
  await window.advance(0.1);
  peer.answer(await peer.command("presence"), snapshot("b"));

  assert.deepEqual(members(room), ["b"]);
});

test("after such a change the next snapshot is a minute away again", async () => {
  const { window, peer } = await inside("a");
  changed(peer);
  await window.advance(0.1);
  peer.answer(await peer.command("presence"), snapshot("a"));

  await window.advance(59.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  await peer.command("presence");
});

test("a page that does not ask who is there is not moved by changes", async () => {
  const { client, peer, window } = await online({}, { ping: 0 });
  client.subscribe("room");
  peer.answer(await peer.command("subscribe"));

  changed(peer);
  await window.advance(1);

  assert.deepEqual(await peer.commands(), []);
});

test("who joined while a later snapshot was on its way stays", async () => {
  const { window, peer, room } = await inside("a");
  await window.advance(60);
  const asked = await peer.command("presence");

  join(peer, "b");
  peer.answer(asked, snapshot("a"));

  assert.deepEqual(members(room), ["a", "b"]);
});

test("who joined before a later snapshot was asked for, and is not in it, is gone", async () => {
  const { window, peer, room } = await inside("a");
  join(peer, "b");
  await window.advance(60);

  peer.answer(await peer.command("presence"), snapshot("a"));

  assert.deepEqual(members(room), ["a"]);
});

test("who left stays away as long as snapshots name them", async () => {
  const { window, peer, room } = await inside("a", "b");
  leave(peer, "a");

  for (let minute = 0; minute < 3; minute++) {
    await window.advance(60);
    peer.answer(await peer.command("presence"), snapshot("a", "b"));
  }

  assert.deepEqual(members(room), ["b"]);
});

test("after an outage only differences are told", async () => {
  const { window, room } = await inside("a", "b");
  const seen = log(room, "joined", "left");

  const next = await comeBack(window, { ping: 0 });
  assert.deepEqual(members(room), ["a", "b"]);
  await enter(next, "b", "c");

  assert.deepEqual(names(seen), ["left a", "joined c"]);
});

test("a snapshot of a connection that was lost is passed over", async () => {
  const { window, client } = await calling();
  const peer = await welcome(window, { ping: 0 });
  const room = client.subscribe("room", { presence: true });
  const [subscribe] = await peer.commands();
  peer.answer(subscribe!);

  const next = await comeBack(window, { ping: 0 });
  await enter(next, "b");

  assert.deepEqual(members(room), ["b"]);
});

test("while there is no connection no snapshot is asked for", async () => {
  const { window, room } = await inside("a");
  window.goOffline();
  window.socket.break();
  assert.equal(window.timers, 0);

  await window.advance(600);

  assert.deepEqual(members(room), ["a"]);
  assert.equal(window.timers, 0);
});

test("a topic that has no presence says so once", async () => {
  const { window, client, peer } = await online({}, { ping: 0 });
  const room = client.subscribe("room", { presence: true });
  const seen = log(room, "error");
  const [subscribe, presence] = await peer.commands();
  peer.answer(subscribe!);

  peer.refuse(presence!, 108, "not available");
  await window.advance(600);

  assert.deepEqual(
    seen.map(([, { code }]) => code),
    [108],
  );
  assert.deepEqual(await peer.commands(), []);
  assert.equal(room.state, "subscribed");
});

test("a snapshot that failed for now is asked for again", async () => {
  const { window, peer, room } = await inside("a");
  const seen = log(room, "error");
  await window.advance(60);

  peer.refuse(await peer.command("presence"), 111, "too many requests", true);
  await window.advance(60);
  peer.answer(await peer.command("presence"), snapshot("b"));

  assert.equal(seen.length, 1);
  assert.deepEqual(members(room), ["b"]);
});

test("a snapshot of a topic that was refused says nothing", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room", { presence: true });
  const seen = log(room, "error", "unsubscribed");
  const [subscribe, presence] = await peer.commands();

  peer.refuse(subscribe!, 103);
  peer.refuse(presence!, 103);

  assert.deepEqual(
    seen.map(([type]) => type),
    ["unsubscribed"],
  );
});

test("a snapshot of a topic that will be asked for again says nothing", async () => {
  const { window, client, peer } = await online({}, { ping: 0 });
  const room = client.subscribe("room", { presence: true });
  const [subscribe, presence] = await peer.commands();
  peer.refuse(subscribe!, 111, "", true);
  const seen = log(room, "error");

  peer.refuse(presence!, 103);
  await window.advance(0.5);
  await enter(peer, "a");

  assert.deepEqual(seen, []);
  assert.deepEqual(members(room), ["a"]);
});

test("nobody is there when the topic was left", async () => {
  const { window, peer, room } = await inside("a");

  room.unsubscribe();
  await peer.command("unsubscribe");
  await window.advance(600);

  assert.deepEqual(members(room), []);
  assert.deepEqual(await peer.commands(), []);
});

test("a topic that is entered again knows nothing of who had left it", async () => {
  const { peer, room } = await inside("a");
  leave(peer, "a");
  room.unsubscribe();
  await peer.command("unsubscribe");

  room.subscribe();
  await enter(peer, "a");

  assert.deepEqual(members(room), ["a"]);
});

test("presence answers carry ids that JavaScript knows otherwise", async () => {
  const { room } = await inside("constructor", "__proto__x", "toString");

  assert.deepEqual(members(room), ["__proto__x", "constructor", "toString"]);
});

