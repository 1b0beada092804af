/** Sending: what leaves in which form, and what becomes of it while offline. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, dialling, diary, waiting, type World } from "./world.js";

/** The next connection, accepted. */
async function comeBack({ window }: World): Promise<unknown[]> {
  await window.advance(20);
  window.socket.accept();
  return window.socket.sent;
}

async function bytes(frame: unknown): Promise<number[]> {
  assert.ok(frame instanceof Blob);
  return [...new Uint8Array(await frame.arrayBuffer())];
}

test("a string is sent as it is", async () => {
  const { socket, native } = await connected();

  socket.send("hello");

  assert.deepEqual(native.sent, ["hello"]);
});

test("objects, arrays, numbers and null are sent as JSON", async () => {
  const { socket, native } = await connected();

  for (const value of [{ a: "ü" }, [1], 2.5, true, null]) socket.send(value);

  assert.deepEqual(native.sent, ['{"a":"ü"}', "[1]", "2.5", "true", "null"]);
});

test("binary data is handed over as it is while open", async () => {
  const { socket, native } = await connected();
  const blob = new Blob(["x"]);
  const buffer = new ArrayBuffer(2);
  const view = new Uint8Array(buffer);

  for (const value of [blob, buffer, view]) socket.send(value);

  assert.equal(native.sent[0], blob);
  assert.equal(native.sent[1], buffer);
  assert.equal(native.sent[2], view);
});

for (const value of [undefined, () => 1, Symbol("s")]) {
  test(`${typeof value} has no JSON form and is refused`, async () => {
    const { socket, native } = await connected();

    assert.throws(() => socket.send(value), TypeError);
    assert.deepEqual(native.sent, []);
  });
}

test("what is sent before the first connection waits for it", async () => {
  const { socket, native } = await dialling();

  socket.send("early");
  native.accept();

  assert.deepEqual(native.sent, ["early"]);
});

test("queued messages are sent once and in order after the return", async () => {
  const world = await waiting();
  const { socket } = world;
  for (const text of ["a", "b", "c"]) socket.send(text);

  const sent = await comeBack(world);

  assert.deepEqual(sent, ["a", "b", "c"]);
});

test("a message sent on one connection is not repeated on the next", async () => {
  const world = await waiting();
  const { window, socket } = world;
  socket.send("only once");
  await comeBack(world);

  window.socket.break();
  const sent = await comeBack(world);

  assert.deepEqual(sent, []);
});

test("an attempt that fails keeps the queue", async () => {
  const world = await waiting();
  const { window, socket } = world;
  socket.send("patient");
  await window.advance(1);
  window.socket.break();

  const sent = await comeBack(world);

  assert.deepEqual(sent, ["patient"]);
});

test("what an open listener sends goes before the queue", async () => {
  const world = await waiting();
  const { socket } = world;
  socket.send("queued");
  socket.onopen = () => socket.send("login");

  const sent = await comeBack(world);

  assert.deepEqual(sent, ["login", "queued"]);
});

test("nothing overtakes the queue in the moment before the open event", async () => {
  const { socket, native } = await dialling();
  socket.send("first");

  native.readyState = 1;
  socket.send("second");
  native.accept();

  assert.deepEqual(native.sent, ["first", "second"]);
});

test("an open listener that reconnects leaves the queue to the next connection", async () => {
  const world = await waiting();
  const { window, socket } = world;
  socket.send("kept");
  socket.addEventListener("open", () => socket.reconnect(), { once: true });
  assert.deepEqual(await comeBack(world), []);

  await window.advance(0);
  window.socket.accept();

  assert.deepEqual(window.socket.sent, ["kept"]);
});

test("a connection that is closing takes no message from the queue", async () => {
  const world = await waiting();
  const { window, socket } = world;
  socket.send("kept");
  socket.addEventListener("open", () => (window.socket.readyState = 2), { once: true });
  assert.deepEqual(await comeBack(world), []);

  window.socket.break();
  const sent = await comeBack(world);

  assert.deepEqual(sent, ["kept"]);
});

