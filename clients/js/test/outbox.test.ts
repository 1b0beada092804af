/** The outbox: publications that are acknowledged, queued and repeated under one key. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { settle, type FakeWindow } from "./fake_browser.js";
import { connectingClient, reconnectClient, connectedClient, type Peer, acceptClient } from "./client_setup.js";

/** Accept the connection after one that is lost. */
async function acceptNext(window: FakeWindow): Promise<Peer> {
  await window.advance(2);
  return acceptClient(window);
}

/** Return the data of publications in the commands that were not read before. */
async function published(peer: Peer): Promise<unknown[]> {
  const commands = await peer.commands();
  return commands.filter(({ method }) => method === "rpc").map(({ body }) => body.data.data);
}

test("a publication is an rpc command with a key, and its reply the acknowledgement", async () => {
  const { client, peer } = await connectedClient();
  let isDone = false;

  const done = client.publish("room", { text: "hi" }).then(() => (isDone = true));
  const command = await peer.command("rpc");
  assert.equal(isDone, false);
  peer.reply(command, {});
  await done;

  assert.equal(command.body.method, "$publish");
  const { channel, data, key } = command.body.data;
  assert.deepEqual([channel, data], ["room", { text: "hi" }]);
  assert.match(key, /^\d{10,}-1$/);
});

test("no two publications have the same key", async () => {
  const clients = [await connectedClient(), await connectedClient()];
  for (const { client } of clients) {
    for (let n = 0; n < 2; n++) client.publish("room", n).catch(() => undefined);
  }

  const keys = [];
  for (const { peer } of clients) {
    for (const { body } of await peer.commands()) keys.push(body.data.key);
  }

  assert.equal(new Set(keys).size, 4);
});

test("a publication is sent as it was when publish was called", async () => {
  const { window, client } = await connectingClient();
  const message = { n: 1 };
  client.publish("room", message).catch(() => undefined);

  message.n = 2;
  const peer = await acceptClient(window);

  assert.deepEqual(await published(peer), [{ n: 1 }]);
});

for (const value of [undefined, () => 1, Symbol("s")]) {
  test(`a value without a JSON form is not published: ${typeof value}`, async () => {
    const { client, peer } = await connectedClient();

    await assert.rejects(client.publish("room", value), TypeError);
    assert.deepEqual(await peer.commands(), []);
  });
}

test("publications made offline are sent in order after connecting", async () => {
  const { window, client } = await connectingClient();
  for (const n of [1, 2, 3]) client.publish("room", n).catch(() => undefined);

  const peer = await acceptClient(window);

  assert.deepEqual(await published(peer), [1, 2, 3]);
});

test("unacknowledged publications are repeated under their keys, before new ones", async () => {
  const { window, client, peer } = await connectedClient();
  client.publish("room", "a").catch(() => undefined);
  const first = await peer.command("rpc");
  window.socket.break();
  client.publish("room", "b").catch(() => undefined);
  await window.advance(2);

  const next = await acceptClient(window);
  const [again, other] = await next.commands();

  assert.deepEqual(again!.body, first.body);
  assert.notEqual(other!.body.data.key, first.body.data.key);
});

test("a publication is acknowledged on a later connection", async () => {
  const { window, client, peer } = await connectedClient();
  const done = client.publish("room", "a");
  await peer.command("rpc");

  const next = await reconnectClient(window);
  next.reply(await next.command("rpc"));

  await done;
  assert.deepEqual(await published(await reconnectClient(window)), []);
});

test("acknowledged publications are not repeated", async () => {
  const { window, client, peer } = await connectedClient();
  const done = client.publish("room", "a");
  peer.reply(await peer.command("rpc"));
  await done;

  const next = await reconnectClient(window);

  assert.deepEqual(await published(next), []);
});

test("a publication waits until its topic is subscribed", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room");
  room.publish("a").catch(() => undefined);
  client.publish("other", "b").catch(() => undefined);
  const commands = await peer.commands();
  assert.deepEqual(
    commands.map(({ method }) => method),
    ["subscribe", "rpc"],
  );
  assert.equal(commands[1]!.body.data.channel, "other");

  peer.reply(commands[0]!);

  assert.deepEqual(await published(peer), ["a"]);
});

