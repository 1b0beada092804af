/** Tokens: fetched when needed, refreshed in time, and final errors. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { UnauthorizedError } from "../src/index.js";
import { settle, type FakeWindow } from "./fake_browser.js";
import { connectingClient, reconnectClient, logEvents, connectedClient, Peer, STREAM, acceptClient } from "./client_setup.js";

/** A getToken that returns t1, t2, …, and the number of its calls. */
function numberedTokens(): { getToken: () => string; count: () => number } {
  let count = 0;
  return { getToken: () => `t${++count}`, count: () => count };
}

async function readConnect(window: FakeWindow) {
  const peer = new Peer(window.socket);
  window.socket.accept();
  return { peer, connect: await peer.command("connect") };
}

test("a token is fetched before the first attempt and sent with connect", async () => {
  const { getToken, count } = numberedTokens();
  const { window } = await connectingClient({ getToken });

  assert.equal(count(), 1);
  assert.equal((await readConnect(window)).connect.body.token, "t1");
});

test("a given token is used first", async () => {
  const { getToken, count } = numberedTokens();
  const { window } = await connectingClient({ token: "t0", getToken });

  assert.equal((await readConnect(window)).connect.body.token, "t0");
  assert.equal(count(), 0);
});

test("a token is kept over connections", async () => {
  const { getToken, count } = numberedTokens();
  const { window } = await connectedClient({ getToken });

  window.socket.break();
  await window.advance(2);

  assert.equal((await readConnect(window)).connect.body.token, "t1");
  assert.equal(count(), 1);
});

test("a getToken that fails is an error and another attempt", async () => {
  let calls = 0;
  const getToken = async (): Promise<string> => {
    if (++calls === 1) throw new Error("502");
    return "t";
  };
  const { window, client } = await connectingClient({ getToken });
  const errors = logEvents(client, "error");
  assert.equal(window.sockets.length, 0);

  await window.advance(0.5);

  assert.equal(client.state, "connecting");
  assert.equal((await readConnect(window)).connect.body.token, "t");
  assert.deepEqual(errors, []);
});

for (const [name, getToken] of [
  ["throws UnauthorizedError", () => Promise.reject(new UnauthorizedError("who?"))],
  ["throws it at once", () => { throw new UnauthorizedError(); }],
  ["gives nothing", () => ""],
] as [string, () => Promise<string>][]) {
  test(`a getToken that ${name} ends the client`, async () => {
    const { window, client } = await connectingClient({ getToken });

    await window.advance(600);

    assert.equal(client.state, "disconnected");
    assert.equal(window.sockets.length, 0);
    assert.equal(window.timers, 0);
  });
}

test("an UnauthorizedError ends the client with code 1", async () => {
  const getToken = (): Promise<string> => Promise.reject(new UnauthorizedError("who?"));
  const { window, client } = await connectedClient({ token: "t", getToken });
  const seen = logEvents(client, "disconnected");

  window.socket.serverClose(3005, "connection expired");
  await window.advance(2);

  assert.deepEqual(seen, [["disconnected", { code: 1, reason: "unauthorized" }]]);
});

for (const code of [109, 110]) {
  test(`a connect refused with ${code} fetches a new token`, async () => {
    const { getToken } = numberedTokens();
    const { window, client } = await connectingClient({ getToken });
    const { peer, connect } = await readConnect(window);

    peer.replyError(connect, code, "token expired");
    await window.advance(0);

    assert.equal((await readConnect(window)).connect.body.token, "t2");
    assert.equal(client.state, "connecting");
  });

  test(`a second token in a row that is refused with ${code} delays the next attempt`, async () => {
    const { getToken, count } = numberedTokens();
    const { window } = await connectingClient({ getToken });
    for (const _ of [1, 2]) {
      const { peer, connect } = await readConnect(window);
      peer.replyError(connect, code, "token expired");
      await window.advance(0);
    }
    assert.equal(count(), 2);

    await window.advance(1);

    assert.equal((await readConnect(window)).connect.body.token, "t3");
  });

  test(`a connect refused with ${code} is final where no token can be fetched`, async () => {
    const { window, client } = await connectingClient({ token: "old" });
    const { peer, connect } = await readConnect(window);
    const seen = logEvents(client, "disconnected");

    peer.replyError(connect, code, "token expired");

    assert.deepEqual(seen, [["disconnected", { code, reason: "token expired" }]]);
  });
}

test("a token that expires during an outage is fetched before the next attempt", async () => {
  const { getToken } = numberedTokens();
  const { window } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });
  window.socket.break();
  window.goOffline();

  await window.advance(200);
  window.goOnline();
  await settle();

  assert.equal((await readConnect(window)).connect.body.token, "t2");
});