test("a message for a connection that is closing waits for the next", async () => {
  const world = await connected();
  const { socket, native } = world;
  native.readyState = 2;

  socket.send("later");
  native.hangUp(1012);
  const sent = await comeBack(world);

  assert.deepEqual(native.sent, []);
  assert.deepEqual(sent, ["later"]);
});

test("a queued object is sent as it was when it was handed over", async () => {
  const world = await waiting();
  const message = { n: 1 };
  world.socket.send(message);

  message.n = 2;
  const sent = await comeBack(world);

  assert.deepEqual(sent, ['{"n":1}']);
});

test("queued bytes are sent as they were when they were handed over", async () => {
  const world = await waiting();
  const buffer = new Uint8Array([1, 2, 3, 4]);
  world.socket.send(buffer.subarray(1, 3));
  world.socket.send(buffer.buffer);

  buffer.fill(9);
  const sent = await comeBack(world);

  assert.deepEqual(await bytes(sent[0]), [2, 3]);
  assert.deepEqual(await bytes(sent[1]), [1, 2, 3, 4]);
});

test("an empty message is a message", async () => {
  const world = await waiting();
  world.socket.send("");
  world.socket.send("after");

  assert.deepEqual(await comeBack(world), ["", "after"]);
});

test("bufferedAmount counts the queue in bytes and the connection's own", async () => {
  const world = await waiting();
  const { window, socket } = world;
  socket.send("ü");
  socket.send(new Uint8Array(5));
  assert.equal(socket.bufferedAmount, 7);

  await comeBack(world);
  window.socket.bufferedAmount = 3;

  assert.equal(socket.bufferedAmount, 3);
});

test("a full queue refuses the next message aloud and keeps what it took", async () => {
  const world = await waiting({ queueLimit: 2 });
  const { socket } = world;
  socket.send("a");
  socket.send("b");

  assert.throws(() => socket.send("c"), {
    name: "QuotaExceededError",
    message: "the offline queue is full (2 messages, 2 bytes)",
  });
  assert.deepEqual(await comeBack(world), ["a", "b"]);
});

test("the queue is bounded in bytes too", async () => {
  const world = await waiting({ queueSize: 4 });
  const { socket } = world;
  socket.send("üü");

  assert.throws(() => socket.send("x"), { name: "QuotaExceededError" });
  assert.deepEqual(await comeBack(world), ["üü"]);
});

test("drop-oldest makes room and names what it dropped", async () => {
  const world = await waiting({ queueLimit: 2, whenFull: "drop-oldest" });
  const { socket } = world;
  const drops = diary(socket, "drop");

  for (const text of ["a", "b", "c"]) socket.send(text);

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["a"],
  );
  assert.deepEqual(await comeBack(world), ["b", "c"]);
});

test("drop-oldest does not empty the queue for a message that never fits", async () => {
  const world = await waiting({ queueSize: 4, whenFull: "drop-oldest" });
  const { socket } = world;
  const drops = diary(socket, "drop");

  socket.send("a");
  socket.send("far too long");

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["far too long"],
  );
  assert.deepEqual(await comeBack(world), ["a"]);
});

test("drop-newest keeps the queue and names what it did not take", async () => {
  const world = await waiting({ queueLimit: 1, whenFull: "drop-newest" });
  const { socket } = world;
  const drops = diary(socket, "drop");

  socket.send("a");
  socket.send("b");

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["b"],
  );
  assert.deepEqual(await comeBack(world), ["a"]);
});

test("what still waits when the socket closes for good is named, not lost silently", async () => {
  const { window, socket } = await waiting();
  const drops = diary(socket, "drop");
  socket.send("a");
  socket.send("b");

  socket.close();
  await window.advance(1);

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["a", "b"],
  );
  assert.equal(socket.bufferedAmount, 0);
});

test("a closed socket refuses messages aloud", async () => {
  const { socket, native } = await connected();
  native.hangUp(4401);

  assert.throws(() => socket.send("x"), { name: "InvalidStateError" });
});

test("a closing socket refuses messages aloud", async () => {
  const { socket } = await connected();
  socket.close();

  assert.throws(() => socket.send("x"), { name: "InvalidStateError" });
});
