/** Presence: snapshots, and joins and leaves between them, merged as a set. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { connectingClient, reconnectClient, logEvents, connectedClient, type Peer, acceptClient } from "./client_setup.js";
import type { Subscription } from "../src/index.js";

const info = (client: string): { user: string; client: string } => ({ user: `u-${client}`, client });
const snapshot = (...clients: string[]): { presence: object } => ({
  presence: Object.fromEntries(clients.map((client) => [client, info(client)])),
});
const members = (room: Subscription): string[] => [...room.presence.keys()].sort();
const names = (seen: [string, any][]): string[] => seen.map(([type, { client }]) => `${type} ${client}`);

/** Reply to both commands of a subscription, to the second with the members. */
async function replyToBoth(peer: Peer, ...clients: string[]): Promise<void> {
  const [subscribe, presence] = await peer.commands();
  peer.reply(subscribe!, {});
  peer.reply(presence!, snapshot(...clients));
}

async function activeSubscription(...clients: string[]) {
  const setup = await connectedClient({}, { ping: 0 });
  const room = setup.client.subscribe("room", { presence: true });
  await replyToBoth(setup.peer, ...clients);
  return { ...setup, room };
}

const join = (peer: Peer, client: string): void => peer.push("room", { join: { info: info(client) } });
const leave = (peer: Peer, client: string): void => peer.push("room", { leave: { info: info(client) } });

test("the snapshot is requested in the frame of the subscribe command, after it", async () => {
  const { client, peer } = await connectedClient();
  client.subscribe("room", { presence: true });

  const [subscribe, presence] = await peer.commands();

  assert.equal(subscribe!.body.join_leave, true);
  assert.deepEqual([presence!.method, presence!.body], ["presence", { channel: "room" }]);
});

test("without the option no snapshot is requested and there are no members", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room");
  const command = await peer.command("subscribe");
  peer.reply(command);

  join(peer, "a");

  assert.equal(command.body.join_leave, undefined);
  assert.deepEqual(members(room), []);
});

test("the snapshot sets the members", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { presence: true });
  const seen = logEvents(room, "joined", "presence");

  await replyToBoth(peer, "a", "b");

  assert.deepEqual(room.presence.get("a"), info("a"));
  assert.deepEqual(seen, [
    ["joined", info("a")],
    ["joined", info("b")],
    ["presence", room.presence],
  ]);
});

test("an empty snapshot emits a presence event", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { presence: true });
  const seen = logEvents(room, "presence");

  await replyToBoth(peer);

  assert.equal(seen.length, 1);
});

test("a join and a leave emit one event each", async () => {
  const { peer, room } = await activeSubscription("a");
  const seen = logEvents(room, "joined", "left");
  const changes = logEvents(room, "presence");

  const told: number[] = [];
  for (const happen of [join, join]) told.push((happen(peer, "b"), changes.length));
  for (const happen of [leave, leave]) told.push((happen(peer, "a"), changes.length));

  assert.deepEqual(names(seen), ["joined b", "left a"]);
  assert.deepEqual(told, [1, 1, 2, 2]);
  assert.deepEqual(members(room), ["b"]);
});

test("join and leave pushes are emitted as well", async () => {
  const { peer, room } = await activeSubscription("a");
  const seen = logEvents(room, "join", "leave");

  join(peer, "b");
  leave(peer, "b");

  assert.deepEqual(seen, [
    ["join", { topic: "room", ...info("b") }],
    ["leave", { topic: "room", ...info("b") }],
  ]);
});

test("a member that joined after the request stays when the snapshot lacks it", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { presence: true });
  const [subscribe, presence] = await peer.commands();
  peer.reply(subscribe!);
  const seen = logEvents(room, "joined", "left");

  join(peer, "b");
  peer.reply(presence!, snapshot("a"));

  assert.deepEqual(members(room), ["a", "b"]);
  assert.deepEqual(names(seen), ["joined b", "joined a"]);
});

