/** A subscription: its states, its recovery, its publications. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { settle } from "./fake_browser.js";
import vectors from "../../../spec/vectors/codes.json" with { type: "json" };
import { connectingClient, reconnectClient, logEvents, connectedClient, Peer, STREAM, acceptClient, type ClientSetup, type Command } from "./client_setup.js";
import type { SubscribeOptions, Subscription } from "../src/index.js";

interface SubscriptionSetup extends ClientSetup {
  peer: Peer;
  room: Subscription<any>;
  /** The first subscribe command. */
  command: Command;
}

/** A subscription whose first command has no reply. */
async function requestedSubscription(options: SubscribeOptions = {}): Promise<SubscriptionSetup> {
  const setup = await connectedClient();
  const room = setup.client.subscribe("room", options);
  return { ...setup, room, command: (await setup.peer.commands())[0]! };
}

/** A subscription at offset 3 of its stream. */
async function activeSubscription(options: SubscribeOptions = {}): Promise<SubscriptionSetup> {
  const setup = await requestedSubscription(options);
  setup.peer.reply(setup.command, { ...STREAM, offset: 3 });
  return setup;
}

test("a topic subscribed to before the connection is subscribed to on it", async () => {
  const { window, client } = await connectingClient();
  const room = client.subscribe("room");
  assert.equal(room.state, "subscribing");
  const peer = await acceptClient(window);

  peer.reply(await peer.command("subscribe"));

  assert.equal(room.state, "subscribed");
});

test("the subscription's data is sent with it", async () => {
  const { command } = await requestedSubscription({ data: { mood: "fine" }, token: "t" });

  assert.deepEqual(command.body, {
    channel: "room",
    token: "t",
    data: { mood: "fine" },
    recoverable: true,
  });
});

test("the filter by tags is sent with the subscription", async () => {
  const tagsFilter = { key: "colour", cmp: "eq", val: "red" } as const;
  const { command } = await requestedSubscription({ tagsFilter });

  assert.deepEqual(command.body.tf, tagsFilter);
});

test("the server's data is in the subscribed event", async () => {
  const { peer, room, command } = await requestedSubscription();
  const seen = logEvents(room, "subscribed");

  peer.reply(command, { data: { topic: "tea" } });

  assert.deepEqual(seen, [
    ["subscribed", { topic: "room", recovered: false, wasRecovering: false, data: { topic: "tea" }, publications: [] }],
  ]);
});

test("the same topic gives the same subscription until it is unsubscribed", async () => {
  const { client } = await connectedClient();
  const room = client.subscribe("room");

  assert.equal(client.subscribe("room"), room);
  room.unsubscribe();
  assert.notEqual(client.subscribe("room"), room);
});

test("a publication event has the message and its other fields", async () => {
  const { peer, room } = await activeSubscription();
  const seen = logEvents(room, "publication");
  const messages: unknown[] = [];
  room.addEventListener("publication", ({ data }) => messages.push(data));
  const pub = { data: { text: "hi" }, offset: 4, info: { client: "c", user: "7" }, tags: { a: "b" } };

  peer.push("room", { pub });

  assert.deepEqual(messages, [{ text: "hi" }]);
  assert.deepEqual(seen, [["publication", { topic: "room", ...pub }]]);
});

test("publications before the reply are ignored", async () => {
  const { peer, room } = await requestedSubscription();
  const seen = logEvents(room, "publication");

  peer.publish("room", "early", 1);

  assert.deepEqual(seen, []);
});

test("a repeated publication is ignored", async () => {
  const { peer, room } = await activeSubscription();
  const seen = logEvents(room, "publication");

  peer.publish("room", "old", 3);
  peer.publish("room", "new", 4);
  peer.publish("room", "new", 4);

  assert.deepEqual(
    seen.map(([, { offset }]) => offset),
    [4],
  );
});

test("publications without an offset are all emitted", async () => {
  const { peer, room, command } = await requestedSubscription();
  peer.reply(command, {});
  const seen = logEvents(room, "publication");

  peer.publish("room", "a");
  peer.publish("room", "a");

  assert.equal(seen.length, 2);
  assert.equal(room.position, undefined);
});