test("the token of a subscription that expires during an outage is fetched first", async () => {
  const { getToken } = numberedTokens();
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  client.subscribe("room", { getToken });
  peer.reply(await peer.command("subscribe"), { expires: true, ttl: 100 });
  window.socket.break();
  window.goOffline();

  await window.advance(200);
  window.goOnline();
  await settle();
  const next = await acceptClient(window);

  assert.equal((await next.command("subscribe")).body.token, "t2");
});

for (const code of [3005, 3014]) {
  test(`after a close with ${code} a new token is fetched`, async () => {
    const { getToken } = numberedTokens();
    const { window } = await connectedClient({ getToken });

    window.socket.serverClose(code);
    await window.advance(2);

    assert.equal((await readConnect(window)).connect.body.token, "t2");
  });
}

test("no new token is fetched after another close code", async () => {
  const { getToken, count } = numberedTokens();
  const { window } = await connectedClient({ getToken });

  window.socket.serverClose(3004);
  await window.advance(2);

  assert.equal(count(), 1);
});

test("a token is refreshed before it expires", async () => {
  const { getToken } = numberedTokens();
  const { window, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });

  await window.advance(89.9);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  const refresh = await peer.command("refresh");
  peer.reply(refresh, { expires: true, ttl: 50 });
  await window.advance(45);

  assert.deepEqual(refresh.body, { token: "t2" });
  assert.deepEqual((await peer.command("refresh")).body, { token: "t3" });
});

test("a token that does not expire is not refreshed", async () => {
  const { getToken } = numberedTokens();
  const { window, peer } = await connectedClient({ getToken }, { ping: 0, ttl: 0 });

  await window.advance(3600);

  assert.deepEqual(await peer.commands(), []);
  assert.equal(window.timers, 0);
});

test("a token that is valid for years is not refreshed at once", async () => {
  const { getToken } = numberedTokens();
  const { window, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 1e8 });

  await window.advance(1e6);

  assert.deepEqual(await peer.commands(), []);
});

test("a refresh push sets the token's lifetime", async () => {
  const { getToken } = numberedTokens();
  const { window, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });

  peer.send({ push: { refresh: { expires: true, ttl: 1000 } } });
  await window.advance(899);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(1);

  await peer.command("refresh");
});

test("a refresh with a temporary error is tried again", async () => {
  const { getToken } = numberedTokens();
  const { window, client, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });
  const errors = logEvents(client, "error");
  await window.advance(90);

  peer.replyError(await peer.command("refresh"), 100, "internal", true);
  await window.advance(0.5);

  assert.equal((await peer.command("refresh")).body.token, "t3");
  assert.equal(errors.length, 1);
  assert.equal(client.state, "connected");
});

test("a refresh whose getToken fails is tried again", async () => {
  let calls = 0;
  const getToken = async (): Promise<string> => {
    if (++calls === 2) throw new Error("502");
    return `t${calls}`;
  };
  const { window, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });

  await window.advance(90.5);

  assert.equal((await peer.command("refresh")).body.token, "t3");
});

test("a refresh with a final error ends the client", async () => {
  const { getToken } = numberedTokens();
  const { window, client, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });
  const seen = logEvents(client, "disconnected");
  await window.advance(90);

  peer.replyError(await peer.command("refresh"), 103, "permission denied");

  assert.deepEqual(seen, [["disconnected", { code: 103, reason: "permission denied" }]]);
});

test("a refresh refused as expired is tried with another token", async () => {
  const { getToken } = numberedTokens();
  const { window, client, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });
  await window.advance(90);

  peer.replyError(await peer.command("refresh"), 109, "token expired");
  await window.advance(0.5);

  assert.equal((await peer.command("refresh")).body.token, "t3");
  assert.equal(client.state, "connected");
});

test("a token fetched for a connection that was lost is not sent on the next", async () => {
  let reply: (token: string) => void = () => undefined;
  const getToken = (): Promise<string> => new Promise((done) => (reply = done));
  const { window } = await connectedClient({ token: "t0", getToken }, { ping: 0, expires: true, ttl: 100 });
  await window.advance(90);
  const next = await reconnectClient(window, { ping: 0 });

  reply("late");
  await settle();

  assert.deepEqual(await next.commands(), []);
});

test("a getToken that fails for a lost connection is no error", async () => {
  let fail: (error: Error) => void = () => undefined;
  const getToken = (): Promise<string> => new Promise((_, reject) => (fail = reject));
  const { window, client } = await connectedClient({ token: "t0", getToken }, { ping: 0, expires: true, ttl: 100 });
  await window.advance(90);
  await reconnectClient(window, { ping: 0 });
  const errors = logEvents(client, "error");

  fail(new Error("502"));
  await settle();

  assert.deepEqual(errors, []);
});

