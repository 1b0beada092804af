/** Coming back: when, after how long, how often, and when not. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Socket } from "../src/index.js";
import { resolveOptions } from "../src/options.js";
import { backoffDelay } from "../src/backoff.js";
import { FakeWindow } from "./fakes.js";
import { connected, dialling, diary, waiting, type World } from "./world.js";

const DEFAULTS = resolveOptions({});

/** Fail every attempt and collect the pauses. */
async function pauses({ window, socket }: World, count: number): Promise<number[]> {
  const states = diary(socket, "state");
  for (let attempt = 0; attempt < count; attempt++) {
    window.socket.break();
    await window.advance(states.at(-1)!.detail.delay);
  }
  return states.filter(({ detail }) => detail.status === "waiting").map(({ detail }) => detail.delay);
}

test("the shortest pauses are all the minimum", () => {
  assert.deepEqual([0, 1, 5, 9].map((attempt) => backoffDelay(attempt, 0, DEFAULTS)), [0.5, 0.5, 0.5, 0.5]);
});

test("the longest pauses double up to the maximum", () => {
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5, 6, 5000].map((attempt) => backoffDelay(attempt, 1, DEFAULTS)),
    [1, 1.5, 2.5, 4.5, 8.5, 16.5, 20, 20],
  );
});

test("a pause is spread evenly between its bounds", () => {
  assert.deepEqual([0, 0.25, 0.5, 0.75].map((chance) => backoffDelay(2, chance, DEFAULTS)), [0.5, 1, 1.5, 2]);
});

test("a lost connection is dialled again after the pause, not before", async () => {
  const { window } = await waiting();

  await window.advance(0.499);
  assert.equal(window.sockets.length, 1);
  await window.advance(0.001);

  assert.equal(window.sockets.length, 2);
});

test("a connection that never opened is dialled again too", async () => {
  const { window, native } = await dialling();

  native.break();
  await window.advance(0.5);

  assert.equal(window.sockets.length, 2);
});

test("failed attempts lengthen the pauses", async () => {
  const world = await dialling();
  world.window.chance = 1;

  assert.deepEqual(await pauses(world, 4), [1, 1.5, 2.5, 4.5]);
});

test("a pause without any length still lets the page breathe", async () => {
  const { window } = await waiting({ minDelay: 0 });
  assert.equal(window.sockets.length, 1);

  await window.advance(0.001);

  assert.equal(window.sockets.length, 2);
});

test("a connection that breaks at once does not shorten the pauses", async () => {
  const world = await dialling();
  const { window, socket } = world;
  window.chance = 1;
  await pauses(world, 3);
  const states = diary(socket, "state");

  window.socket.accept();
  await window.advance(4.9);
  window.socket.break();

  assert.equal(states.at(-1)!.detail.delay, 4.5);
});

test("a connection that lasted lets the pauses start small again", async () => {
  const world = await dialling();
  const { window, socket } = world;
  window.chance = 1;
  await pauses(world, 3);
  const states = diary(socket, "state");

  window.socket.accept();
  await window.advance(5);
  window.socket.break();

  assert.equal(states.at(-1)!.detail.delay, 1);
});

test("a close event says that the socket comes back", async () => {
  const { socket, native } = await connected();
  const closes = diary(socket, "close");

  native.hangUp(1011);

  assert.equal(closes[0]!.willReconnect, true);
});

for (const code of [1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 3000]) {
  test(`code ${code} is followed by a new attempt`, async () => {
    const { window, native } = await connected();

    native.hangUp(code);
    await window.advance(1);

    assert.equal(window.sockets.length, 2);
  });
}

for (const code of [1000, 4000, 4401, 4403, 4404, 4999]) {
  test(`code ${code} is final`, async () => {
    const { window, socket, native } = await connected();
    const closes = diary(socket, "close");

    native.hangUp(code);
    await window.advance(600);

    assert.equal(window.sockets.length, 1);
    assert.equal(socket.status, "closed");
    assert.equal(closes[0]!.willReconnect, false);
    assert.equal(window.listeners, 0);
  });
}

test("a list of codes adds to those that are followed by an attempt", async () => {
  const { window, native } = await connected({ retryOn: [4408, 1000] });

  native.hangUp(4408);
  await window.advance(1);
  window.socket.accept();
  window.socket.hangUp(1000);
  await window.advance(1);
  window.socket.accept();
  window.socket.hangUp(4401);
  await window.advance(60);

  assert.equal(window.sockets.length, 3);
});

test("a function decides alone, with the close event in hand", async () => {
  const seen: [number, string][] = [];
  const { window, native } = await connected({
    retryOn: ({ code, reason }) => {
      seen.push([code, reason]);
      return code === 4000;
    },
  });

  native.hangUp(4000, "again");
  await window.advance(1);
  window.socket.accept();
  window.socket.hangUp(1006, "enough");
  await window.advance(60);

  assert.deepEqual(seen, [
    [4000, "again"],
    [1006, "enough"],
  ]);
  assert.equal(window.sockets.length, 2);
});