test("offsets of a topic without positions are ignored", async () => {
  const { peer, room, command } = await requestedSubscription();
  peer.reply(command, {});
  const seen = logEvents(room, "publication");

  peer.publish("room", "b", 2);
  peer.publish("room", "a", 1);

  assert.equal(seen.length, 2);
  assert.equal(room.position, undefined);
});

test("the position moves with the publications", async () => {
  const { peer, room } = await activeSubscription();
  assert.deepEqual(room.position, { offset: 3, epoch: "e1" });

  peer.publish("room", "four", 4);

  assert.deepEqual(room.position, { offset: 4, epoch: "e1" });
});

// Recovery

test("after an outage a subscription continues where it was", async () => {
  const { window, peer, room } = await activeSubscription();
  peer.publish("room", "four", 4);
  const seen = logEvents(room, "subscribing", "subscribed", "publication", "gap");

  const next = await reconnectClient(window);
  const again = await next.command("subscribe");
  next.reply(again, {
    ...STREAM,
    offset: 6,
    recovered: true,
    was_recovering: true,
    publications: [
      { data: "five", offset: 5 },
      { data: "six", offset: 6 },
    ],
  });

  assert.deepEqual(again.body, {
    channel: "room",
    recoverable: true,
    recover: true,
    offset: 4,
    epoch: "e1",
  });
  assert.deepEqual(seen, [
    ["subscribing", { code: 1, reason: "connection lost" }],
    ["subscribed", {
      topic: "room",
      recovered: true,
      wasRecovering: true,
      data: undefined,
      publications: [{ data: "five", offset: 5 }, { data: "six", offset: 6 }],
    }],
    ["publication", { topic: "room", data: "five", offset: 5 }],
    ["publication", { topic: "room", data: "six", offset: 6 }],
  ]);
  assert.deepEqual(room.position, { offset: 6, epoch: "e1" });
});

test("the position after a recovery is that of its last publication", async () => {
  const { window, room } = await activeSubscription();

  const next = await reconnectClient(window);
  next.reply(await next.command("subscribe"), {
    ...STREAM,
    offset: 3,
    recovered: true,
    publications: [{ data: "four", offset: 4 }],
  });

  assert.deepEqual(room.position, { offset: 4, epoch: "e1" });
});

test("publications that a recovery repeats are ignored", async () => {
  const { window, room } = await activeSubscription();
  const seen = logEvents(room, "publication");

  const next = await reconnectClient(window);
  next.reply(await next.command("subscribe"), {
    ...STREAM,
    offset: 4,
    recovered: true,
    publications: [
      { data: "three", offset: 3 },
      { data: "four", offset: 4 },
    ],
  });

  assert.deepEqual(
    seen.map(([, { data }]) => data),
    ["four"],
  );
});

test("a failed recovery emits gap, after subscribed", async () => {
  const { window, room } = await activeSubscription();
  const seen = logEvents(room, "subscribed", "gap", "publication");

  const next = await reconnectClient(window);
  next.reply(await next.command("subscribe"), {
    ...STREAM,
    epoch: "e2",
    offset: 1,
    recovered: false,
    was_recovering: true,
  });
  next.publish("room", "two", 2);

  assert.deepEqual(seen, [
    ["subscribed", { topic: "room", recovered: false, wasRecovering: true, data: undefined, publications: [] }],
    ["gap", { topic: "room" }],
    ["publication", { topic: "room", data: "two", offset: 2 }],
  ]);
  assert.deepEqual(room.position, { offset: 2, epoch: "e2" });
});

test("the first subscription has no gap", async () => {
  const { peer, room, command } = await requestedSubscription();
  const seen = logEvents(room, "gap");

  peer.reply(command, { ...STREAM, offset: 9 });

  assert.deepEqual(seen, []);
});

test("the last publications of a topic come with the first subscription", async () => {
  const { peer, room, command } = await requestedSubscription();
  const seen = logEvents(room, "subscribed", "publication", "gap");

  peer.reply(command, {
    ...STREAM,
    offset: 7,
    publications: [
      { data: "eight", offset: 8 },
      { data: "nine", offset: 9 },
    ],
  });
  peer.publish("room", "ten", 10);

  assert.deepEqual(
    seen.map(([type, { data }]: any) => [type, data]),
    [
      ["subscribed", undefined],
      ["publication", "eight"],
      ["publication", "nine"],
      ["publication", "ten"],
    ],
  );
  assert.deepEqual(room.position, { offset: 10, epoch: "e1" });
});