test("a refresh push may end the expiry", async () => {
  const { getToken, count } = numberedTokens();
  const { window, peer } = await connectedClient({ getToken }, { ping: 0, expires: true, ttl: 100 });

  peer.send({ push: { refresh: { expires: false } } });
  await window.advance(1000);

  assert.equal(count(), 1);
});

test("delays between failed refreshes grow, and a success resets them", async () => {
  const { getToken } = numberedTokens();
  const { window, peer } = await connectedClient(
    { getToken, minDelay: 1, maxDelay: 8 },
    { ping: 0, expires: true, ttl: 100 },
  );
  window.chance = 1;
  const failRefresh = async (delay: number): Promise<void> => {
    peer.replyError(await peer.command("refresh"), 100, "internal", true);
    await window.advance(delay - 0.1);
    assert.deepEqual(await peer.commands(), []);
    await window.advance(0.1);
  };
  await window.advance(90);
  for (const delay of [2, 3, 5]) await failRefresh(delay);
  peer.reply(await peer.command("refresh"), { expires: true, ttl: 10 });
  await window.advance(9);

  await failRefresh(2);

  await peer.command("refresh");
});

// Tokens of subscriptions

test("a topic's token is fetched and sent with its subscription", async () => {
  const { client, peer } = await connectedClient();
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

test("an UnauthorizedError ends the subscription with code 1", async () => {
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  const room = client.subscribe("room", {
    getToken: () => Promise.reject(new UnauthorizedError("no")),
  });
  const seen = logEvents(room, "unsubscribed");

  await window.advance(600);

  assert.deepEqual(seen, [["unsubscribed", { code: 1, reason: "unauthorized" }]]);
  assert.equal(client.state, "connected");
  assert.deepEqual(await peer.commands(), []);
});

test("a topic's getToken that fails is an error and another attempt", async () => {
  let calls = 0;
  const { window, client, peer } = await connectedClient();
  const room = client.subscribe("room", {
    getToken: async () => {
      if (++calls === 1) throw new Error("502");
      return "r2";
    },
  });
  const errors = logEvents(room, "error");
  await settle();
  assert.equal(errors.length, 1);

  await window.advance(0.5);

  assert.equal((await peer.command("subscribe")).body.token, "r2");
});

test("a subscription refused with 109 fetches a new token at once", async () => {
  const { getToken } = numberedTokens();
  const { client, peer } = await connectedClient();
  client.subscribe("room", { getToken });

  peer.replyError(await peer.command("subscribe"), 109, "token expired");
  await settle();

  assert.equal((await peer.command("subscribe")).body.token, "t2");
});

test("a subscription refused with 109 is final where no token can be fetched", async () => {
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { token: "old" });

  peer.replyError(await peer.command("subscribe"), 109, "token expired");

  assert.equal(room.state, "unsubscribed");
});

test("a topic's token is refreshed before it expires", async () => {
  const { getToken } = numberedTokens();
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  client.subscribe("room", { getToken });
  peer.reply(await peer.command("subscribe"), { expires: true, ttl: 10 });

  await window.advance(9);
  const refresh = await peer.command("sub_refresh");
  peer.reply(refresh, { expires: true, ttl: 20 });
  await window.advance(18);

  assert.deepEqual(refresh.body, { channel: "room", token: "t2" });
  await peer.command("sub_refresh");
});

test("a topic's refresh with a final error ends the subscription only", async () => {
  const { getToken } = numberedTokens();
  const { window, client, peer } = await connectedClient({}, { ping: 0 });
  const room = client.subscribe("room", { getToken });
  peer.reply(await peer.command("subscribe"), { expires: true, ttl: 10 });
  await window.advance(9);

  peer.replyError(await peer.command("sub_refresh"), 103, "no more");

  assert.equal(room.state, "unsubscribed");
  assert.equal(client.state, "connected");
});

for (const code of [2501, 2502]) {
  test(`an unsubscribe push with ${code} fetches a new token`, async () => {
    const { getToken } = numberedTokens();
    const { window, client, peer } = await connectedClient({}, { ping: 0 });
    client.subscribe("room", { getToken });
    peer.reply(await peer.command("subscribe"), { ...STREAM, offset: 3 });

    peer.push("room", { unsubscribe: { code, reason: "" } });
    await window.advance(0.5);

    assert.equal((await peer.command("subscribe")).body.token, "t2");
  });
}

test("a subscription that ends while its token is fetched is not sent", async () => {
  let reply: (token: string) => void = () => undefined;
  const { client, peer } = await connectedClient();
  const room = client.subscribe("room", { getToken: () => new Promise((done) => (reply = done)) });
  await settle();
  room.unsubscribe();

  reply("late");

  assert.deepEqual(
    (await peer.commands()).map(({ method }) => method),
    ["unsubscribe"],
  );
});
