/** The interface that a Socket shares with WebSocket. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket } from "../src/index.js";
import { FakeWindow, settle } from "./fake_browser.js";
import { openSocket, connectingSocket, collectEvents, waitingSocket } from "./socket_setup.js";

test("a Socket is assignable to a WebSocket", async () => {
  const { socket } = await openSocket();

  const dropIn: WebSocket = socket;

  assert.equal(dropIn.readyState, dropIn.OPEN);
});

test("the constants are those of WebSocket, on the class and on the instance", async () => {
  const { socket } = await connectingSocket();

  const { CONNECTING, OPEN, CLOSING, CLOSED } = Socket;

  assert.deepEqual([CONNECTING, OPEN, CLOSING, CLOSED], [0, 1, 2, 3]);
  assert.deepEqual(
    [socket.CONNECTING, socket.OPEN, socket.CLOSING, socket.CLOSED],
    [0, 1, 2, 3],
  );
});

test("an open event is emitted when the server accepts", async () => {
  const { socket, native } = await connectingSocket();
  const seen = collectEvents(socket, "open");

  native.accept();

  assert.equal(seen.length, 1);
  assert.equal(seen[0]!.target, socket);
});

test("a message event has the data and the origin", async () => {
  const { socket, native } = await openSocket();
  const seen = collectEvents(socket, "message");

  native.receive("hello");

  assert.equal(seen[0]!.data, "hello");
  assert.equal(seen[0]!.origin, "ws://site.test");
});

test("a close event has code, reason and wasClean", async () => {
  const { socket, native } = await openSocket();
  const seen = collectEvents(socket, "close");

  native.serverClose(4401, "log in");

  const { code, reason, wasClean } = seen[0]!;
  assert.deepEqual([code, reason, wasClean], [4401, "log in", true]);
});

test("a lost connection emits error before close", async () => {
  const { socket, native } = await openSocket();
  const seen: string[] = [];
  socket.onerror = (event) => seen.push(event.type);
  socket.onclose = (event) => seen.push(event.type);

  native.break();

  assert.deepEqual(seen, ["error", "close"]);
});

test("a listener with once is called once", async () => {
  const { socket, native } = await openSocket();
  const seen: unknown[] = [];
  socket.addEventListener("message", (event) => seen.push(event.data), { once: true });

  native.receive(1);
  native.receive(2);

  assert.deepEqual(seen, [1]);
});

test("a removed listener is not called", async () => {
  const { socket, native } = await openSocket();
  const seen: unknown[] = [];
  const listener = (event: MessageEvent): unknown => seen.push(event.data);
  socket.addEventListener("message", listener);

  socket.removeEventListener("message", listener);
  native.receive(1);

  assert.deepEqual(seen, []);
});

test("an on-handler is called with the socket as this", async () => {
  const { socket, native } = await connectingSocket();
  let self: unknown;
  socket.onopen = function (this: unknown) {
    self = this;
  };

  native.accept();

  assert.equal(self, socket);
});

test("a replaced on-handler keeps its place among the listeners", async () => {
  const { socket, native } = await openSocket();
  const seen: string[] = [];
  socket.onmessage = () => seen.push("first handler");
  socket.addEventListener("message", () => seen.push("listener"));

  socket.onmessage = () => seen.push("second handler");
  native.receive("x");

  assert.deepEqual(seen, ["second handler", "listener"]);
});

test("an on-handler set to null is not called and reads as null", async () => {
  const { socket, native } = await openSocket();
  const seen: unknown[] = [];
  socket.onmessage = (event) => seen.push(event.data);

  socket.onmessage = null;
  native.receive("x");

  assert.deepEqual(seen, []);
  assert.equal(socket.onmessage, null);
});

test("an on-handler that is not a function reads as null", async () => {
  const { socket } = await openSocket();

  socket.onopen = "console.log()" as never;

  assert.equal(socket.onopen, null);
});

test("listeners are kept over connections", async () => {
  const { window, socket, native } = await openSocket();
  const seen = collectEvents(socket, "message");
  native.break();
  await window.advance(1);

  window.socket.accept();
  window.socket.receive("after");

  assert.deepEqual(
    seen.map((event) => event.data),
    ["after"],
  );
});

test("a relative url is relative to the page, with ws or wss like the page", async () => {
  const { socket, native } = await connectingSocket();

  assert.equal(native.url, "wss://site.test/ws/");
  assert.equal(socket.url, native.url);
});

test("the url is known before the first attempt", () => {
  const window = new FakeWindow();

  const socket = new Socket("chat/?room=1", [], { window });

  assert.equal(socket.url, "wss://site.test/room/chat/?room=1");
});

test("http becomes ws, and a fragment is removed", () => {
  const window = new FakeWindow();

  const socket = new Socket("http://other.test:8000/ws/#part", [], { window });

  assert.equal(socket.url, "ws://other.test:8000/ws/");
});

test("relative urls are relative to the base", () => {
  const window = new FakeWindow();

  const socket = new Socket("chat/", [], { window, base: "/ws/" });

  assert.equal(socket.url, "wss://site.test/ws/chat/");
});

test("a base may be on another host", () => {
  const window = new FakeWindow();

  const socket = new Socket("chat/", [], { window, base: "https://rt.site.test/ws/" });

  assert.equal(socket.url, "wss://rt.site.test/ws/chat/");
});

test("a url that cannot be parsed throws at once", () => {
  const window = new FakeWindow();

  assert.throws(() => new Socket("https://[", [], { window }), TypeError);
  assert.equal(window.listeners, 0);
});

test("an unknown option throws, with the known ones", () => {
  const options = { maxdelay: 3 } as object;

  assert.throws(() => new Socket("/ws/", [], options), /unknown option "maxdelay"; known: .*maxDelay/);
});

test("an undefined option has its default", async () => {
  const { window, socket, native } = await openSocket({ minDelay: undefined as never });
  const states = collectEvents(socket, "state");

  native.break();

  assert.equal(states[0]!.detail.delay, 0.5);
  assert.equal(window.timers, 1);
});

test("a url function is called for every attempt", async () => {
  const window = new FakeWindow();
  let command = 0;
  const socket = new Socket(() => `/ws/?token=${++command}`, [], { window });
  await settle();
  window.socket.accept();
  window.socket.break();

  await window.advance(1);

  assert.deepEqual(
    window.sockets.map((native) => native.url),
    ["wss://site.test/ws/?token=1", "wss://site.test/ws/?token=2"],
  );
  assert.equal(socket.url, "wss://site.test/ws/?token=2");
});

test("url and protocols functions may be async", async () => {
  const window = new FakeWindow();
  const url = async (): Promise<URL> => new URL("wss://rt.test/");
  const protocols = async (): Promise<string[]> => ["v2", "token.abc"];

  new Socket(url, protocols, { window });
  await settle();

  assert.equal(window.socket.url, "wss://rt.test/");
  assert.deepEqual(window.socket.protocols, ["v2", "token.abc"]);
});

test("a url function that rejects fails the attempt with its error", async () => {
  const window = new FakeWindow();
  const refusal = new Error("no token today");
  const socket = new Socket(() => Promise.reject(refusal), [], { window });
  const errors = collectEvents(socket, "error");
  const closes = collectEvents(socket, "close");

  await settle();

  assert.equal(errors[0]!.error, refusal);
  assert.equal(closes[0]!.reason, "Error: no token today");
  assert.equal(socket.status, "waiting");
});

test("a url function that throws fails the attempt too", async () => {
  const window = new FakeWindow();
  const socket = new Socket(
    () => {
      throw new Error("not yet");
    },
    [],
    { window },
  );

  await settle();

  assert.equal(socket.status, "waiting");
});

test("an error of the WebSocket constructor closes the socket", async () => {
  const window = new FakeWindow();
  window.WebSocket = class {
    constructor() {
      throw new DOMException("duplicate protocol", "SyntaxError");
    }
  } as never;
  const socket = new Socket("/ws/", ["a", "a"], { window });
  const closes = collectEvents(socket, "close");

  await settle();

  assert.match(closes[0]!.reason, /duplicate protocol/);
  assert.equal(socket.status, "closed");
});

test("protocol and extensions are those of the connection", async () => {
  const { socket, native } = await connectingSocket();
  native.extensions = "permessage-deflate";

  native.accept("chat");

  assert.equal(socket.protocol, "chat");
  assert.equal(socket.extensions, "permessage-deflate");
});

test("without a connection protocol and extensions are empty", async () => {
  const { socket } = await waitingSocket();

  assert.equal(socket.protocol, "");
  assert.equal(socket.extensions, "");
});

test("binaryType applies to the present and to later connections", async () => {
  const { window, socket, native } = await openSocket();

  socket.binaryType = "arraybuffer";
  native.break();
  await window.advance(1);

  assert.equal(native.binaryType, "arraybuffer");
  assert.equal(window.socket.binaryType, "arraybuffer");
  assert.equal(socket.binaryType, "arraybuffer");
});

test("readyState is connecting until open, and again while waiting", async () => {
  const { socket, native } = await connectingSocket();
  const seen: number[] = [socket.readyState];

  native.accept();
  seen.push(socket.readyState);
  native.break();
  seen.push(socket.readyState);

  assert.deepEqual(seen, [0, 1, 0]);
});

test("close sends code and reason, and is closing until the close event", async () => {
  const { socket, native } = await openSocket();

  socket.close(4000, "logged out");

  assert.deepEqual(native.closedWith, [4000, "logged out"]);
  assert.equal(socket.readyState, 2);
  native.serverClose(4000, "logged out");
  assert.equal(socket.readyState, 3);
});

test("a close code that pages may not send throws, and the socket stays open", async () => {
  const { socket } = await openSocket();

  assert.throws(() => socket.close(1001, "leaving"), { name: "InvalidAccessError" });
  assert.equal(socket.readyState, 1);
});

test("a close reason that is too long throws, and the socket stays open", async () => {
  const { socket } = await openSocket();

  assert.throws(() => socket.close(1000, "x".repeat(124)), { name: "SyntaxError" });
  assert.equal(socket.readyState, 1);
});

test("close may be called twice", async () => {
  const { window, socket, native } = await openSocket();
  const closes = collectEvents(socket, "close");

  socket.close();
  socket.close(4000);
  native.serverClose(1005);
  socket.close();
  await window.advance(1);

  assert.deepEqual(native.closedWith, [undefined, undefined]);
  assert.equal(closes.length, 1);
});

test("close while waiting emits its close event later, with the given code", async () => {
  const { window, socket } = await waitingSocket();
  const closes = collectEvents(socket, "close");

  socket.close(4000, "never mind");
  assert.equal(closes.length, 0);
  await window.advance(0.01);

  const { code, reason, wasClean, willReconnect } = closes[0]!;
  assert.deepEqual([code, reason, wasClean, willReconnect], [4000, "never mind", true, false]);
  assert.equal(socket.status, "closed");
});

test("close before the url function has resolved makes no connection", async () => {
  const window = new FakeWindow();
  let answer = (_url: string): void => {};
  const socket = new Socket(() => new Promise<string>((resolve) => (answer = resolve)), [], {
    window,
  });

  socket.close();
  answer("/ws/");
  await window.advance(60);

  assert.equal(window.sockets.length, 0);
  assert.equal(socket.readyState, 3);
});

test("a closed socket leaves no timer and no page listener", async () => {
  const { window, socket, native } = await openSocket({ heartbeat: 25 });
  assert.notEqual(window.listeners, 0);

  socket.close();
  native.serverClose(1005);

  assert.equal(window.listeners, 0);
  assert.equal(window.timers, 0);
});

test("a socket works without page events", async () => {
  const window = new FakeWindow();
  const { WebSocket, Math, performance } = window;
  const bare = {
    WebSocket,
    Math,
    performance,
    setTimeout: window.setTimeout.bind(window),
    clearTimeout: window.clearTimeout.bind(window),
  };

  const socket = new Socket("ws://site.test/ws/", [], { window: bare as never });
  await settle();
  window.socket.accept();

  assert.equal(socket.status, "open");
});