test("the last publications of a topic come after the gap of a failed recovery", async () => {
  const { window, room } = await activeSubscription();
  const seen = logEvents(room, "gap", "publication");

  const next = await reconnectClient(window);
  next.reply(await next.command("subscribe"), {
    ...STREAM,
    offset: 8,
    was_recovering: true,
    publications: [{ data: "nine", offset: 9 }],
  });

  assert.deepEqual(
    seen.map(([type]) => type),
    ["gap", "publication"],
  );
});

test("a topic without positions has a gap after every outage", async () => {
  const { window, peer, room, command } = await requestedSubscription();
  peer.reply(command, {});
  const seen = logEvents(room, "gap");

  const next = await reconnectClient(window);
  const again = await next.command("subscribe");
  next.reply(again, {});

  assert.equal(seen.length, 1);
  assert.deepEqual(again.body, { channel: "room", recoverable: true });
});

test("the first subscription continues at the position from the page", async () => {
  const { peer, room, command } = await requestedSubscription({ since: { offset: 7, epoch: "e1" } });
  const seen = logEvents(room, "publication", "gap");

  peer.reply(command, {
    ...STREAM,
    offset: 8,
    recovered: true,
    publications: [{ data: "eight", offset: 8 }],
  });

  assert.deepEqual([command.body.recover, command.body.offset, command.body.epoch], [true, 7, "e1"]);
  assert.deepEqual(
    seen.map(([type]) => type),
    ["publication"],
  );
});

test("a position from the page that is too old emits gap", async () => {
  const { peer, room, command } = await requestedSubscription({ since: { offset: 7, epoch: "e1" } });
  const seen = logEvents(room, "gap");

  peer.reply(command, { ...STREAM, offset: 900, recovered: false });

  assert.equal(seen.length, 1);
});

test("the object of a given position is not changed", async () => {
  const since = { offset: 7, epoch: "e1" };
  const { peer, command } = await requestedSubscription({ since });
  peer.reply(command, { ...STREAM, offset: 7, recovered: true });

  peer.publish("room", "eight", 8);

  assert.deepEqual(since, { offset: 7, epoch: "e1" });
});

// getState

test("without a position getState is called first", async () => {
  const calls: unknown[] = [];
  const { command } = await requestedSubscription({
    getState: async (context) => {
      calls.push(context);
      return { offset: 5, epoch: "e1" };
    },
  });

  assert.deepEqual(calls, [{ topic: "room" }]);
  assert.deepEqual(command.body, {
    channel: "room",
    recoverable: true,
    recover: true,
    offset: 5,
    epoch: "e1",
    flag: 2,
  });
});

test("getState is called again at once when the position is unrecoverable", async () => {
  let offset = 5;
  const { peer, room, command } = await requestedSubscription({ getState: () => ({ offset: offset++, epoch: "e1" }) });
  const seen = logEvents(room, "subscribed", "gap", "error");

  peer.replyError(command, 112, "unrecoverable position");
  const again = await peer.command("subscribe");
  peer.reply(again, { ...STREAM, offset: 6, recovered: true });

  assert.equal(again.body.offset, 6);
  assert.deepEqual(
    seen.map(([type]) => type),
    ["subscribed"],
  );
});

test("repeated calls of getState have a delay", async () => {
  let calls = 0;
  const { window, peer, command } = await requestedSubscription({ getState: () => ({ offset: ++calls, epoch: "e1" }) });
  peer.replyError(command, 112);
  peer.replyError(await peer.command("subscribe"), 112);
  await settle();
  assert.equal(calls, 2);

  await window.advance(0.5);

  assert.equal(calls, 3);
});

test("getState is not called after an outage that is recovered", async () => {
  let calls = 0;
  const { window, peer, command } = await requestedSubscription({ getState: () => ({ offset: ++calls, epoch: "e1" }) });
  peer.reply(command, { ...STREAM, offset: 1, recovered: true });

  const next = await reconnectClient(window);
  const again = await next.command("subscribe");

  assert.equal(calls, 1);
  assert.equal(again.body.offset, 1);
});