test("a deciding function that throws closes the socket and shows its error", async () => {
  const mistake = new Error("typo");
  const { socket, native } = await connected({
    retryOn: () => {
      throw mistake;
    },
  });
  const errors = diary(socket, "error");

  native.hangUp(1011);

  assert.equal(socket.status, "closed");
  assert.equal(errors[0]!.error, mistake);
});

test("no attempt follows a close that the page asked for", async () => {
  const { window, socket, native } = await connected();

  socket.close();
  native.break();
  await window.advance(600);

  assert.equal(window.sockets.length, 1);
  assert.equal(socket.status, "closed");
});

test("a restarting server is called again soon, however many attempts failed", async () => {
  const world = await dialling();
  const { window, socket } = world;
  window.chance = 1;
  await pauses(world, 5);
  const states = diary(socket, "state");

  window.socket.accept();
  window.socket.hangUp(1012);

  assert.equal(states.at(-1)!.detail.delay, 1);
});

test("clients of a restarting server do not all return at the same moment", async () => {
  const { window, socket, native } = await connected();
  const states = diary(socket, "state");
  window.chance = 0.5;

  native.hangUp(1012);

  assert.equal(states.at(-1)!.detail.delay, 0.75);
});

test("after the last allowed attempt the socket closes for good", async () => {
  const { window, socket, native } = await dialling({ maxAttempts: 2 });
  const closes = diary(socket, "close");

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

test("with no attempt allowed the first loss is final", async () => {
  const { socket, native } = await connected({ maxAttempts: 0 });

  native.break();

  assert.equal(socket.status, "closed");
});

test("an attempt that gets no answer is given up at its deadline", async () => {
  const { window, socket, native } = await dialling();
  const errors = diary(socket, "error");

  await window.advance(10);

  assert.equal(native.readyState, 2);
  assert.equal(errors[0]!.error, "no connection within 10 s");
  assert.equal(socket.status, "waiting");
});

test("an attempt given up cannot open the socket later", async () => {
  const { window, socket, native } = await dialling();
  await window.advance(10);

  native.accept();

  assert.equal(socket.status, "waiting");
});

test("a url function that never answers is given up at the deadline", async () => {
  const window = new FakeWindow();
  const socket = new Socket(() => new Promise<string>(() => {}), [], { window });

  await window.advance(10);

  assert.equal(socket.status, "waiting");
});

test("without a connect deadline an attempt may take its time", async () => {
  const { window, socket, native } = await dialling({ connectTimeout: 0 });

  await window.advance(3600);
  native.accept();

  assert.equal(socket.status, "open");
});

test("reconnect opens a socket that had closed for good", async () => {
  const { window, socket, native } = await connected();
  native.hangUp(4401);

  socket.reconnect();
  await window.advance(0);
  window.socket.accept();

  assert.equal(socket.status, "open");
  assert.notEqual(window.listeners, 0);
});

test("reconnect skips the pause and forgets failed attempts", async () => {
  const world = await dialling();
  const { window, socket } = world;
  window.chance = 1;
  await pauses(world, 6);
  window.socket.break();
  const states = diary(socket, "state");

  socket.reconnect();
  await window.advance(0);
  assert.equal(window.sockets.length, 8);
  window.socket.break();

  assert.equal(states.at(-1)!.detail.delay, 1);
});

test("reconnect replaces an open connection and says so", async () => {
  const { window, socket, native } = await connected();
  const closes = diary(socket, "close");

  socket.reconnect();
  await window.advance(0);

  assert.equal(native.readyState, 2);
  assert.equal(closes[0]!.willReconnect, true);
  assert.equal(window.sockets.length, 2);
});

test("reconnect takes back a close that was not carried out yet", async () => {
  const { window, socket } = await waiting();
  const closes = diary(socket, "close");
  socket.close();

  socket.reconnect();
  await window.advance(1);
  window.socket.accept();

  assert.deepEqual(closes, []);
  assert.equal(socket.status, "open");
});

test("the status tells the whole story of a lost connection", async () => {
  const { window, socket, native } = await dialling();
  const states = diary(socket, "state");

  native.accept();
  native.break();
  await window.advance(0.5);
  window.socket.accept();
  window.socket.hangUp(1000);

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

test("a listener sees the status that its event is about", async () => {
  const { socket, native } = await dialling();
  const seen: string[] = [];
  for (const type of ["open", "error", "close"] as const) {
    socket.addEventListener(type, () => seen.push(`${type}: ${socket.status}`));
  }

  native.accept();
  native.hangUp(1011);

  assert.deepEqual(seen, ["open: open", "close: waiting"]);
});

test("a socket closed by its own close listener stays closed", async () => {
  const { window, socket, native } = await connected();
  socket.addEventListener("close", () => socket.close());

  native.break();
  await window.advance(600);

  assert.equal(window.sockets.length, 1);
  assert.equal(socket.status, "closed");
});