test("a publication to a topic that refused the subscription is rejected", async () => {
  const { client, peer } = await connectedClient();
  const done = client.subscribe("room").publish("a");
  peer.replyError(await peer.command("subscribe"), 103);

  peer.replyError(await peer.command("rpc"), 103, "permission denied");

  await assert.rejects(done, { code: 103 });
});

test("a refused publication is rejected with the error and not repeated", async () => {
  const { window, client, peer } = await connectedClient();
  const done = client.publish("room", "a");

  peer.replyError(await peer.command("rpc"), 422, "too rude");

  await assert.rejects(done, { code: 422, message: "too rude" });
  assert.deepEqual(await published(await reconnectClient(window)), []);
});

test("a temporary error rejects a publication", async () => {
  const { client, peer } = await connectedClient();
  const done = client.publish("room", "a");

  peer.replyError(await peer.command("rpc"), 100, "internal", true);

  await assert.rejects(done, { code: 100, temporary: true });
});

test("a publication has no timeout while there is a connection", async () => {
  const { window, client, peer } = await connectedClient({ timeout: 1 }, { ping: 0 });
  const done = client.publish("room", "a");
  const command = await peer.command("rpc");

  await window.advance(100);
  peer.reply(command);

  await done;
});

test("publications wait for a rate limit, in order", async () => {
  const { window, client, peer } = await connectedClient({ minDelay: 1, maxDelay: 8 }, { ping: 0 });
  window.chance = 1;
  const results: string[] = [];
  for (const text of ["a", "b"]) void client.publish("room", text).then(() => results.push(text));
  for (const command of await peer.commands()) peer.replyError(command, 111, "slow down", true);
  void client.publish("room", "c").then(() => results.push("c"));
  await window.advance(1.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  const again = await peer.commands();
  for (const command of again) peer.reply(command);
  await settle();

  assert.deepEqual(
    again.map(({ body }) => body.data.data),
    ["a", "b", "c"],
  );
  assert.deepEqual(results, ["a", "b", "c"]);
});

test("delays after a rate limit grow until a publication is acknowledged", async () => {
  const { window, client, peer } = await connectedClient({ minDelay: 1, maxDelay: 64 }, { ping: 0 });
  window.chance = 1;
  client.publish("room", "a").catch(() => undefined);
  for (const delay of [2, 3, 5]) {
    peer.replyError(await peer.command("rpc"), 111, "", true);
    await window.advance(delay - 0.1);
    assert.deepEqual(await peer.commands(), []);
    await window.advance(0.1);
  }
  peer.reply(await peer.command("rpc"));
  client.publish("room", "b").catch(() => undefined);
  peer.replyError(await peer.command("rpc"), 111, "", true);

  await window.advance(2);

  await peer.command("rpc");
});

test("a full outbox rejects the next publication and keeps the others", async () => {
  const { window, client } = await connectingClient({ queueLimit: 2 });
  client.publish("room", "a").catch(() => undefined);
  client.publish("room", "b").catch(() => undefined);

  await assert.rejects(client.publish("room", "c"), {
    name: "QuotaExceededError",
    message: /^the queue is full \(2 messages, \d+ bytes\)$/,
  });

  assert.deepEqual(await published(await acceptClient(window)), ["a", "b"]);
});

test("the outbox is bounded in bytes too", async () => {
  const { client } = await connectingClient({ queueSize: 300 });
  client.publish("room", "ü".repeat(50)).catch(() => undefined);

  await assert.rejects(client.publish("room", "ü".repeat(50)), { name: "QuotaExceededError" });
});

test("an acknowledgement makes room", async () => {
  const { window, client, peer } = await connectedClient({ queueLimit: 1 });
  const first = client.publish("room", "a");
  peer.reply(await peer.command("rpc"));
  await first;
  window.socket.break();

  client.publish("room", "b").catch(() => undefined);
  await assert.rejects(client.publish("room", "c"), { name: "QuotaExceededError" });
});

test("an acknowledgement makes room in bytes too", async () => {
  const { window, client, peer } = await connectedClient({ queueSize: 300 });
  for (let n = 0; n < 5; n++) {
    const done = client.publish("room", "x".repeat(100));
    peer.reply(await peer.command("rpc"));
    await done;
  }
  window.socket.break();

  client.publish("room", "fits").catch(() => undefined);

  assert.deepEqual(await published(await acceptNext(window)), ["fits"]);
});

test("drop-oldest keeps publications that were sent", async () => {
  const { client, peer } = await connectedClient({ queueLimit: 1, whenFull: "drop-oldest" });
  const done = client.publish("other", "a");
  const command = await peer.command("rpc");

  await assert.rejects(client.subscribe("room").publish("b"), { name: "QuotaExceededError" });
  peer.reply(command);

  await done;
});

test("drop-oldest rejects the oldest publication", async () => {
  const { window, client } = await connectingClient({ queueLimit: 2, whenFull: "drop-oldest" });
  const oldest = client.publish("room", "a");
  const refused = assert.rejects(oldest, { name: "QuotaExceededError" });
  client.publish("room", "b").catch(() => undefined);
  client.publish("room", "c").catch(() => undefined);

  await refused;
  assert.deepEqual(await published(await acceptClient(window)), ["b", "c"]);
});

test("drop-oldest does not empty the outbox for a publication that never fits", async () => {
  const { window, client } = await connectingClient({ queueSize: 300, whenFull: "drop-oldest" });
  client.publish("room", "a").catch(() => undefined);

  await assert.rejects(client.publish("room", "x".repeat(400)), { name: "QuotaExceededError" });

  assert.deepEqual(await published(await acceptClient(window)), ["a"]);
});

test("while connected the outbox is not bounded", async () => {
  const { client, peer } = await connectedClient({ queueLimit: 1 });

  for (const n of [1, 2, 3]) client.publish("room", n).catch(() => undefined);

  assert.deepEqual(await published(peer), [1, 2, 3]);
});

test("while it waits for a rate limit the outbox is bounded", async () => {
  const { client, peer } = await connectedClient({ queueLimit: 1 });
  client.publish("room", "a").catch(() => undefined);
  peer.replyError(await peer.command("rpc"), 111, "", true);

  await assert.rejects(client.publish("room", "b"), { name: "QuotaExceededError" });
});

test("waiting publications are rejected when the client is disconnected", async () => {
  const { window, client } = await connectingClient();
  const done = client.publish("room", "a");

  client.disconnect();
  await assert.rejects(done, { name: "TopicError", code: 3 });
  client.connect();
  await settle();

  assert.deepEqual(await published(await acceptClient(window)), []);
});

test("disconnect ends the wait for a rate limit", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  client.publish("room", "a").catch(() => undefined);
  peer.replyError(await peer.command("rpc"), 111, "", true);

  client.disconnect();
  assert.equal(window.timers, 0);
  client.connect();
  await settle();
  const next = await acceptClient(window);
  client.publish("room", "b").catch(() => undefined);

  assert.deepEqual(await published(next), ["b"]);
});

test("sent publications are rejected when the server ends the client", async () => {
  const { window, client, peer } = await connectedClient();
  const done = client.publish("room", "a");
  await peer.command("rpc");

  const refused = assert.rejects(done, { code: 3 });
  window.socket.serverClose(3503);

  await refused;
});

test("a publication is not repeated after its key has expired", async () => {
  const { window, client, peer } = await connectedClient();
  const done = client.publish("room", "a");
  await peer.command("rpc");
  const refused = assert.rejects(done, { code: 2, message: /may have been delivered/ });
  window.goOffline();
  window.socket.break();

  await window.advance(281);
  window.goOnline();
  await settle();

  assert.deepEqual(await published(await acceptClient(window)), []);
  await refused;
});

test("a publication that was never sent does not expire", async () => {
  const { window, client } = await connectingClient();
  client.publish("room", "a").catch(() => undefined);
  window.goOffline();
  window.socket.break();

  await window.advance(3600);
  window.goOnline();
  await settle();

  assert.deepEqual(await published(await acceptClient(window)), ["a"]);
});