test("a getState that fails is an error and another attempt", async () => {
  let calls = 0;
  const setup = await connectedClient();
  const getState = (): never => {
    calls++;
    throw new Error("502");
  };
  const room = setup.client.subscribe("room", { getState });
  const seen = logEvents(room, "error");
  await settle();

  assert.equal(calls, 1);
  assert.match(String(seen[0]![1]), /502/);
  await setup.window.advance(0.5);
  assert.equal(calls, 2);
});

test("a state loaded for a lost connection does not set the position", async () => {
  const replies: ((position: { offset: number; epoch: string }) => void)[] = [];
  const setup = await connectedClient();
  const getState = (): Promise<any> => new Promise((done) => replies.push(done));
  const room = setup.client.subscribe("room", { getState });
  await settle();
  const next = await reconnectClient(setup.window);
  await settle();
  replies[1]!({ offset: 9, epoch: "e1" });
  next.reply(await next.command("subscribe"), { ...STREAM, offset: 9, recovered: true });

  replies[0]!({ offset: 2, epoch: "e1" });
  await settle();

  assert.deepEqual(room.position, { offset: 9, epoch: "e1" });
  assert.deepEqual(await next.commands(), []);
});

test("without getState an unrecoverable position is final", async () => {
  const { peer, room, command } = await requestedSubscription();

  peer.replyError(command, 112, "unrecoverable position");

  assert.equal(room.state, "unsubscribed");
});

// Errors of subscribe commands

for (const code of [101, 102, 103, 105, 106, 107, 108, 400, 1999]) {
  test(`a refusal with ${code} is final`, async () => {
    const { window, peer, room, command } = await requestedSubscription();
    const seen = logEvents(room, "unsubscribed", "error");

    peer.replyError(command, code, "no");
    await window.advance(20);

    assert.equal(room.state, "unsubscribed");
    assert.deepEqual(seen, [["unsubscribed", { code, reason: "no" }]]);
    assert.deepEqual((await peer.commands()).filter(({ method }) => method === "subscribe"), []);
  });
}

test("a temporary refusal is an error and another attempt after a delay", async () => {
  const { window, peer, room, command } = await requestedSubscription();
  const seen = logEvents(room, "error", "unsubscribed");

  peer.replyError(command, 111, "too many requests", true);
  await window.advance(0.4);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);

  await peer.command("subscribe");
  assert.equal(room.state, "subscribing");
  assert.deepEqual(
    seen.map(([type, { code }]) => [type, code]),
    [["error", 111]],
  );
});

test("every topic has its own delays, and they grow", async () => {
  const { window, client, peer } = await connectedClient({ minDelay: 1, maxDelay: 8 }, { ping: 0 });
  window.chance = 1;
  client.subscribe("busy");

  for (const delay of [2, 3, 5, 8]) {
    peer.replyError(await peer.command("subscribe"), 111, "", true);
    await window.advance(delay - 0.1);
    assert.deepEqual(await peer.commands(), []);
    await window.advance(0.1);
  }
  await peer.command("subscribe");
  client.subscribe("quiet");

  assert.equal((await peer.command("subscribe")).body.channel, "quiet");
});

test("the commands of many subscriptions are sent at a rate that the server accepts", async () => {
  const { window, client } = await connectedClient({}, { ping: 0 });
  for (let number = 0; number < 250; number++) client.subscribe(`room:${number}`);
  await window.advance(5);
  const peer = await reconnectClient(window, { ping: 0 });

  assert.equal((await peer.commands()).length, 100);
  await window.advance(0.5);
  assert.deepEqual(await peer.commands(), []);
  await window.advance(0.1);
  assert.equal((await peer.commands()).length, 100);
  await window.advance(0.6);
  assert.equal((await peer.commands()).length, 50);
});

test("a subscribe command without a reply ends the connection, not the subscription", async () => {
  const { window, client } = await connectedClient({ timeout: 4 }, { ping: 0 });
  const room = client.subscribe("room");

  await window.advance(4);
  assert.equal(client.state, "connecting");
  await window.advance(1);
  const next = await acceptClient(window);

  await next.command("subscribe");
  assert.equal(room.state, "subscribing");
});

