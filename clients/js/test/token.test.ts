/** Tokens: fetched when needed, renewed in time, given up when they are refused for good. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { UnauthorizedError } from "../src/index.js";
import { settle } from "./fakes.js";
import { calling, comeBack, log, online, Peer, STREAM, welcome } from "./peer.js";

/** Tokens with numbers, and how many were asked for. */
function mint(): { getToken: () => string; count: () => number } {
  let count = 0;
  return { getToken: () => `t${++count}`, count: () => count };
}

async function greeting(window: Parameters<typeof welcome>[0]) {
  const peer = new Peer(window.socket);
  window.socket.accept();
  return { peer, connect: await peer.command("connect") };
}

test("a token is fetched before the first attempt and sent with connect", async () => {
  const { getToken, count } = mint();
  const { window } = await calling({ getToken });

  assert.equal(count(), 1);
  assert.equal((await greeting(window)).connect.body.token, "t1");
});

test("a token that the page has is used first", async () => {
  const { getToken, count } = mint();
  const { window } = await calling({ token: "t0", getToken });

  assert.equal((await greeting(window)).connect.body.token, "t0");
  assert.equal(count(), 0);
});

test("a token is kept over connections", async () => {
  const { getToken, count } = mint();
  const { window } = await online({ getToken });

  window.socket.break();
  await window.advance(2);

  assert.equal((await greeting(window)).connect.body.token, "t1");
  assert.equal(count(), 1);
});

test("a token that cannot be fetched is an error and another attempt", async () => {
  let calls = 0;
  const getToken = async (): Promise<string> => {
    if (++calls === 1) throw new Error("502");
    return "t";
  };
  const { window, client } = await calling({ getToken });
  const errors = log(client, "error");
  assert.equal(window.sockets.length, 0);

  await window.advance(0.5);

  assert.equal(client.state, "connecting");
  assert.equal((await greeting(window)).connect.body.token, "t");
  assert.deepEqual(errors, []);
});

for (const [name, getToken] of [
  ["throws UnauthorizedError", () => Promise.reject(new UnauthorizedError("who?"))],
  ["throws it at once", () => { throw new UnauthorizedError(); }],
  ["gives nothing", () => ""],
] as [string, () => Promise<string>][]) {
  test(`a getToken that ${name} ends the client`, async () => {
    const { window, client } = await calling({ getToken });

    await window.advance(600);

    assert.equal(client.state, "disconnected");
    assert.equal(window.sockets.length, 0);
    assert.equal(window.timers, 0);
  });
}

test("a client that may not is told so with code 1", async () => {
  const getToken = (): Promise<string> => Promise.reject(new UnauthorizedError("who?"));
  const { window, client } = await online({ token: "t", getToken });
  const seen = log(client, "disconnected");

  window.socket.hangUp(3005, "connection expired");
  await window.advance(2);

  assert.deepEqual(seen, [["disconnected", { code: 1, reason: "unauthorized" }]]);
});

for (const code of [109, 110]) {
  test(`a connect refused with ${code} fetches a new token`, async () => {
    const { getToken } = mint();
    const { window, client } = await calling({ getToken });
    const { peer, connect } = await greeting(window);

    peer.refuse(connect, code, "token expired");
    await window.advance(2);

    assert.equal((await greeting(window)).connect.body.token, "t2");
    assert.equal(client.state, "connecting");
  });

  test(`a connect refused with ${code} is final where no token can be fetched`, async () => {
    const { window, client } = await calling({ token: "old" });
    const { peer, connect } = await greeting(window);
    const seen = log(client, "disconnected");

    peer.refuse(connect, code, "token expired");

    assert.deepEqual(seen, [["disconnected", { code, reason: "token expired" }]]);
  });
}

for (const code of [3005, 3014]) {
  test(`after a close with ${code} a new token is fetched`, async () => {
    const { getToken } = mint();
    const { window } = await online({ getToken });

    window.socket.hangUp(code);
    await window.advance(2);

    assert.equal((await greeting(window)).connect.body.token, "t2");
  });
}

test("after another close no new token is fetched", async () => {
  const { getToken, count } = mint();
  const { window } = await online({ getToken });

  window.socket.hangUp(3004);
  await window.advance(2);

  assert.equal(count(), 1);
});

