/** Reconnecting: when, after which delay, and how often. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket } from "../src/index.js";
import { resolveOptions } from "../src/options.js";
import { backoffDelay } from "../src/backoff.js";
import { FakeWindow } from "./fake_browser.js";
import { openSocket, connectingSocket, collectEvents, waitingSocket, type SocketSetup } from "./socket_setup.js";

const DEFAULTS = resolveOptions({});

/** Fail attempts and return the delays between them. */
async function delays({ window, socket }: SocketSetup, count: number): Promise<number[]> {
  const states = collectEvents(socket, "state");
  for (let attempt = 0; attempt < count; attempt++) {
    window.socket.break();
    await window.advance(states.at(-1)!.detail.delay);
  }
  return states.filter(({ detail }) => detail.status === "waiting").map(({ detail }) => detail.delay);
}

test("the shortest delay is always the minimum", () => {
  assert.deepEqual([0, 1, 5, 9].map((attempt) => backoffDelay(attempt, 0, DEFAULTS)), [0.5, 0.5, 0.5, 0.5]);
});

test("the longest delay doubles up to the maximum", () => {
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5, 6, 5000].map((attempt) => backoffDelay(attempt, 1, DEFAULTS)),
    [1, 1.5, 2.5, 4.5, 8.5, 16.5, 20, 20],
  );
});

test("delays are spread evenly between their bounds", () => {
  assert.deepEqual([0, 0.25, 0.5, 0.75].map((chance) => backoffDelay(2, chance, DEFAULTS)), [0.5, 1, 1.5, 2]);
});

test("a socket reconnects after the delay, not before", async () => {
  const { window } = await waitingSocket();

  await window.advance(0.499);
  assert.equal(window.sockets.length, 1);
  await window.advance(0.001);

  assert.equal(window.sockets.length, 2);
});

test("a failed first attempt is followed by another", async () => {
  const { window, native } = await connectingSocket();

  native.break();
  await window.advance(0.5);

  assert.equal(window.sockets.length, 2);
});

test("failed attempts lengthen the delay", async () => {
  const setup = await connectingSocket();
  setup.window.chance = 1;

  assert.deepEqual(await delays(setup, 4), [1, 1.5, 2.5, 4.5]);
});

test("a delay of zero does not start an attempt in the same task", async () => {
  const { window } = await waitingSocket({ minDelay: 0 });
  assert.equal(window.sockets.length, 1);

  await window.advance(0.001);

  assert.equal(window.sockets.length, 2);
});

test("a connection that is not stable does not shorten the delay", async () => {
  const setup = await connectingSocket();
  const { window, socket } = setup;
  window.chance = 1;
  await delays(setup, 3);
  const states = collectEvents(socket, "state");

  window.socket.accept();
  await window.advance(4.9);
  window.socket.break();

  assert.equal(states.at(-1)!.detail.delay, 4.5);
});

test("a stable connection resets the delay", async () => {
  const setup = await connectingSocket();
  const { window, socket } = setup;
  window.chance = 1;
  await delays(setup, 3);
  const states = collectEvents(socket, "state");

  window.socket.accept();
  await window.advance(5);
  window.socket.break();

  assert.equal(states.at(-1)!.detail.delay, 1);
});

test("a close event has willReconnect", async () => {
  const { socket, native } = await openSocket();
  const closes = collectEvents(socket, "close");

  native.serverClose(1011);

  assert.equal(closes[0]!.willReconnect, true);
});

for (const code of [1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 3000]) {
  test(`code ${code} is followed by a new attempt`, async () => {
    const { window, native } = await openSocket();

    native.serverClose(code);
    await window.advance(1);

    assert.equal(window.sockets.length, 2);
  });
}

for (const code of [1000, 4000, 4401, 4403, 4404, 4999]) {
  test(`code ${code} is final`, async () => {
    const { window, socket, native } = await openSocket();
    const closes = collectEvents(socket, "close");

    native.serverClose(code);
    await window.advance(600);

    assert.equal(window.sockets.length, 1);
    assert.equal(socket.status, "closed");
    assert.equal(closes[0]!.willReconnect, false);
    assert.equal(window.listeners, 0);
  });
}

test("a list of codes adds codes that are followed by an attempt", async () => {
  const { window, native } = await openSocket({ retryOn: [4408, 1000] });

  native.serverClose(4408);
  await window.advance(1);
  window.socket.accept();
  window.socket.serverClose(1000);
  await window.advance(1);
  window.socket.accept();
  window.socket.serverClose(4401);
  await window.advance(60);

  assert.equal(window.sockets.length, 3);
});

test("a retryOn function decides from the close event", async () => {
  const seen: [number, string][] = [];
  const { window, native } = await openSocket({
    retryOn: ({ code, reason }) => {
      seen.push([code, reason]);
      return code === 4000;
    },
  });

  native.serverClose(4000, "again");
  await window.advance(1);
  window.socket.accept();
  window.socket.serverClose(1006, "enough");
  await window.advance(60);

  assert.deepEqual(seen, [
    [4000, "again"],
    [1006, "enough"],
  ]);
  assert.equal(window.sockets.length, 2);
});

test("a retryOn function that throws closes the socket with its error", async () => {
  const mistake = new Error("typo");
  const { socket, native } = await openSocket({
    retryOn: () => {
      throw mistake;
    },
  });
  const errors = collectEvents(socket, "error");

  native.serverClose(1011);

  assert.equal(socket.status, "closed");
  assert.equal(errors[0]!.error, mistake);
});