test("subscribe subscribes again to a topic that was refused", async () => {
  const { peer, room, command } = await requestedSubscription();
  const seen = logEvents(room, "subscribing", "subscribed");
  peer.replyError(command, 103);

  room.subscribe();
  room.subscribe();
  peer.reply(await peer.command("subscribe"), {});

  assert.deepEqual(
    seen.map(([type]) => type),
    ["subscribing", "subscribed"],
  );
});

test("a topic has one subscription at a time", async () => {
  const { client, peer, room, command } = await requestedSubscription();
  peer.replyError(command, 103);
  client.subscribe("room");

  assert.throws(() => room.subscribe(), { name: "InvalidStateError" });
});

// Unsubscribing

test("unsubscribe sends a command and ends the subscription", async () => {
  const { peer, room } = await activeSubscription();
  const seen = logEvents(room, "subscribing", "unsubscribed", "publication");

  room.unsubscribe();
  room.unsubscribe();
  peer.publish("room", "late", 4);

  assert.deepEqual((await peer.command("unsubscribe")).body, { channel: "room" });
  assert.deepEqual(seen, [["unsubscribed", { code: 0, reason: "unsubscribe called" }]]);
  assert.equal(room.position, undefined);
});

test("an ended subscription is not repeated on the next connection", async () => {
  const { window, room } = await activeSubscription();
  room.unsubscribe();

  const next = await reconnectClient(window);

  assert.deepEqual(await next.commands(), []);
});

test("unsubscribe works without a connection", async () => {
  const { window, client } = await connectingClient();
  const room = client.subscribe("room");

  room.unsubscribe();
  const peer = await acceptClient(window);

  assert.equal(room.state, "unsubscribed");
  assert.deepEqual(await peer.commands(), []);
});

test("the reply to an ended subscription is ignored", async () => {
  const { peer, room, command } = await requestedSubscription();

  room.unsubscribe();
  peer.reply(command, {});

  assert.equal(room.state, "unsubscribed");
});

test("the reply to an earlier subscribe command is ignored", async () => {
  const { client, peer, room, command } = await requestedSubscription();
  room.unsubscribe();
  const again = client.subscribe("room");
  await settle();

  peer.reply(command, { ...STREAM, offset: 3 });

  assert.equal(again.state, "subscribing");
});

test("an unsubscribe command without a reply ends the connection", async () => {
  const setup = await connectedClient({ timeout: 4 }, { ping: 0 });
  const room = setup.client.subscribe("room");
  setup.peer.reply(await setup.peer.command("subscribe"));
  room.unsubscribe();

  await setup.window.advance(4);

  assert.equal(setup.client.state, "connecting");
});

// Unsubscribe pushes

for (const { code, resubscribe } of vectors.unsubscribe) {
  test(`an unsubscribe push with ${code} is ${resubscribe ? "followed by a recovery" : "final"}`, async () => {
    const { window, peer, room } = await activeSubscription();
    const seen = logEvents(room, "unsubscribed", "subscribing");

    peer.push("room", { unsubscribe: { code, reason: "so" } });
    await window.advance(20);

    const command = (await peer.commands()).filter(({ method }) => method === "subscribe");
    assert.deepEqual(seen, [[resubscribe ? "subscribing" : "unsubscribed", { code, reason: "so" }]]);
    assert.deepEqual(
      command.map(({ body: { recover, offset, epoch } }) => [recover, offset, epoch]),
      resubscribe ? [[true, 3, "e1"]] : [],
    );
  });
}

test("a subscription is not recovered after its state was invalidated", async () => {
  const { window, peer, room } = await activeSubscription();
  const seen = logEvents(room, "gap");

  peer.push("room", { unsubscribe: { code: 2502, reason: "state invalidated" } });
  await window.advance(0.5);
  const again = await peer.command("subscribe");
  peer.reply(again, { ...STREAM, offset: 4 });

  assert.equal(again.body.recover, undefined);
  assert.equal(seen.length, 1);
});

