/** The form of messages on the wire, and the offline queue. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { openSocket, connectingSocket, collectEvents, waitingSocket, type SocketSetup } from "./socket_setup.js";

/** Accept the next connection, and return what is sent on it. */
async function acceptNext({ window }: SocketSetup): Promise<unknown[]> {
  await window.advance(20);
  window.socket.accept();
  return window.socket.sent;
}

async function bytes(frame: unknown): Promise<number[]> {
  assert.ok(frame instanceof Blob);
  return [...new Uint8Array(await frame.arrayBuffer())];
}

test("a string is sent as it is", async () => {
  const { socket, native } = await openSocket();

  socket.send("hello");

  assert.deepEqual(native.sent, ["hello"]);
});

test("objects, arrays, numbers and null are sent as JSON", async () => {
  const { socket, native } = await openSocket();

  for (const value of [{ a: "ü" }, [1], 2.5, true, null]) socket.send(value);

  assert.deepEqual(native.sent, ['{"a":"ü"}', "[1]", "2.5", "true", "null"]);
});

test("binary data is sent as it is", async () => {
  const { socket, native } = await openSocket();
  const blob = new Blob(["x"]);
  const buffer = new ArrayBuffer(2);
  const view = new Uint8Array(buffer);

  for (const value of [blob, buffer, view]) socket.send(value);

  assert.equal(native.sent[0], blob);
  assert.equal(native.sent[1], buffer);
  assert.equal(native.sent[2], view);
});

for (const value of [undefined, () => 1, Symbol("s")]) {
  test(`a value without a JSON form is refused: ${typeof value}`, async () => {
    const { socket, native } = await openSocket();

    assert.throws(() => socket.send(value), TypeError);
    assert.deepEqual(native.sent, []);
  });
}

test("messages sent before the first connection wait for it", async () => {
  const { socket, native } = await connectingSocket();

  socket.send("early");
  native.accept();

  assert.deepEqual(native.sent, ["early"]);
});

test("queued messages are sent once and in order after a reconnect", async () => {
  const setup = await waitingSocket();
  const { socket } = setup;
  for (const text of ["a", "b", "c"]) socket.send(text);

  const sent = await acceptNext(setup);

  assert.deepEqual(sent, ["a", "b", "c"]);
});

test("a sent message is not repeated on the next connection", async () => {
  const setup = await waitingSocket();
  const { window, socket } = setup;
  socket.send("only once");
  await acceptNext(setup);

  window.socket.break();
  const sent = await acceptNext(setup);

  assert.deepEqual(sent, []);
});

test("a failed attempt keeps the queue", async () => {
  const setup = await waitingSocket();
  const { window, socket } = setup;
  socket.send("patient");
  await window.advance(1);
  window.socket.break();

  const sent = await acceptNext(setup);

  assert.deepEqual(sent, ["patient"]);
});

test("messages of an open listener are sent before the queue", async () => {
  const setup = await waitingSocket();
  const { socket } = setup;
  socket.send("queued");
  socket.onopen = () => socket.send("login");

  const sent = await acceptNext(setup);

  assert.deepEqual(sent, ["login", "queued"]);
});

test("a message sent before the open event does not overtake the queue", async () => {
  const { socket, native } = await connectingSocket();
  socket.send("first");

  native.readyState = 1;
  socket.send("second");
  native.accept();

  assert.deepEqual(native.sent, ["first", "second"]);
});

test("an open listener that reconnects leaves the queue to the next connection", async () => {
  const setup = await waitingSocket();
  const { window, socket } = setup;
  socket.send("kept");
  socket.addEventListener("open", () => socket.reconnect(), { once: true });
  assert.deepEqual(await acceptNext(setup), []);

  await window.advance(0);
  window.socket.accept();

  assert.deepEqual(window.socket.sent, ["kept"]);
});

test("no queued message is sent on a connection that is closing", async () => {
  const setup = await waitingSocket();
  const { window, socket } = setup;
  socket.send("kept");
  socket.addEventListener("open", () => (window.socket.readyState = 2), { once: true });
  assert.deepEqual(await acceptNext(setup), []);

  window.socket.break();
  const sent = await acceptNext(setup);

  assert.deepEqual(sent, ["kept"]);
});

