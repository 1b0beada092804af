/** Staying alive and following the page: heartbeat, network, tab, page cache. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket } from "../src/index.js";
import { FakeWindow, settle } from "./fakes.js";
import { connected, dialling, diary, waiting } from "./world.js";

test("without a heartbeat an idle connection has no timer", async () => {
  const { window } = await connected();

  assert.equal(window.timers, 0);
});

test("a heartbeat is sent after the silence it is set to", async () => {
  const { window, native } = await connected({ heartbeat: 25 });

  await window.advance(24.9);
  assert.deepEqual(native.sent, []);
  await window.advance(0.1);

  assert.deepEqual(native.sent, ['{"type":"ping"}']);
});

test("the heartbeat's message may be chosen", async () => {
  const { window, native } = await connected({ heartbeat: 25, heartbeatMessage: "\n" });

  await window.advance(25);

  assert.deepEqual(native.sent, ["\n"]);
});

test("any frame of the server postpones the heartbeat", async () => {
  const { window, native } = await connected({ heartbeat: 25 });

  await window.advance(20);
  native.receive("news");
  await window.advance(20);

  assert.deepEqual(native.sent, []);
});

test("any frame of the server answers a heartbeat", async () => {
  const { window, socket, native } = await connected({ heartbeat: 25 });
  await window.advance(25);
  await window.advance(9);

  native.receive("not even a pong");
  await window.advance(24);

  assert.equal(socket.status, "open");
  assert.equal(native.sent.length, 1);
});

test("a heartbeat without an answer ends the connection at its deadline", async () => {
  const { window, socket, native } = await connected({ heartbeat: 25 });
  const errors = diary(socket, "error");
  const closes = diary(socket, "close");

  await window.advance(34.9);
  assert.equal(socket.status, "open");
  await window.advance(0.1);

  assert.equal(native.readyState, 2);
  assert.equal(errors[0]!.error, "no frame within 10 s of a heartbeat");
  assert.equal(closes[0]!.code, 1006);
  assert.equal(socket.status, "waiting");
});

test("a connection given up is not heard any more", async () => {
  const { window, socket, native } = await connected({ heartbeat: 25 });
  const seen = diary(socket, "message");
  const closes = diary(socket, "close");
  await window.advance(35);

  native.receive("too late");
  native.break();

  assert.deepEqual(seen, []);
  assert.equal(closes.length, 1);
});

test("no heartbeat is sent on a connection that is closing", async () => {
  const { window, socket, native } = await connected({ heartbeat: 25 });

  socket.close();
  native.receive("last words");
  await window.advance(60);

  assert.deepEqual(native.sent, []);
  assert.equal(socket.readyState, 2);
});

test("a heartbeat's deadline does not overtake a close on its way", async () => {
  const { window, socket, native } = await connected({ heartbeat: 25 });
  const closes = diary(socket, "close");
  await window.advance(25);

  socket.close(4000, "bye");
  await window.advance(60);
  native.hangUp(4000, "bye");

  assert.deepEqual(
    closes.map(({ code }) => code),
    [4000],
  );
});

test("without network no attempt is made until it is back", async () => {
  const { window, socket } = await waiting();

  window.goOffline();
  await window.advance(600);
  assert.equal(socket.status, "offline");
  assert.equal(window.sockets.length, 1);
  window.goOnline();
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a network that leaves twice is told once", async () => {
  const { window, socket } = await waiting();
  const states = diary(socket, "state");

  window.goOffline();
  window.goOffline();

  assert.equal(states.length, 1);
});

test("a connection lost without network waits for the network, not for a pause", async () => {
  const { window, socket, native } = await connected();
  window.navigator.onLine = false;

  native.break();

  assert.equal(socket.status, "offline");
  assert.equal(window.timers, 0);
});

test("a socket made without network waits for it", async () => {
  const window = new FakeWindow();
  window.navigator.onLine = false;

  const socket = new Socket("/ws/", [], { window });
  await settle();

  assert.equal(socket.status, "offline");
  assert.equal(window.sockets.length, 0);
});

for (const host of ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"]) {
  test(`a machine without network still reaches itself at ${host}`, async () => {
    const window = new FakeWindow();
    window.navigator.onLine = false;

    new Socket(`ws://${host}/ws/`, [], { window });
    await settle();

    assert.equal(window.sockets.length, 1);
  });
}

test("on its own machine a url function is asked without network too", async () => {
  const window = new FakeWindow();
  window.navigator.onLine = false;
  window.location.href = "http://localhost:8000/";

  new Socket(() => "/ws/", [], { window });
  await settle();

  assert.equal(window.sockets.length, 1);
});

test("a network that leaves does not end a connection by itself", async () => {
  const { window, socket } = await connected();

  window.goOffline();

  assert.equal(socket.status, "open");
});

test("a network that comes back cuts the pause short", async () => {
  const { window } = await waiting();

  window.fire("online");
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a tab that is shown cuts the pause short", async () => {
  const { window } = await waiting();
  window.hide();
  await settle();
  assert.equal(window.sockets.length, 1);

  window.show();
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a hidden tab keeps its connection", async () => {
  const { window, socket } = await connected();

  window.hide();

  assert.equal(socket.status, "open");
});

test("an attempt on its way is not begun anew by page events", async () => {
  const { window } = await dialling();

  window.show();
  window.fire("online");
  await settle();

  assert.equal(window.sockets.length, 1);
});

test("a tab that is shown asks an open connection for a sign of life at once", async () => {
  const { window, native } = await connected({ heartbeat: 25 });

  window.hide();
  window.show();

  assert.deepEqual(native.sent, ['{"type":"ping"}']);
});

test("without a heartbeat nothing is sent when the tab is shown", async () => {
  const { window, native } = await connected();

  window.show();

  assert.deepEqual(native.sent, []);
});

test("a page that is hidden hangs up without an error", async () => {
  const { window, socket, native } = await connected();
  const errors = diary(socket, "error");
  const closes = diary(socket, "close");

  window.fire("pagehide");
  await window.advance(600);

  assert.equal(native.readyState, 2);
  assert.deepEqual(errors, []);
  assert.deepEqual(
    closes.map(({ code, willReconnect }) => [code, willReconnect]),
    [[1001, true]],
  );
  assert.equal(window.sockets.length, 1);
});

test("a page that is shown again comes back with its queue", async () => {
  const { window, socket } = await connected();
  window.fire("pagehide");
  socket.send("from the cache");

  window.fire("pageshow");
  await settle();
  window.socket.accept();

  assert.deepEqual(window.socket.sent, ["from the cache"]);
});

test("a page that is hidden while it waits stops its attempts", async () => {
  const { window, socket } = await waiting();
  const closes = diary(socket, "close");

  window.fire("pagehide");
  await window.advance(600);

  assert.equal(window.timers, 0);
  assert.equal(window.sockets.length, 1);
  assert.deepEqual(closes, []);
});

test("a page that is hidden during an attempt drops it", async () => {
  const { window, socket, native } = await dialling();

  window.fire("pagehide");
  native.accept();

  assert.equal(socket.status, "offline");
});

test("page events do not disturb a close on its way", async () => {
  const { window, socket, native } = await connected();
  socket.close(4000, "bye");

  window.fire("pagehide");
  window.fire("pageshow");
  native.hangUp(4000, "bye");
  await window.advance(60);

  assert.equal(window.sockets.length, 1);
  assert.equal(socket.status, "closed");
});