test("no subscription is recovered after the connection's state was invalidated", async () => {
  const { window, room } = await activeSubscription();
  const seen = logEvents(room, "gap");

  window.socket.serverClose(3014, "state invalidated");
  await window.advance(2);
  const next = await acceptClient(window);
  const again = await next.command("subscribe");
  next.reply(again, { ...STREAM, offset: 4 });

  assert.equal(again.body.recover, undefined);
  assert.equal(seen.length, 1);
});

test("an unsubscribe push for an ended subscription is ignored", async () => {
  const { peer, room } = await activeSubscription();
  room.unsubscribe();
  const seen = logEvents(room, "unsubscribed", "subscribing");

  peer.push("room", { unsubscribe: { code: 2500, reason: "again" } });

  assert.deepEqual(seen, []);
});

test("the delay before a retry ends with the connection", async () => {
  const { window, peer } = await activeSubscription();
  peer.push("room", { unsubscribe: { code: 2500, reason: "again" } });

  const next = await reconnectClient(window);
  await next.command("subscribe");
  await window.advance(20);

  assert.deepEqual(
    (await next.commands()).filter(({ method }) => method === "subscribe"),
    [],
  );
});

// Calls and history

test("a call of a topic is an rpc command", async () => {
  const { peer, room } = await activeSubscription();

  const call = room.call("rename", { to: "tea" });
  const command = await peer.command("rpc");
  peer.reply(command, { data: "done" });

  assert.deepEqual(command.body, {
    method: "$call",
    data: { channel: "room", method: "rename", data: { to: "tea" } },
  });
  assert.equal(await call, "done");
});

test("a call of a topic waits for its subscription", async () => {
  const { peer, room, command } = await requestedSubscription();

  const call = room.call("rename");
  assert.deepEqual(await peer.commands(), []);
  peer.reply(command, {});
  peer.reply(await peer.command("rpc"), { data: 1 });

  assert.equal(await call, 1);
});

test("a call of a refused topic is sent and refused by the server", async () => {
  const { peer, room, command } = await requestedSubscription();
  const call = room.call("rename");

  peer.replyError(command, 103);
  peer.replyError(await peer.command("rpc"), 103);

  await assert.rejects(call, { code: 103 });
});

test("history has no limit by default", async () => {
  const { peer, room } = await activeSubscription();

  const all = room.history();
  const command = await peer.command("history");
  peer.reply(command, { publications: [{ data: 1, offset: 1 }], offset: 3, epoch: "e1" });
  const some = room.history({ limit: 2, since: { offset: 3, epoch: "e1" }, reverse: true });
  const less = await peer.command("history");
  peer.reply(less, {});

  assert.deepEqual(command.body, { channel: "room", limit: -1 });
  assert.deepEqual(await all, { publications: [{ data: 1, offset: 1 }], offset: 3, epoch: "e1" });
  assert.deepEqual(less.body, {
    channel: "room",
    limit: 2,
    since: { offset: 3, epoch: "e1" },
    reverse: true,
  });
  assert.deepEqual(await some, { publications: [], offset: 0, epoch: "" });
});

// for await

test("a loop yields the messages from now on, in order", async () => {
  const { peer, room } = await activeSubscription();
  peer.publish("room", "before", 4);
  const seen: unknown[] = [];
  const loop = (async () => {
    for await (const message of room) if (seen.push(message) === 3) break;
  })();

  peer.publish("room", "a", 5);
  peer.publish("room", "b", 6);
  await settle();
  peer.publish("room", "c", 7);
  await loop;

  assert.deepEqual(seen, ["a", "b", "c"]);
});

test("a loop continues after an outage", async () => {
  const { window, peer, room } = await activeSubscription();
  const seen: unknown[] = [];
  const loop = (async () => {
    for await (const message of room) if (seen.push(message) === 2) break;
  })();
  peer.publish("room", "a", 4);

  const next = await reconnectClient(window);
  next.reply(await next.command("subscribe"), { ...STREAM, offset: 4, recovered: true });
  next.publish("room", "b", 5);
  await loop;

  assert.deepEqual(seen, ["a", "b"]);
});

