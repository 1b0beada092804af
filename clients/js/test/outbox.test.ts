/** Publishing: acknowledged once, kept while offline, repeated under one key. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { settle, type FakeWindow } from "./fakes.js";
import { calling, comeBack, online, type Peer, welcome } from "./peer.js";

/** The next connection after one that has broken. */
async function comeBackFrom(window: FakeWindow): Promise<Peer> {
  await window.advance(2);
  return welcome(window);
}

/** What was published in the commands that have not been read. */
async function published(peer: Peer): Promise<unknown[]> {
  const commands = await peer.commands();
  return commands.filter(({ method }) => method === "rpc").map(({ body }) => body.data.data);
}

test("a publication is an rpc with a key, and its answer the acknowledgement", async () => {
  const { client, peer } = await online();
  let isDone = false;

  const done = client.publish("room", { text: "hi" }).then(() => (isDone = true));
  const asked = await peer.command("rpc");
  assert.equal(isDone, false);
  peer.answer(asked, {});
  await done;

  assert.equal(asked.body.method, "$publish");
  const { channel, data, key } = asked.body.data;
  assert.deepEqual([channel, data], ["room", { text: "hi" }]);
  assert.match(key, /^\d{10,}-1$/);
});

test("no two publications have the same key", async () => {
  const clients = [await online(), await online()];
  for (const { client } of clients) {
    for (let n = 0; n < 2; n++) client.publish("room", n).catch(() => undefined);
  }

  const keys = [];
  for (const { peer } of clients) {
    for (const { body } of await peer.commands()) keys.push(body.data.key);
  }

  assert.equal(new Set(keys).size, 4);
});

test("a publication is what the message was when it was handed over", async () => {
  const { window, client } = await calling();
  const message = { n: 1 };
  client.publish("room", message).catch(() => undefined);

  message.n = 2;
  const peer = await welcome(window);

  assert.deepEqual(await published(peer), [{ n: 1 }]);
});

for (const value of [undefined, () => 1, Symbol("s")]) {
  test(`${typeof value} cannot be published`, async () => {
    const { client, peer } = await online();

    await assert.rejects(client.publish("room", value), TypeError);
    assert.deepEqual(await peer.commands(), []);
  });
}

test("what is published offline goes out in order with the connection", async () => {
  const { window, client } = await calling();
  for (const n of [1, 2, 3]) client.publish("room", n).catch(() => undefined);

  const peer = await welcome(window);

  assert.deepEqual(await published(peer), [1, 2, 3]);
});

test("what was not acknowledged is repeated under its key, before what is new", async () => {
  const { window, client, peer } = await online();
  client.publish("room", "a").catch(() => undefined);
  const first = await peer.command("rpc");
  window.socket.break();
  client.publish("room", "b").catch(() => undefined);
  await window.advance(2);

  const next = await welcome(window);
  const [again, other] = await next.commands();

  assert.deepEqual(again!.body, first.body);
  assert.notEqual(other!.body.data.key, first.body.data.key);
});

test("a publication is acknowledged on a later connection", async () => {
  const { window, client, peer } = await online();
  const done = client.publish("room", "a");
  await peer.command("rpc");

  const next = await comeBack(window);
  next.answer(await next.command("rpc"));

  await done;
  assert.deepEqual(await published(await comeBack(window)), []);
});

test("what was acknowledged is not repeated", async () => {
  const { window, client, peer } = await online();
  const done = client.publish("room", "a");
  peer.answer(await peer.command("rpc"));
  await done;

  const next = await comeBack(window);

  assert.deepEqual(await published(next), []);
});

test("a publication waits until its topic is subscribed", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room");
  room.publish("a").catch(() => undefined);
  client.publish("other", "b").catch(() => undefined);
  const commands = await peer.commands();
  assert.deepEqual(
    commands.map(({ method }) => method),
    ["subscribe", "rpc"],
  );
  assert.equal(commands[1]!.body.data.channel, "other");

  peer.answer(commands[0]!);

  assert.deepEqual(await published(peer), ["a"]);
});