test("a token is renewed before it expires", async () => {
  const { getToken } = mint();
  const { window, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });

  await window.advance(89.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  const refresh = await peer.command("refresh");
  peer.answer(refresh, { expires: true, ttl: 50 });
  await window.advance(45);

  assert.deepEqual(refresh.body, { token: "t2" });
  assert.deepEqual((await peer.command("refresh")).body, { token: "t3" });
});

test("a token that does not expire is not renewed", async () => {
  const { getToken } = mint();
  const { window, peer } = await online({ getToken }, { ping: 0, ttl: 0 });

  await window.advance(3600);

  assert.deepEqual(await peer.commands(), []);
  assert.equal(window.timers, 0);
});

test("a token of many years is not renewed at once", async () => {
  const { getToken } = mint();
  const { window, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 1e8 });

  await window.advance(1e6);

  assert.deepEqual(await peer.commands(), []);
});

test("a refresh push says anew how long the token holds", async () => {
  const { getToken } = mint();
  const { window, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });

  peer.say({ push: { refresh: { expires: true, ttl: 1000 } } });
  await window.advance(899);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(1);

  await peer.command("refresh");
});

test("a renewal that fails for now is tried again", async () => {
  const { getToken } = mint();
  const { window, client, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });
  const errors = log(client, "error");
  await window.advance(90);

  peer.refuse(await peer.command("refresh"), 100, "internal", true);
  await window.advance(0.5);

  assert.equal((await peer.command("refresh")).body.token, "t3");
  assert.equal(errors.length, 1);
  assert.equal(client.state, "connected");
});

test("a renewal for which no token could be fetched is tried again", async () => {
  let calls = 0;
  const getToken = async (): Promise<string> => {
    if (++calls === 2) throw new Error("502");
    return `t${calls}`;
  };
  const { window, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });

  await window.advance(90.5);

  assert.equal((await peer.command("refresh")).body.token, "t3");
});

test("a renewal that is refused for good ends the client", async () => {
  const { getToken } = mint();
  const { window, client, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });
  const seen = log(client, "disconnected");
  await window.advance(90);

  peer.refuse(await peer.command("refresh"), 103, "permission denied");

  assert.deepEqual(seen, [["disconnected", { code: 103, reason: "permission denied" }]]);
});

test("a renewal refused as expired is tried with another token", async () => {
  const { getToken } = mint();
  const { window, client, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });
  await window.advance(90);

  peer.refuse(await peer.command("refresh"), 109, "token expired");
  await window.advance(0.5);

  assert.equal((await peer.command("refresh")).body.token, "t3");
  assert.equal(client.state, "connected");
});

test("a token fetched for a connection that was lost is not sent on the next", async () => {
  let reply: (token: string) => void = () => undefined;
  const getToken = (): Promise<string> => new Promise((done) => (reply = done));
  const { window } = await online({ token: "t0", getToken }, { ping: 0, expires: true, ttl: 100 });
  await window.advance(90);
  const next = await comeBack(window, { ping: 0 });

  reply("late");
  await settle();

  assert.deepEqual(await next.commands(), []);
});

test("a token that could not be fetched for a connection that was lost is no error", async () => {
  let fail: (error: Error) => void = () => undefined;
  const getToken = (): Promise<string> => new Promise((_, reject) => (fail = reject));
  const { window, client } = await online({ token: "t0", getToken }, { ping: 0, expires: true, ttl: 100 });
  await window.advance(90);
  await comeBack(window, { ping: 0 });
  const errors = log(client, "error");

  fail(new Error("502"));
  await settle();

  assert.deepEqual(errors, []);
});

test("a refresh push may say that nothing expires any more", async () => {
  const { getToken, count } = mint();
  const { window, peer } = await online({ getToken }, { ping: 0, expires: true, ttl: 100 });

  peer.say({ push: { refresh: { expires: false } } });
  await window.advance(1000);

  assert.equal(count(), 1);
});

test("pauses between renewals that fail grow, and start small after one that did not", async () => {
  const { getToken } = mint();
  const { window, peer } = await online(
    { getToken, minDelay: 1, maxDelay: 8 },
    { ping: 0, expires: true, ttl: 100 },
  );
  window.chance = 1;
  const refuse = async (pause: number): Promise<void> => {
    peer.refuse(await peer.command("refresh"), 100, "internal", true);
    await window.advance(pause - 0.1);
    assert.deepEqual(await peer.commands(), []);
    await window.advance(0.1);
  };
  await window.advance(90);
  for (const pause of [2, 3, 5]) await refuse(pause);
  peer.answer(await peer.command("refresh"), { expires: true, ttl: 10 });
  await window.advance(9);

  await refuse(2);

  await peer.command("refresh");
});