test("no attempt follows a close by the page", async () => {
  const { window, socket, native } = await openSocket();

  socket.close();
  native.break();
  await window.advance(600);

  assert.equal(window.sockets.length, 1);
  assert.equal(socket.status, "closed");
});

test("a socket reconnects soon after a restart, whatever failed before", async () => {
  const setup = await connectingSocket();
  const { window, socket } = setup;
  window.chance = 1;
  await delays(setup, 5);
  const states = collectEvents(socket, "state");

  window.socket.accept();
  window.socket.serverClose(1012);

  assert.equal(states.at(-1)!.detail.delay, 1);
});

test("clients of a restarting server reconnect at different moments", async () => {
  const { window, socket, native } = await openSocket();
  const states = collectEvents(socket, "state");
  window.chance = 0.5;

  native.serverClose(1012);

  assert.equal(states.at(-1)!.detail.delay, 0.75);
});

test("the socket stays closed after the last allowed attempt", async () => {
  const { window, socket, native } = await connectingSocket({ maxAttempts: 2 });
  const closes = collectEvents(socket, "close");

  native.break();
  await window.advance(1);
  window.socket.break();
  await window.advance(2);
  window.socket.break();
  await window.advance(600);

  assert.equal(window.sockets.length, 3);
  assert.deepEqual(
    closes.map((event) => event.willReconnect),
    [true, true, false],
  );
  assert.equal(socket.status, "closed");
});

test("with maxAttempts 0 the first loss is final", async () => {
  const { socket, native } = await openSocket({ maxAttempts: 0 });

  native.break();

  assert.equal(socket.status, "closed");
});

test("an attempt fails after the connect timeout", async () => {
  const { window, socket, native } = await connectingSocket();
  const errors = collectEvents(socket, "error");

  await window.advance(10);

  assert.equal(native.readyState, 2);
  assert.equal(errors[0]!.error, "no connection within 10 s");
  assert.equal(socket.status, "waiting");
});

test("a failed attempt cannot open the socket later", async () => {
  const { window, socket, native } = await connectingSocket();
  await window.advance(10);

  native.accept();

  assert.equal(socket.status, "waiting");
});

test("a url function that never resolves fails the attempt after the timeout", async () => {
  const window = new FakeWindow();
  const socket = new Socket(() => new Promise<string>(() => {}), [], { window });

  await window.advance(10);

  assert.equal(socket.status, "waiting");
});

test("without a connect timeout an attempt does not end", async () => {
  const { window, socket, native } = await connectingSocket({ connectTimeout: 0 });

  await window.advance(3600);
  native.accept();

  assert.equal(socket.status, "open");
});

test("reconnect opens a closed socket", async () => {
  const { window, socket, native } = await openSocket();
  native.serverClose(4401);

  socket.reconnect();
  await window.advance(0);
  window.socket.accept();

  assert.equal(socket.status, "open");
  assert.notEqual(window.listeners, 0);
});

test("reconnect skips the delay and resets the attempts", async () => {
  const setup = await connectingSocket();
  const { window, socket } = setup;
  window.chance = 1;
  await delays(setup, 6);
  window.socket.break();
  const states = collectEvents(socket, "state");

  socket.reconnect();
  await window.advance(0);
  assert.equal(window.sockets.length, 8);
  window.socket.break();

  assert.equal(states.at(-1)!.detail.delay, 1);
});

test("reconnect replaces an open connection, with a close event", async () => {
  const { window, socket, native } = await openSocket();
  const closes = collectEvents(socket, "close");

  socket.reconnect();
  await window.advance(0);

  assert.equal(native.readyState, 2);
  assert.equal(closes[0]!.willReconnect, true);
  assert.equal(window.sockets.length, 2);
});

test("reconnect cancels a pending close", async () => {
  const { window, socket } = await waitingSocket();
  const closes = collectEvents(socket, "close");
  socket.close();

  socket.reconnect();
  await window.advance(1);
  window.socket.accept();

  assert.deepEqual(closes, []);
  assert.equal(socket.status, "open");
});

test("every step of a lost connection is a state event", async () => {
  const { window, socket, native } = await connectingSocket();
  const states = collectEvents(socket, "state");

  native.accept();
  native.break();
  await window.advance(0.5);
  window.socket.accept();
  window.socket.serverClose(1000);

  assert.deepEqual(
    states.map(({ detail }) => detail),
    [
      { status: "open", attempt: 0, delay: 0 },
      { status: "waiting", attempt: 1, delay: 0.5 },
      { status: "connecting", attempt: 1, delay: 0 },
      { status: "open", attempt: 1, delay: 0 },
      { status: "closed", attempt: 1, delay: 0 },
    ],
  );
});

test("the status is up to date in a listener", async () => {
  const { socket, native } = await connectingSocket();
  const seen: string[] = [];
  for (const type of ["open", "error", "close"] as const) {
    socket.addEventListener(type, () => seen.push(`${type}: ${socket.status}`));
  }

  native.accept();
  native.serverClose(1011);

  assert.deepEqual(seen, ["open: open", "close: waiting"]);
});

test("close in a close listener is final", async () => {
  const { window, socket, native } = await openSocket();
  socket.addEventListener("close", () => socket.close());

  native.break();
  await window.advance(600);

  assert.equal(window.sockets.length, 1);
  assert.equal(socket.status, "closed");
});