test("a publication to a topic that refused its subscriber is refused", async () => {
  const { client, peer } = await online();
  const done = client.subscribe("room").publish("a");
  peer.refuse(await peer.command("subscribe"), 103);

  peer.refuse(await peer.command("rpc"), 103, "permission denied");

  await assert.rejects(done, { code: 103 });
});

test("a refused publication says why and is not repeated", async () => {
  const { window, client, peer } = await online();
  const done = client.publish("room", "a");

  peer.refuse(await peer.command("rpc"), 422, "too rude");

  await assert.rejects(done, { code: 422, message: "too rude" });
  assert.deepEqual(await published(await comeBack(window)), []);
});

test("a failure of the server is told, not repeated for ever", async () => {
  const { client, peer } = await online();
  const done = client.publish("room", "a");

  peer.refuse(await peer.command("rpc"), 100, "internal", true);

  await assert.rejects(done, { code: 100, temporary: true });
});

test("a publication has no deadline while there is a connection", async () => {
  const { window, client, peer } = await online({ timeout: 1 }, { ping: 0 });
  const done = client.publish("room", "a");
  const asked = await peer.command("rpc");

  await window.advance(100);
  peer.answer(asked);

  await done;
});

test("a rate limit is waited out, in order", async () => {
  const { window, client, peer } = await online({ minDelay: 1, maxDelay: 8 }, { ping: 0 });
  window.chance = 1;
  const results: string[] = [];
  for (const text of ["a", "b"]) void client.publish("room", text).then(() => results.push(text));
  for (const asked of await peer.commands()) peer.refuse(asked, 111, "slow down", true);
  void client.publish("room", "c").then(() => results.push("c"));
  await window.advance(1.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  const again = await peer.commands();
  for (const asked of again) peer.answer(asked);
  await settle();

  assert.deepEqual(
    again.map(({ body }) => body.data.data),
    ["a", "b", "c"],
  );
  assert.deepEqual(results, ["a", "b", "c"]);
});

test("pauses of a rate limit grow until a publication got through", async () => {
  const { window, client, peer } = await online({ minDelay: 1, maxDelay: 64 }, { ping: 0 });
  window.chance = 1;
  client.publish("room", "a").catch(() => undefined);
  for (const pause of [2, 3, 5]) {
    peer.refuse(await peer.command("rpc"), 111, "", true);
    await window.advance(pause - 0.1);
    assert.deepEqual(await peer.commands(), []);
    await window.advance(0.1);
  }
  peer.answer(await peer.command("rpc"));
  client.publish("room", "b").catch(() => undefined);
  peer.refuse(await peer.command("rpc"), 111, "", true);

  await window.advance(2);

  await peer.command("rpc");
});

test("a full outbox refuses the next publication and keeps what it took", async () => {
  const { window, client } = await calling({ queueLimit: 2 });
  client.publish("room", "a").catch(() => undefined);
  client.publish("room", "b").catch(() => undefined);

  await assert.rejects(client.publish("room", "c"), {
    name: "QuotaExceededError",
    message: /^the outbox is full \(2 publications, \d+ bytes\)$/,
  });

  assert.deepEqual(await published(await welcome(window)), ["a", "b"]);
});

test("the outbox is bounded in bytes too", async () => {
  const { client } = await calling({ queueSize: 300 });
  client.publish("room", "ü".repeat(50)).catch(() => undefined);

  await assert.rejects(client.publish("room", "ü".repeat(50)), { name: "QuotaExceededError" });
});

test("what was acknowledged leaves room", async () => {
  const { window, client, peer } = await online({ queueLimit: 1 });
  const first = client.publish("room", "a");
  peer.answer(await peer.command("rpc"));
  await first;
  window.socket.break();

  client.publish("room", "b").catch(() => undefined);
  await assert.rejects(client.publish("room", "c"), { name: "QuotaExceededError" });
});

test("what was acknowledged leaves room in bytes too", async () => {
  const { window, client, peer } = await online({ queueSize: 300 });
  for (let n = 0; n < 5; n++) {
    const done = client.publish("room", "x".repeat(100));
    peer.answer(await peer.command("rpc"));
    await done;
  }
  window.socket.break();

  client.publish("room", "fits").catch(() => undefined);

  assert.deepEqual(await published(await comeBackFrom(window)), ["fits"]);
});

test("drop-oldest leaves alone what is on its way", async () => {
  const { client, peer } = await online({ queueLimit: 1, whenFull: "drop-oldest" });
  const done = client.publish("other", "a");
  const asked = await peer.command("rpc");

  await assert.rejects(client.subscribe("room").publish("b"), { name: "QuotaExceededError" });
  peer.answer(asked);

  await done;
});

test("drop-oldest refuses the oldest publication instead", async () => {
  const { window, client } = await calling({ queueLimit: 2, whenFull: "drop-oldest" });
  const oldest = client.publish("room", "a");
  const refused = assert.rejects(oldest, { name: "QuotaExceededError" });
  client.publish("room", "b").catch(() => undefined);
  client.publish("room", "c").catch(() => undefined);

  await refused;
  assert.deepEqual(await published(await welcome(window)), ["b", "c"]);
});

test("drop-oldest does not empty the outbox for a publication that never fits", async () => {
  const { window, client } = await calling({ queueSize: 300, whenFull: "drop-oldest" });
  client.publish("room", "a").catch(() => undefined);

  await assert.rejects(client.publish("room", "x".repeat(400)), { name: "QuotaExceededError" });

  assert.deepEqual(await published(await welcome(window)), ["a"]);
});

test("while connected the outbox is not bounded", async () => {
  const { client, peer } = await online({ queueLimit: 1 });

  for (const n of [1, 2, 3]) client.publish("room", n).catch(() => undefined);

  assert.deepEqual(await published(peer), [1, 2, 3]);
});

test("while a rate limit is waited out the outbox is bounded", async () => {
  const { client, peer } = await online({ queueLimit: 1 });
  client.publish("room", "a").catch(() => undefined);
  peer.refuse(await peer.command("rpc"), 111, "", true);

  await assert.rejects(client.publish("room", "b"), { name: "QuotaExceededError" });
});

test("what waits is refused when the client is disconnected", async () => {
  const { window, client } = await calling();
  const done = client.publish("room", "a");

  client.disconnect();
  await assert.rejects(done, { name: "TopicError", code: 3 });
  client.connect();
  await settle();

  assert.deepEqual(await published(await welcome(window)), []);
});

test("a rate limit is forgotten with the connection that was ended", async () => {
  const { window, client, peer } = await online({}, { ping: 0 });
  client.publish("room", "a").catch(() => undefined);
  peer.refuse(await peer.command("rpc"), 111, "", true);

  client.disconnect();
  assert.equal(window.timers, 0);
  client.connect();
  await settle();
  const next = await welcome(window);
  client.publish("room", "b").catch(() => undefined);

  assert.deepEqual(await published(next), ["b"]);
});

test("what is on its way is refused when the server ends the client", async () => {
  const { window, client, peer } = await online();
  const done = client.publish("room", "a");
  await peer.command("rpc");

  const refused = assert.rejects(done, { code: 3 });
  window.socket.hangUp(3503);

  await refused;
});

test("a publication is not repeated when the server has forgotten its key", async () => {
  const { window, client, peer } = await online();
  const done = client.publish("room", "a");
  await peer.command("rpc");
  const refused = assert.rejects(done, { code: 2, message: /may have been delivered/ });
  window.goOffline();
  window.socket.break();

  await window.advance(281);
  window.goOnline();
  await settle();

  assert.deepEqual(await published(await welcome(window)), []);
  await refused;
});

test("a publication that was never sent does not grow too old", async () => {
  const { window, client } = await calling();
  client.publish("room", "a").catch(() => undefined);
  window.goOffline();
  window.socket.break();

  await window.advance(3600);
  window.goOnline();
  await settle();

  assert.deepEqual(await published(await welcome(window)), ["a"]);
});