test("a member that left after the request is not added by the snapshot", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { presence: true });
  const [subscribe, presence] = await peer.commands();
  peer.reply(subscribe!);

  leave(peer, "a");
  peer.reply(presence!, snapshot("a", "b"));

  assert.deepEqual(members(room), ["b"]);
});

test("a member that left is not added by a late join", async () => {
  const { peer, room } = await activeSubscription("a");

  leave(peer, "a");
  join(peer, "a");

  assert.deepEqual(members(room), []);
});

test("a new snapshot every minute repairs lost pushes", async () => {
  const { window, peer, room } = await activeSubscription("a", "b");
  const seen = logEvents(room, "joined", "left");

  await window.advance(59.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  peer.reply(await peer.command("presence"), snapshot("b", "c"));

  assert.deepEqual(names(seen), ["left a", "joined c"]);
  assert.deepEqual(members(room), ["b", "c"]);
});

test("the requests of a topic's clients are spread", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  window.chance = 1;
  client.subscribe("room", { presence: true });
  await replyToBoth(peer);

  await window.advance(65.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  await peer.command("presence");
});

const changed = (peer: Peer): void => peer.push("room", { changed: {} });
const ids = (size: number): string[] => Array.from({ length: size }, (_, index) => `c${index}`);

test("after a mass change a small topic's clients request a snapshot at once", async () => {
  const { window, peer, room } = await activeSubscription("a", "b");

  changed(peer);
  await window.advance(0);
  peer.reply(await peer.command("presence"), snapshot("b", "c"));

  assert.deepEqual(members(room), ["b", "c"]);
});

test("after a mass change the clients request twenty snapshots per second", async () => {
  const { window, peer } = await activeSubscription(...ids(100));
  window.chance = 0.5;

  changed(peer);

  await window.advance(2.4);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  await peer.command("presence");
});

test("after a mass change every client requests a snapshot within a minute", async () => {
  const { window, peer } = await activeSubscription(...ids(5000));
  window.chance = 1;

  changed(peer);
  await window.advance(60);

  await peer.command("presence");
});

test("a mass change during a request is followed by another request", async () => {
  const { window, peer, room } = await activeSubscription("a");
  await window.advance(60);
  const command = await peer.command("presence");

  changed(peer);
  peer.reply(command, snapshot("a"));
  await window.advance(0.1);
  peer.reply(await peer.command("presence"), snapshot("b"));

  assert.deepEqual(members(room), ["b"]);
});

test("after a mass change the interval is a minute again", async () => {
  const { window, peer } = await activeSubscription("a");
  changed(peer);
  await window.advance(0.1);
  peer.reply(await peer.command("presence"), snapshot("a"));

  await window.advance(59.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  await peer.command("presence");
});

test("a mass change is ignored without the presence option", async () => {
  const { client, peer, window } = await connectedClient({}, { ping: 0 });
  client.subscribe("room");
  peer.reply(await peer.command("subscribe"));

  changed(peer);
  await window.advance(1);

  assert.deepEqual(await peer.commands(), []);
});

test("a member that joined during a later request stays", async () => {
  const { window, peer, room } = await activeSubscription("a");
  await window.advance(60);
  const command = await peer.command("presence");

  join(peer, "b");
  peer.reply(command, snapshot("a"));

  assert.deepEqual(members(room), ["a", "b"]);
});

test("a member that joined before the request is removed when the snapshot lacks it", async () => {
  const { window, peer, room } = await activeSubscription("a");
  join(peer, "b");
  await window.advance(60);

  peer.reply(await peer.command("presence"), snapshot("a"));

  assert.deepEqual(members(room), ["a"]);
});

test("a member that left is not added by later snapshots", async () => {
  const { window, peer, room } = await activeSubscription("a", "b");
  leave(peer, "a");

  for (let minute = 0; minute < 3; minute++) {
    await window.advance(60);
    peer.reply(await peer.command("presence"), snapshot("a", "b"));
  }

  assert.deepEqual(members(room), ["b"]);
});

test("after an outage only differences are emitted", async () => {
  const { window, room } = await activeSubscription("a", "b");
  const seen = logEvents(room, "joined", "left");

  const next = await reconnectClient(window, { ping: 0 });
  assert.deepEqual(members(room), ["a", "b"]);
  await replyToBoth(next, "b", "c");

  assert.deepEqual(names(seen), ["left a", "joined c"]);
});

test("a snapshot of a lost connection is ignored", async () => {
  const { window, client } = await connectingClient();
  const peer = await acceptClient(window, { ping: 0 });
  const room = client.subscribe("room", { presence: true });
  const [subscribe] = await peer.commands();
  peer.reply(subscribe!);

  const next = await reconnectClient(window, { ping: 0 });
  await replyToBoth(next, "b");

  assert.deepEqual(members(room), ["b"]);
});

test("no snapshot is requested without a connection", async () => {
  const { window, room } = await activeSubscription("a");
  window.goOffline();
  window.socket.break();
  assert.equal(window.timers, 0);

  await window.advance(600);

  assert.deepEqual(members(room), ["a"]);
  assert.equal(window.timers, 0);
});

test("a final error of a snapshot is emitted once", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  const room = client.subscribe("room", { presence: true });
  const seen = logEvents(room, "error");
  const [subscribe, presence] = await peer.commands();
  peer.reply(subscribe!);

  peer.replyError(presence!, 108, "not available");
  await window.advance(600);

  assert.deepEqual(
    seen.map(([, { code }]) => code),
    [108],
  );
  assert.deepEqual(await peer.commands(), []);
  assert.equal(room.state, "subscribed");
});

test("a snapshot with a temporary error is requested again", async () => {
  const { window, peer, room } = await activeSubscription("a");
  const seen = logEvents(room, "error");
  await window.advance(60);

  peer.replyError(await peer.command("presence"), 111, "too many requests", true);
  await window.advance(60);
  peer.reply(await peer.command("presence"), snapshot("b"));

  assert.equal(seen.length, 1);
  assert.deepEqual(members(room), ["b"]);
});

test("a snapshot of a refused subscription is ignored", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { presence: true });
  const seen = logEvents(room, "error", "unsubscribed");
  const [subscribe, presence] = await peer.commands();

  peer.replyError(subscribe!, 103);
  peer.replyError(presence!, 103);

  assert.deepEqual(
    seen.map(([type]) => type),
    ["unsubscribed"],
  );
});

test("a snapshot is ignored while the subscription is retried", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  const room = client.subscribe("room", { presence: true });
  const [subscribe, presence] = await peer.commands();
  peer.replyError(subscribe!, 111, "", true);
  const seen = logEvents(room, "error");

  peer.replyError(presence!, 103);
  await window.advance(0.5);
  await replyToBoth(peer, "a");

  assert.deepEqual(seen, []);
  assert.deepEqual(members(room), ["a"]);
});

test("there are no members after unsubscribe", async () => {
  const { window, peer, room } = await activeSubscription("a");

  room.unsubscribe();
  await peer.command("unsubscribe");
  await window.advance(600);

  assert.deepEqual(members(room), []);
  assert.deepEqual(await peer.commands(), []);
});

test("a new subscription does not remember members that left", async () => {
  const { peer, room } = await activeSubscription("a");
  leave(peer, "a");
  room.unsubscribe();
  await peer.command("unsubscribe");

  room.subscribe();
  await replyToBoth(peer, "a");

  assert.deepEqual(members(room), ["a"]);
});

test("a client id may be the name of an object property", async () => {
  const { room } = await activeSubscription("constructor", "__proto__x", "toString");

  assert.deepEqual(members(room), ["__proto__x", "constructor", "toString"]);
});

