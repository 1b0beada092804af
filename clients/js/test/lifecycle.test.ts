/** The heartbeat of a socket, and the events of its page: network, tab, page cache. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket } from "../src/index.js";
import { FakeWindow, settle } from "./fake_browser.js";
import { openSocket, connectingSocket, collectEvents, waitingSocket } from "./socket_setup.js";

test("without a heartbeat an idle connection has no timer", async () => {
  const { window } = await openSocket();

  assert.equal(window.timers, 0);
});

test("a heartbeat is sent after the configured silence", async () => {
  const { window, native } = await openSocket({ heartbeat: 25 });

  await window.advance(24.9);
  assert.deepEqual(native.sent, []);
  await window.advance(0.1);

  assert.deepEqual(native.sent, ['{"type":"ping"}']);
});

test("the heartbeat message is an option", async () => {
  const { window, native } = await openSocket({ heartbeat: 25, heartbeatMessage: "\n" });

  await window.advance(25);

  assert.deepEqual(native.sent, ["\n"]);
});

test("any frame of the server postpones the heartbeat", async () => {
  const { window, native } = await openSocket({ heartbeat: 25 });

  await window.advance(20);
  native.receive("news");
  await window.advance(20);

  assert.deepEqual(native.sent, []);
});

test("any frame of the server is a reply to a heartbeat", async () => {
  const { window, socket, native } = await openSocket({ heartbeat: 25 });
  await window.advance(25);
  await window.advance(9);

  native.receive("not even a pong");
  await window.advance(24);

  assert.equal(socket.status, "open");
  assert.equal(native.sent.length, 1);
});

test("a heartbeat without a reply ends the connection after its timeout", async () => {
  const { window, socket, native } = await openSocket({ heartbeat: 25 });
  const errors = collectEvents(socket, "error");
  const closes = collectEvents(socket, "close");

  await window.advance(34.9);
  assert.equal(socket.status, "open");
  await window.advance(0.1);

  assert.equal(native.readyState, 2);
  assert.equal(errors[0]!.error, "no frame within 10 s");
  assert.equal(closes[0]!.code, 1006);
  assert.equal(socket.status, "waiting");
});

test("events of a discarded connection are ignored", async () => {
  const { window, socket, native } = await openSocket({ heartbeat: 25 });
  const seen = collectEvents(socket, "message");
  const closes = collectEvents(socket, "close");
  await window.advance(35);

  native.receive("too late");
  native.break();

  assert.deepEqual(seen, []);
  assert.equal(closes.length, 1);
});

test("no heartbeat is sent on a connection that is closing", async () => {
  const { window, socket, native } = await openSocket({ heartbeat: 25 });

  socket.close();
  native.receive("last words");
  await window.advance(60);

  assert.deepEqual(native.sent, []);
  assert.equal(socket.readyState, 2);
});

test("the heartbeat timeout does not interrupt a close", async () => {
  const { window, socket, native } = await openSocket({ heartbeat: 25 });
  const closes = collectEvents(socket, "close");
  await window.advance(25);

  socket.close(4000, "bye");
  await window.advance(60);
  native.serverClose(4000, "bye");

  assert.deepEqual(
    closes.map(({ code }) => code),
    [4000],
  );
});

test("no attempt is made until the network is back", async () => {
  const { window, socket } = await waitingSocket();

  window.goOffline();
  await window.advance(600);
  assert.equal(socket.status, "offline");
  assert.equal(window.sockets.length, 1);
  window.goOnline();
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a repeated offline event emits one state event", async () => {
  const { window, socket } = await waitingSocket();
  const states = collectEvents(socket, "state");

  window.goOffline();
  window.goOffline();

  assert.equal(states.length, 1);
});

test("a connection lost without network waits for the network, without a timer", async () => {
  const { window, socket, native } = await openSocket();
  window.navigator.onLine = false;

  native.break();

  assert.equal(socket.status, "offline");
  assert.equal(window.timers, 0);
});

test("a socket created without network waits for it", async () => {
  const window = new FakeWindow();
  window.navigator.onLine = false;

  const socket = new Socket("/ws/", [], { window });
  await settle();

  assert.equal(socket.status, "offline");
  assert.equal(window.sockets.length, 0);
});

for (const host of ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"]) {
  test(`without network an attempt is made to ${host}`, async () => {
    const window = new FakeWindow();
    window.navigator.onLine = false;

    new Socket(`ws://${host}/ws/`, [], { window });
    await settle();

    assert.equal(window.sockets.length, 1);
  });
}

test("without network a url function is called on a page of the machine itself", async () => {
  const window = new FakeWindow();
  window.navigator.onLine = false;
  window.location.href = "http://localhost:8000/";

  new Socket(() => "/ws/", [], { window });
  await settle();

  assert.equal(window.sockets.length, 1);
});

test("an offline event does not end a connection", async () => {
  const { window, socket } = await openSocket();

  window.goOffline();

  assert.equal(socket.status, "open");
});

test("an online event starts an attempt at once", async () => {
  const { window } = await waitingSocket();

  window.fire("online");
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a tab that is shown starts an attempt at once", async () => {
  const { window } = await waitingSocket();
  window.hide();
  await settle();
  assert.equal(window.sockets.length, 1);

  window.show();
  await settle();

  assert.equal(window.sockets.length, 2);
});

test("a hidden tab keeps its connection", async () => {
  const { window, socket } = await openSocket();

  window.hide();

  assert.equal(socket.status, "open");
});

test("page events do not restart an attempt", async () => {
  const { window } = await connectingSocket();

  window.show();
  window.fire("online");
  await settle();

  assert.equal(window.sockets.length, 1);
});

test("a tab that is shown sends a heartbeat at once", async () => {
  const { window, native } = await openSocket({ heartbeat: 25 });

  window.hide();
  window.show();

  assert.deepEqual(native.sent, ['{"type":"ping"}']);
});

test("a tab that is shown sends nothing without a heartbeat", async () => {
  const { window, native } = await openSocket();

  window.show();

  assert.deepEqual(native.sent, []);
});

test("a page in the page cache disconnects without an error", async () => {
  const { window, socket, native } = await openSocket();
  const errors = collectEvents(socket, "error");
  const closes = collectEvents(socket, "close");

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

test("a page that leaves the page cache reconnects and sends its queue", async () => {
  const { window, socket } = await openSocket();
  window.fire("pagehide");
  socket.send("from the cache");

  window.fire("pageshow");
  await settle();
  window.socket.accept();

  assert.deepEqual(window.socket.sent, ["from the cache"]);
});

test("a page in the page cache stops its attempts", async () => {
  const { window, socket } = await waitingSocket();
  const closes = collectEvents(socket, "close");

  window.fire("pagehide");
  await window.advance(600);

  assert.equal(window.timers, 0);
  assert.equal(window.sockets.length, 1);
  assert.deepEqual(closes, []);
});

test("a page in the page cache discards a pending attempt", async () => {
  const { window, socket, native } = await connectingSocket();

  window.fire("pagehide");
  native.accept();

  assert.equal(socket.status, "offline");
});

test("page events do not interrupt a close", async () => {
  const { window, socket, native } = await openSocket();
  socket.close(4000, "bye");

  window.fire("pagehide");
  window.fire("pageshow");
  native.serverClose(4000, "bye");
  await window.advance(60);

  assert.equal(window.sockets.length, 1);
  assert.equal(socket.status, "closed");
});