// Tokens of topics

test("a topic's token is fetched for it and sent with its subscription", async () => {
  const { client, peer } = await online();
  const calls: unknown[] = [];

  client.subscribe("room", {
    getToken: async (context) => {
      calls.push(context);
      return "r1";
    },
  });

  assert.equal((await peer.command("subscribe")).body.token, "r1");
  assert.deepEqual(calls, [{ topic: "room" }]);
});

test("a topic whose user may not is ended with code 1", async () => {
  const { window, client, peer } = await online({}, { ping: 0 });
  const room = client.subscribe("room", {
    getToken: () => Promise.reject(new UnauthorizedError("no")),
  });
  const seen = log(room, "unsubscribed");

  await window.advance(600);

  assert.deepEqual(seen, [["unsubscribed", { code: 1, reason: "unauthorized" }]]);
  assert.equal(client.state, "connected");
  assert.deepEqual(await peer.commands(), []);
});

test("a topic's token that cannot be fetched is an error and another attempt", async () => {
  let calls = 0;
  const { window, client, peer } = await online();
  const room = client.subscribe("room", {
    getToken: async () => {
      if (++calls === 1) throw new Error("502");
      return "r2";
    },
  });
  const errors = log(room, "error");
  await settle();
  assert.equal(errors.length, 1);

  await window.advance(0.5);

  assert.equal((await peer.command("subscribe")).body.token, "r2");
});

test("a subscription refused with 109 fetches a new token", async () => {
  const { getToken } = mint();
  const { window, client, peer } = await online();
  client.subscribe("room", { getToken });

  peer.refuse(await peer.command("subscribe"), 109, "token expired");
  await window.advance(0.5);

  assert.equal((await peer.command("subscribe")).body.token, "t2");
});

test("a subscription refused with 109 is final where no token can be fetched", async () => {
  const { client, peer } = await online();
  const room = client.subscribe("room", { token: "old" });

  peer.refuse(await peer.command("subscribe"), 109, "token expired");

  assert.equal(room.state, "unsubscribed");
});

test("a topic's token is renewed before it expires", async () => {
  const { getToken } = mint();
  const { window, client, peer } = await online({}, { ping: 0 });
  client.subscribe("room", { getToken });
  peer.answer(await peer.command("subscribe"), { expires: true, ttl: 10 });

  await window.advance(9);
  const refresh = await peer.command("sub_refresh");
  peer.answer(refresh, { expires: true, ttl: 20 });
  await window.advance(18);

  assert.deepEqual(refresh.body, { channel: "room", token: "t2" });
  await peer.command("sub_refresh");
});

test("a topic's renewal that is refused for good ends the topic alone", async () => {
  const { getToken } = mint();
  const { window, client, peer } = await online({}, { ping: 0 });
  const room = client.subscribe("room", { getToken });
  peer.answer(await peer.command("subscribe"), { expires: true, ttl: 10 });
  await window.advance(9);

  peer.refuse(await peer.command("sub_refresh"), 103, "no more");

  assert.equal(room.state, "unsubscribed");
  assert.equal(client.state, "connected");
});

for (const code of [2501, 2502]) {
  test(`an unsubscribe push with ${code} fetches a new token`, async () => {
    const { getToken } = mint();
    const { window, client, peer } = await online({}, { ping: 0 });
    client.subscribe("room", { getToken });
    peer.answer(await peer.command("subscribe"), { ...STREAM, offset: 3 });

    peer.push("room", { unsubscribe: { code, reason: "" } });
    await window.advance(0.5);

    assert.equal((await peer.command("subscribe")).body.token, "t2");
  });
}

test("a topic that was left while its token was fetched is not subscribed", async () => {
  let reply: (token: string) => void = () => undefined;
  const { client, peer } = await online();
  const room = client.subscribe("room", { getToken: () => new Promise((done) => (reply = done)) });
  await settle();
  room.unsubscribe();

  reply("late");

  assert.deepEqual(
    (await peer.commands()).map(({ method }) => method),
    ["unsubscribe"],
  );
});