test("a loop that was left removes its listeners", async () => {
  const { peer, room } = await activeSubscription();
  const loop = (async () => {
    for await (const message of room) return message;
    return undefined;
  })();
  peer.publish("room", "a", 4);

  await loop;

  assert.deepEqual(getEventListeners(room, "publication"), []);
  assert.deepEqual(getEventListeners(room, "unsubscribed"), []);
});

test("leaving a loop does not unsubscribe", async () => {
  const { peer, room } = await activeSubscription();
  const loop = (async () => {
    for await (const message of room) return message;
    return undefined;
  })();

  peer.publish("room", "a", 4);

  assert.equal(await loop, "a");
  assert.equal(room.state, "subscribed");
});

test("a loop yields the unread messages after unsubscribe and ends", async () => {
  const { peer, room } = await activeSubscription();
  const seen: unknown[] = [];
  const loop = (async () => {
    for await (const message of room) seen.push(message);
  })();
  await settle();

  peer.publish("room", "last", 4);
  room.unsubscribe();
  await loop;

  assert.deepEqual(seen, ["last"]);
});

test("a loop throws when the server ends the subscription", async () => {
  const { peer, room } = await activeSubscription();
  const loop = (async () => {
    for await (const message of room) void message;
  })();
  await settle();

  peer.push("room", { unsubscribe: { code: 2000, reason: "out" } });

  await assert.rejects(loop, { name: "TopicError", code: 2000, message: "out" });
});

test("a loop that is too slow throws", async () => {
  const { peer, room } = await activeSubscription();
  const loop = (async () => {
    for await (const message of room) void message;
  })();
  await settle();

  for (let n = 0; n < 1001; n++) peer.publish("room", n, 4 + n);

  await assert.rejects(loop, { name: "TopicError", message: /1000 messages behind/ });
});

test("two loops get the same messages", async () => {
  const { peer, room } = await activeSubscription();
  const first = async (): Promise<unknown> => {
    for await (const message of room) return message;
    return undefined;
  };
  const loops = [first(), first()];

  peer.publish("room", "a", 4);

  assert.deepEqual(await Promise.all(loops), ["a", "a"]);
});

test("an unknown option of a subscription is refused by name", async () => {
  const { client } = await connectedClient();
  const options = { sinc: STREAM } as object;

  assert.throws(() => client.subscribe("room", options), /unknown option "sinc"; known: since, /);
  assert.throws(() => client.listen("room", {}, options), /unknown option "sinc"/);
});

test("a topic that is not a string is refused with its value", async () => {
  const { client } = await connectedClient();

  assert.throws(() => client.subscribe(undefined as never), /topic undefined is not a string/);
  assert.throws(() => client.subscribe(7 as never), /topic 7 is not a string/);
});

test("a whisper is sent to the topic's other subscribers", async () => {
  const { peer, room } = await activeSubscription();

  room.whisper({ typing: true });

  const { body } = await peer.command("rpc");
  assert.deepEqual(body, { method: "$whisper", data: { channel: "room", data: { typing: true } } });
});

test("a whisper of another client is an event with its data and sender", async () => {
  const { peer, room } = await activeSubscription();
  const seen: unknown[] = [];
  room.addEventListener("whisper", ({ data, detail }) => seen.push(data, detail));
  const whisper = { data: { typing: true }, info: { client: "c", user: "7" } };

  peer.push("room", { whisper });

  assert.deepEqual(seen, [{ typing: true }, { topic: "room", ...whisper }]);
  assert.equal(room.position!.offset, 3);
});

test("a whisper without a subscription is dropped", async () => {
  const { peer, room, command } = await requestedSubscription();

  room.whisper("early");
  peer.reply(command, STREAM);
  room.whisper("later");

  const { body } = await peer.command("rpc");
  assert.deepEqual(body.data.data, "later");
});

test("a whisper that the server refuses is an error event, unless it is temporary", async () => {
  const { peer, room } = await activeSubscription();
  const seen = logEvents(room, "error");

  room.whisper(1);
  const first = await peer.command("rpc");
  peer.replyError(first, 111, "too many", true);
  room.whisper(2);
  const second = await peer.command("rpc");
  peer.replyError(second, 108);

  assert.deepEqual(
    seen.map(([, error]) => error.code),
    [108],
  );
});
