/** The socket as a drop-in: what every program that knows WebSocket relies on. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket } from "../src/index.js";
import { FakeWindow, settle } from "./fakes.js";
import { connected, dialling, diary, waiting } from "./world.js";

test("a socket fits where a WebSocket is asked for", async () => {
  const { socket } = await connected();

  const dropIn: WebSocket = socket;

  assert.equal(dropIn.readyState, dropIn.OPEN);
});

test("the constants are those of WebSocket, on the class and on the instance", async () => {
  const { socket } = await dialling();

  const { CONNECTING, OPEN, CLOSING, CLOSED } = Socket;

  assert.deepEqual([CONNECTING, OPEN, CLOSING, CLOSED], [0, 1, 2, 3]);
  assert.deepEqual(
    [socket.CONNECTING, socket.OPEN, socket.CLOSING, socket.CLOSED],
    [0, 1, 2, 3],
  );
});

test("an open event follows the server's acceptance", async () => {
  const { socket, native } = await dialling();
  const seen = diary(socket, "open");

  native.accept();

  assert.equal(seen.length, 1);
  assert.equal(seen[0]!.target, socket);
});

test("a message event carries the data and the origin", async () => {
  const { socket, native } = await connected();
  const seen = diary(socket, "message");

  native.receive("hello");

  assert.equal(seen[0]!.data, "hello");
  assert.equal(seen[0]!.origin, "ws://site.test");
});

test("a close event carries code, reason and cleanness", async () => {
  const { socket, native } = await connected();
  const seen = diary(socket, "close");

  native.hangUp(4401, "log in");

  const { code, reason, wasClean } = seen[0]!;
  assert.deepEqual([code, reason, wasClean], [4401, "log in", true]);
});

test("a connection that breaks tells its error before its close", async () => {
  const { socket, native } = await connected();
  const seen: string[] = [];
  socket.onerror = (event) => seen.push(event.type);
  socket.onclose = (event) => seen.push(event.type);

  native.break();

  assert.deepEqual(seen, ["error", "close"]);
});

test("a listener added once hears once", async () => {
  const { socket, native } = await connected();
  const seen: unknown[] = [];
  socket.addEventListener("message", (event) => seen.push(event.data), { once: true });

  native.receive(1);
  native.receive(2);

  assert.deepEqual(seen, [1]);
});

test("a removed listener hears nothing", async () => {
  const { socket, native } = await connected();
  const seen: unknown[] = [];
  const listener = (event: MessageEvent): unknown => seen.push(event.data);
  socket.addEventListener("message", listener);

  socket.removeEventListener("message", listener);
  native.receive(1);

  assert.deepEqual(seen, []);
});

test("an on-handler is called with the socket as this", async () => {
  const { socket, native } = await dialling();
  let self: unknown;
  socket.onopen = function (this: unknown) {
    self = this;
  };

  native.accept();

  assert.equal(self, socket);
});

test("an on-handler replaced keeps its place among the listeners", async () => {
  const { socket, native } = await connected();
  const seen: string[] = [];
  socket.onmessage = () => seen.push("first handler");
  socket.addEventListener("message", () => seen.push("listener"));

  socket.onmessage = () => seen.push("second handler");
  native.receive("x");

  assert.deepEqual(seen, ["second handler", "listener"]);
});

test("an on-handler set to null hears nothing and reads as null", async () => {
  const { socket, native } = await connected();
  const seen: unknown[] = [];
  socket.onmessage = (event) => seen.push(event.data);

  socket.onmessage = null;
  native.receive("x");

  assert.deepEqual(seen, []);
  assert.equal(socket.onmessage, null);
});

test("an on-handler that is no function reads as null", async () => {
  const { socket } = await connected();

  socket.onopen = "console.log()" as never;

  assert.equal(socket.onopen, null);
});

test("listeners outlive the connection they were added to", async () => {
  const { window, socket, native } = await connected();
  const seen = diary(socket, "message");
  native.break();
  await window.advance(1);

  window.socket.accept();
  window.socket.receive("after");

  assert.deepEqual(
    seen.map((event) => event.data),
    ["after"],
  );
});

test("a relative url is one of the page, as ws or wss like the page", async () => {
  const { socket, native } = await dialling();

  assert.equal(native.url, "wss://site.test/ws/");
  assert.equal(socket.url, native.url);
});

test("the url is known before the first attempt", () => {
  const window = new FakeWindow();

  const socket = new Socket("chat/?room=1", [], { window });

  assert.equal(socket.url, "wss://site.test/room/chat/?room=1");
});

test("http becomes ws, and a fragment is cut off", () => {
  const window = new FakeWindow();

  const socket = new Socket("http://other.test:8000/ws/#part", [], { window });

  assert.equal(socket.url, "ws://other.test:8000/ws/");
});

test("a base is what relative urls are relative to", () => {
  const window = new FakeWindow();

  const socket = new Socket("chat/", [], { window, base: "/ws/" });

  assert.equal(socket.url, "wss://site.test/ws/chat/");
});

test("a base may name another host", () => {
  const window = new FakeWindow();

  const socket = new Socket("chat/", [], { window, base: "https://rt.site.test/ws/" });

  assert.equal(socket.url, "wss://rt.site.test/ws/chat/");
});

test("a url that cannot be parsed is refused at once", () => {
  const window = new FakeWindow();

  assert.throws(() => new Socket("https://[", [], { window }), TypeError);
  assert.equal(window.listeners, 0);
});

test("an unknown option is refused with the known ones", () => {
  const options = { maxdelay: 3 } as object;

  assert.throws(() => new Socket("/ws/", [], options), /unknown option "maxdelay"; known: .*maxDelay/);
});

test("an option that is undefined leaves the default in force", async () => {
  const { window, socket, native } = await connected({ minDelay: undefined as never });
  const states = diary(socket, "state");

  native.break();

  assert.equal(states[0]!.detail.delay, 0.5);
  assert.equal(window.timers, 1);
});

test("a url function is asked afresh for every attempt", async () => {
  const window = new FakeWindow();
  let asked = 0;
  const socket = new Socket(() => `/ws/?token=${++asked}`, [], { window });
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

test("url and protocols may be promised", async () => {
  const window = new FakeWindow();
  const url = async (): Promise<URL> => new URL("wss://rt.test/");
  const protocols = async (): Promise<string[]> => ["v2", "token.abc"];

  new Socket(url, protocols, { window });
  await settle();

  assert.equal(window.socket.url, "wss://rt.test/");
  assert.deepEqual(window.socket.protocols, ["v2", "token.abc"]);
});

test("a url function that fails is a failed attempt with its error", async () => {
  const window = new FakeWindow();
  const refusal = new Error("no token today");
  const socket = new Socket(() => Promise.reject(refusal), [], { window });
  const errors = diary(socket, "error");
  const closes = diary(socket, "close");

  await settle();

  assert.equal(errors[0]!.error, refusal);
  assert.equal(closes[0]!.reason, "Error: no token today");
  assert.equal(socket.status, "waiting");
});

test("a url function that throws at once is a failed attempt too", async () => {
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

test("what the WebSocket constructor refuses closes the socket for good", async () => {
  const window = new FakeWindow();
  window.WebSocket = class {
    constructor() {
      throw new DOMException("duplicate protocol", "SyntaxError");
    }
  } as never;
  const socket = new Socket("/ws/", ["a", "a"], { window });
  const closes = diary(socket, "close");

  await settle();

  assert.match(closes[0]!.reason, /duplicate protocol/);
  assert.equal(socket.status, "closed");
});

test("protocol and extensions are those of the connection", async () => {
  const { socket, native } = await dialling();
  native.extensions = "permessage-deflate";

  native.accept("chat");

  assert.equal(socket.protocol, "chat");
  assert.equal(socket.extensions, "permessage-deflate");
});

test("without a connection protocol and extensions are empty", async () => {
  const { socket } = await waiting();

  assert.equal(socket.protocol, "");
  assert.equal(socket.extensions, "");
});

test("binaryType holds for the present and for later connections", async () => {
  const { window, socket, native } = await connected();

  socket.binaryType = "arraybuffer";
  native.break();
  await window.advance(1);

  assert.equal(native.binaryType, "arraybuffer");
  assert.equal(window.socket.binaryType, "arraybuffer");
  assert.equal(socket.binaryType, "arraybuffer");
});

test("readyState is connecting until open, and again while waiting", async () => {
  const { socket, native } = await dialling();
  const seen: number[] = [socket.readyState];

  native.accept();
  seen.push(socket.readyState);
  native.break();
  seen.push(socket.readyState);

  assert.deepEqual(seen, [0, 1, 0]);
});

test("close passes code and reason on and is closing until answered", async () => {
  const { socket, native } = await connected();

  socket.close(4000, "logged out");

  assert.deepEqual(native.closedWith, [4000, "logged out"]);
  assert.equal(socket.readyState, 2);
  native.hangUp(4000, "logged out");
  assert.equal(socket.readyState, 3);
});

test("a code that pages may not send is refused, and the socket stays open", async () => {
  const { socket } = await connected();

  assert.throws(() => socket.close(1001, "leaving"), { name: "InvalidAccessError" });
  assert.equal(socket.readyState, 1);
});

test("a reason that is too long is refused, and the socket stays open", async () => {
  const { socket } = await connected();

  assert.throws(() => socket.close(1000, "x".repeat(124)), { name: "SyntaxError" });
  assert.equal(socket.readyState, 1);
});

test("close may be called twice", async () => {
  const { window, socket, native } = await connected();
  const closes = diary(socket, "close");

  socket.close();
  socket.close(4000);
  native.hangUp(1005);
  socket.close();
  await window.advance(1);

  assert.deepEqual(native.closedWith, [undefined, undefined]);
  assert.equal(closes.length, 1);
});

test("close while waiting tells its close event afterwards, with the code given", async () => {
  const { window, socket } = await waiting();
  const closes = diary(socket, "close");

  socket.close(4000, "never mind");
  assert.equal(closes.length, 0);
  await window.advance(0.01);

  const { code, reason, wasClean, willReconnect } = closes[0]!;
  assert.deepEqual([code, reason, wasClean, willReconnect], [4000, "never mind", true, false]);
  assert.equal(socket.status, "closed");
});

test("close before the url function has answered makes no connection", async () => {
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
  const { window, socket, native } = await connected({ heartbeat: 25 });
  assert.notEqual(window.listeners, 0);

  socket.close();
  native.hangUp(1005);

  assert.equal(window.listeners, 0);
  assert.equal(window.timers, 0);
});

test("a socket does without page events where there is no page", async () => {
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
