/** Listening to a topic by parts of a page that come and go. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { topics, type Subscription } from "../src/index.js";
import { connectedClient, STREAM } from "./client_setup.js";
import { settle } from "./fake_browser.js";

type Seen = [type: string, detail: any][];

/** Listeners that record what they get. */
function recorder(): { seen: Seen; listeners: Record<string, (event: any) => void> } {
  const seen: Seen = [];
  const listeners = Object.fromEntries(
    ["publication", "subscribed"].map((type) => [
      type,
      ({ detail }: CustomEvent) => seen.push([type, detail.data ?? detail.recovered]),
    ]),
  );
  return { seen, listeners };
}

test("the first listener subscribes, and gets the topic's events", async () => {
  const { client, peer } = await connectedClient();
  const { seen, listeners } = recorder();

  client.listen("room", listeners);
  peer.reply(await peer.command("subscribe"), STREAM);
  peer.publish("room", "hi", 1);

  assert.deepEqual(seen, [
    ["subscribed", false],
    ["publication", "hi"],
  ]);
});

test("a second listener shares the subscription", async () => {
  const { client, peer } = await connectedClient();
  const [one, two] = [recorder(), recorder()];
  client.listen("room", one.listeners);
  client.listen("room", two.listeners);

  peer.reply(await peer.command("subscribe"), STREAM);
  peer.publish("room", "hi", 1);

  assert.deepEqual(one.seen, two.seen);
});

test("a listener gets the subscription, to call and to publish", async () => {
  const { client, peer } = await connectedClient();
  const seen: string[] = [];
  const listeners = { subscribed: (_: unknown, room: Subscription) => seen.push(room.topic) };
  client.listen("room", listeners);
  peer.reply(await peer.command("subscribe"), STREAM);

  client.listen("room", listeners);
  await settle();

  assert.deepEqual(seen, ["room", "room"]);
});

test("a listener that has ended gets nothing more", async () => {
  const { client, peer } = await connectedClient();
  const [one, two] = [recorder(), recorder()];
  const stop = client.listen("room", one.listeners);
  client.listen("room", two.listeners);
  peer.reply(await peer.command("subscribe"), STREAM);

  stop();
  peer.publish("room", "hi", 1);

  assert.deepEqual(one.seen, [["subscribed", false]]);
  assert.equal(two.seen.length, 2);
});

test("the page unsubscribes a second after its last listener has ended", async () => {
  const { client, peer, window } = await connectedClient();
  const stop = client.listen("room", {});
  client.listen("room", {})();
  peer.reply(await peer.command("subscribe"), STREAM);

  stop();
  stop();
  await window.advance(0.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.2);

  assert.equal((await peer.command("unsubscribe")).body.channel, "room");
});

test("a listener that follows another within a second keeps the subscription", async () => {
  const { client, peer, window } = await connectedClient();
  const stop = client.listen("room", {});
  peer.reply(await peer.command("subscribe"), STREAM);

  stop();
  client.listen("room", {});
  await window.advance(5);

  assert.deepEqual(await peer.commands(), []);
});

for (const order of ["before", "after"]) {
  test(`a topic that the page subscribes to ${order} its listeners stays subscribed to`, async () => {
    const { client, peer, window } = await connectedClient();
    if (order === "before") client.subscribe("room");
    const stop = client.listen("room", {});
    if (order === "after") client.subscribe("room");
    peer.reply(await peer.command("subscribe"), STREAM);

    stop();
    await window.advance(5);

    assert.deepEqual(await peer.commands(), []);
  });
}

const LATE = [
  { since: undefined, recovered: false, when: "without a position" },
  { since: { epoch: "e1", offset: 3 }, recovered: true, when: "at the topic's position" },
  { since: { epoch: "e1", offset: 2 }, recovered: false, when: "with an earlier position" },
  { since: { epoch: "e0", offset: 3 }, recovered: false, when: "with a position of another epoch" },
];

for (const { since, recovered, when } of LATE) {
  test(`a late listener ${when} is told whether it has missed anything`, async () => {
    const { client, peer } = await connectedClient();
    client.listen("room", {});
    peer.reply(await peer.command("subscribe"), { ...STREAM, offset: 3 });
    const { seen, listeners } = recorder();

    client.listen("room", listeners, { since });
    await settle();

    assert.deepEqual(seen, [["subscribed", recovered]]);
  });
}

test("a late listener that ends at once is told nothing", async () => {
  const { client, peer } = await connectedClient();
  client.listen("room", {});
  peer.reply(await peer.command("subscribe"), STREAM);
  const { seen, listeners } = recorder();

  client.listen("room", listeners)();
  await settle();

  assert.deepEqual(seen, []);
});

test("topics() without arguments is the page's one client", (context) => {
  const client = topics();
  context.after(() => client.disconnect());
  const other = topics({});
  other.disconnect();

  assert.equal(topics(), client);
  assert.notEqual(other, client);
});