test("a message sent while the connection is closing waits for the next", async () => {
  const setup = await openSocket();
  const { socket, native } = setup;
  native.readyState = 2;

  socket.send("later");
  native.serverClose(1012);
  const sent = await acceptNext(setup);

  assert.deepEqual(native.sent, []);
  assert.deepEqual(sent, ["later"]);
});

test("a queued object is sent as it was when send was called", async () => {
  const setup = await waitingSocket();
  const message = { n: 1 };
  setup.socket.send(message);

  message.n = 2;
  const sent = await acceptNext(setup);

  assert.deepEqual(sent, ['{"n":1}']);
});

test("queued bytes are sent as they were when send was called", async () => {
  const setup = await waitingSocket();
  const buffer = new Uint8Array([1, 2, 3, 4]);
  setup.socket.send(buffer.subarray(1, 3));
  setup.socket.send(buffer.buffer);

  buffer.fill(9);
  const sent = await acceptNext(setup);

  assert.deepEqual(await bytes(sent[0]), [2, 3]);
  assert.deepEqual(await bytes(sent[1]), [1, 2, 3, 4]);
});

test("an empty message is sent", async () => {
  const setup = await waitingSocket();
  setup.socket.send("");
  setup.socket.send("after");

  assert.deepEqual(await acceptNext(setup), ["", "after"]);
});

test("bufferedAmount counts the queue in bytes and the connection's own", async () => {
  const setup = await waitingSocket();
  const { window, socket } = setup;
  socket.send("ü");
  socket.send(new Uint8Array(5));
  assert.equal(socket.bufferedAmount, 7);

  await acceptNext(setup);
  window.socket.bufferedAmount = 3;

  assert.equal(socket.bufferedAmount, 3);
});

test("a full queue throws and keeps its messages", async () => {
  const setup = await waitingSocket({ queueLimit: 2 });
  const { socket } = setup;
  socket.send("a");
  socket.send("b");

  assert.throws(() => socket.send("c"), {
    name: "QuotaExceededError",
    message: "the queue is full (2 messages, 2 bytes)",
  });
  assert.deepEqual(await acceptNext(setup), ["a", "b"]);
});

test("the queue is bounded in bytes too", async () => {
  const setup = await waitingSocket({ queueSize: 4 });
  const { socket } = setup;
  socket.send("üü");

  assert.throws(() => socket.send("x"), { name: "QuotaExceededError" });
  assert.deepEqual(await acceptNext(setup), ["üü"]);
});

test("drop-oldest drops the oldest messages, with drop events", async () => {
  const setup = await waitingSocket({ queueLimit: 2, whenFull: "drop-oldest" });
  const { socket } = setup;
  const drops = collectEvents(socket, "drop");

  for (const text of ["a", "b", "c"]) socket.send(text);

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["a"],
  );
  assert.deepEqual(await acceptNext(setup), ["b", "c"]);
});

test("drop-oldest does not empty the queue for a message that never fits", async () => {
  const setup = await waitingSocket({ queueSize: 4, whenFull: "drop-oldest" });
  const { socket } = setup;
  const drops = collectEvents(socket, "drop");

  socket.send("a");
  socket.send("far too long");

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["far too long"],
  );
  assert.deepEqual(await acceptNext(setup), ["a"]);
});

test("drop-newest drops the new message, with a drop event", async () => {
  const setup = await waitingSocket({ queueLimit: 1, whenFull: "drop-newest" });
  const { socket } = setup;
  const drops = collectEvents(socket, "drop");

  socket.send("a");
  socket.send("b");

  assert.deepEqual(
    drops.map((event) => event.detail),
    ["b"],
  );
  assert.deepEqual(await acceptNext(setup), ["a"]);
});

test("messages queued at the final close are dropped, with drop events", async () => {
  const { window, socket } = await waitingSocket();
  const drops = collectEvents(socket, "drop");
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

test("send on a closed socket throws", async () => {
  const { socket, native } = await openSocket();
  native.serverClose(4401);

  assert.throws(() => socket.send("x"), { name: "InvalidStateError" });
});

test("send on a closing socket throws", async () => {
  const { socket } = await openSocket();
  socket.close();

  assert.throws(() => socket.send("x"), { name: "InvalidStateError" });
});
