/** One topic: its states, its recovery, its publications. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { settle } from "./fakes.js";
import vectors from "../../../spec/vectors/codes.json" with { type: "json" };
import { calling, comeBack, log, online, Peer, STREAM, welcome, type Asked } from "./peer.js";
import type { SubscribeOptions, Subscription } from "../src/index.js";

interface Room {
  window: Awaited<ReturnType<typeof online>>["window"];
  client: Awaited<ReturnType<typeof online>>["client"];
  peer: Peer;
  room: Subscription<any>;
  asked: Asked;
}

/** A subscription that the server has been asked for. */
async function entering(options: SubscribeOptions = {}): Promise<Room> {
  const site = await online();
  const room = site.client.subscribe("room", options);
  return { ...site, room, asked: (await site.peer.commands())[0]! };
}

/** A subscription to a stream that has come to offset 3. */
async function inside(options: SubscribeOptions = {}): Promise<Room> {
  const world = await entering(options);
  world.peer.answer(world.asked, { ...STREAM, offset: 3 });
  return world;
}

test("what is subscribed before the connection is subscribed on it", async () => {
  const { window, client } = await calling();
  const room = client.subscribe("room");
  assert.equal(room.state, "subscribing");
  const peer = await welcome(window);

  peer.answer(await peer.command("subscribe"));

  assert.equal(room.state, "subscribed");
});

test("what the page says with a subscription is sent with it", async () => {
  const { asked } = await entering({ data: { mood: "fine" }, token: "t" });

  assert.deepEqual(asked.body, {
    channel: "room",
    token: "t",
    data: { mood: "fine" },
    recoverable: true,
  });
});

test("what the server says with a subscription is told with it", async () => {
  const { peer, room, asked } = await entering();
  const seen = log(room, "subscribed");

  peer.answer(asked, { data: { topic: "tea" } });

  assert.deepEqual(seen, [
    ["subscribed", { topic: "room", recovered: false, wasRecovering: false, data: { topic: "tea" } }],
  ]);
});

test("the same topic is the same subscription until it is left", async () => {
  const { client } = await online();
  const room = client.subscribe("room");

  assert.equal(client.subscribe("room"), room);
  room.unsubscribe();
  assert.notEqual(client.subscribe("room"), room);
});

test("a publication is an event with the message and what is known about it", async () => {
  const { peer, room } = await inside();
  const seen = log(room, "publication");
  const messages: unknown[] = [];
  room.addEventListener("publication", ({ data }) => messages.push(data));
  const pub = { data: { text: "hi" }, offset: 4, info: { client: "c", user: "7" }, tags: { a: "b" } };

  peer.push("room", { pub });

  assert.deepEqual(messages, [{ text: "hi" }]);
  assert.deepEqual(seen, [["publication", { topic: "room", ...pub }]]);
});

test("what comes before the subscription is answered is not shown", async () => {
  const { peer, room } = await entering();
  const seen = log(room, "publication");

  peer.publish("room", "early", 1);

  assert.deepEqual(seen, []);
});

test("what was seen is not shown again", async () => {
  const { peer, room } = await inside();
  const seen = log(room, "publication");

  peer.publish("room", "old", 3);
  peer.publish("room", "new", 4);
  peer.publish("room", "new", 4);

  assert.deepEqual(
    seen.map(([, { offset }]) => offset),
    [4],
  );
});

test("publications without a position are all shown", async () => {
  const { peer, room, asked } = await entering();
  peer.answer(asked, {});
  const seen = log(room, "publication");

  peer.publish("room", "a");
  peer.publish("room", "a");

  assert.equal(seen.length, 2);
  assert.equal(room.position, undefined);
});

test("offsets of a topic without positions say nothing", async () => {
  const { peer, room, asked } = await entering();
  peer.answer(asked, {});
  const seen = log(room, "publication");

  peer.publish("room", "b", 2);
  peer.publish("room", "a", 1);

  assert.equal(seen.length, 2);
  assert.equal(room.position, undefined);
});

test("the position moves with what was shown", async () => {
  const { peer, room } = await inside();
  assert.deepEqual(room.position, { offset: 3, epoch: "e1" });

  peer.publish("room", "four", 4);

  assert.deepEqual(room.position, { offset: 4, epoch: "e1" });
});

// Recovery

test("after an outage a subscription continues where it was", async () => {
  const { window, peer, room } = await inside();
  peer.publish("room", "four", 4);
  const seen = log(room, "subscribing", "subscribed", "publication", "gap");

  const next = await comeBack(window);
  const again = await next.command("subscribe");
  next.answer(again, {
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
    ["subscribed", { topic: "room", recovered: true, wasRecovering: true, data: undefined }],
    ["publication", { topic: "room", data: "five", offset: 5 }],
    ["publication", { topic: "room", data: "six", offset: 6 }],
  ]);
  assert.deepEqual(room.position, { offset: 6, epoch: "e1" });
});

test("the position after a recovery is that of its last publication", async () => {
  const { window, room } = await inside();

  const next = await comeBack(window);
  next.answer(await next.command("subscribe"), {
    ...STREAM,
    offset: 3,
    recovered: true,
    publications: [{ data: "four", offset: 4 }],
  });

  assert.deepEqual(room.position, { offset: 4, epoch: "e1" });
});

test("what a recovery repeats is not shown again", async () => {
  const { window, room } = await inside();
  const seen = log(room, "publication");

  const next = await comeBack(window);
  next.answer(await next.command("subscribe"), {
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

test("what cannot be recovered is a gap, told after the subscription", async () => {
  const { window, room } = await inside();
  const seen = log(room, "subscribed", "gap", "publication");

  const next = await comeBack(window);
  next.answer(await next.command("subscribe"), {
    ...STREAM,
    epoch: "e2",
    offset: 1,
    recovered: false,
    was_recovering: true,
  });
  next.publish("room", "two", 2);

  assert.deepEqual(seen, [
    ["subscribed", { topic: "room", recovered: false, wasRecovering: true, data: undefined }],
    ["gap", { topic: "room" }],
    ["publication", { topic: "room", data: "two", offset: 2 }],
  ]);
  assert.deepEqual(room.position, { offset: 2, epoch: "e2" });
});

test("the first subscription has no gap", async () => {
  const { peer, room, asked } = await entering();
  const seen = log(room, "gap");

  peer.answer(asked, { ...STREAM, offset: 9 });

  assert.deepEqual(seen, []);
});

test("a topic without positions has a gap after every outage", async () => {
  const { window, peer, room, asked } = await entering();
  peer.answer(asked, {});
  const seen = log(room, "gap");

  const next = await comeBack(window);
  const again = await next.command("subscribe");
  next.answer(again, {});

  assert.equal(seen.length, 1);
  assert.deepEqual(again.body, { channel: "room", recoverable: true });
});

test("a position from the page is where the first subscription continues", async () => {
  const { peer, room, asked } = await entering({ since: { offset: 7, epoch: "e1" } });
  const seen = log(room, "publication", "gap");

  peer.answer(asked, {
    ...STREAM,
    offset: 8,
    recovered: true,
    publications: [{ data: "eight", offset: 8 }],
  });

  assert.deepEqual([asked.body.recover, asked.body.offset, asked.body.epoch], [true, 7, "e1"]);
  assert.deepEqual(
    seen.map(([type]) => type),
    ["publication"],
  );
});

test("a page that is too old is told so", async () => {
  const { peer, room, asked } = await entering({ since: { offset: 7, epoch: "e1" } });
  const seen = log(room, "gap");

  peer.answer(asked, { ...STREAM, offset: 900, recovered: false });

  assert.equal(seen.length, 1);
});

test("a position handed in is not written to", async () => {
  const since = { offset: 7, epoch: "e1" };
  const { peer, asked } = await entering({ since });
  peer.answer(asked, { ...STREAM, offset: 7, recovered: true });

  peer.publish("room", "eight", 8);

  assert.deepEqual(since, { offset: 7, epoch: "e1" });
});

// getState

test("without a position the page's state is loaded first, with its position", async () => {
  const calls: unknown[] = [];
  const { asked } = await entering({
    getState: async (context) => {
      calls.push(context);
      return { offset: 5, epoch: "e1" };
    },
  });

  assert.deepEqual(calls, [{ topic: "room" }]);
  assert.deepEqual(asked.body, {
    channel: "room",
    recoverable: true,
    recover: true,
    offset: 5,
    epoch: "e1",
    flag: 2,
  });
});

test("a position that cannot be continued loads the state anew, at once", async () => {
  let offset = 5;
  const { peer, room, asked } = await entering({ getState: () => ({ offset: offset++, epoch: "e1" }) });
  const seen = log(room, "subscribed", "gap", "error");

  peer.refuse(asked, 112, "unrecoverable position");
  const again = await peer.command("subscribe");
  peer.answer(again, { ...STREAM, offset: 6, recovered: true });

  assert.equal(again.body.offset, 6);
  assert.deepEqual(
    seen.map(([type]) => type),
    ["subscribed"],
  );
});

test("a state that is never fresh enough is not loaded without a pause", async () => {
  let calls = 0;
  const { window, peer, asked } = await entering({ getState: () => ({ offset: ++calls, epoch: "e1" }) });
  peer.refuse(asked, 112);
  peer.refuse(await peer.command("subscribe"), 112);
  await settle();
  assert.equal(calls, 2);

  await window.advance(0.5);

  assert.equal(calls, 3);
});

test("after an outage the state is not loaded when the position still holds", async () => {
  let calls = 0;
  const { window, peer, asked } = await entering({ getState: () => ({ offset: ++calls, epoch: "e1" }) });
  peer.answer(asked, { ...STREAM, offset: 1, recovered: true });

  const next = await comeBack(window);
  const again = await next.command("subscribe");

  assert.equal(calls, 1);
  assert.equal(again.body.offset, 1);
});

test("a state that cannot be loaded is an error and another attempt", async () => {
  let calls = 0;
  const site = await online();
  const getState = (): never => {
    calls++;
    throw new Error("502");
  };
  const room = site.client.subscribe("room", { getState });
  const seen = log(room, "error");
  await settle();

  assert.equal(calls, 1);
  assert.match(String(seen[0]![1]), /502/);
  await site.window.advance(0.5);
  assert.equal(calls, 2);
});

test("a state that was loaded for a lost connection moves nothing", async () => {
  const replies: ((position: { offset: number; epoch: string }) => void)[] = [];
  const site = await online();
  const getState = (): Promise<any> => new Promise((done) => replies.push(done));
  const room = site.client.subscribe("room", { getState });
  await settle();
  const next = await comeBack(site.window);
  await settle();
  replies[1]!({ offset: 9, epoch: "e1" });
  next.answer(await next.command("subscribe"), { ...STREAM, offset: 9, recovered: true });

  replies[0]!({ offset: 2, epoch: "e1" });
  await settle();

  assert.deepEqual(room.position, { offset: 9, epoch: "e1" });
  assert.deepEqual(await next.commands(), []);
});

test("without getState an unrecoverable position is final", async () => {
  const { peer, room, asked } = await entering();

  peer.refuse(asked, 112, "unrecoverable position");

  assert.equal(room.state, "unsubscribed");
});

// Refusals

for (const code of [101, 102, 103, 105, 106, 107, 108, 400, 1999]) {
  test(`a refusal with ${code} is final`, async () => {
    const { window, peer, room, asked } = await entering();
    const seen = log(room, "unsubscribed", "error");

    peer.refuse(asked, code, "no");
    await window.advance(20);

    assert.equal(room.state, "unsubscribed");
    assert.deepEqual(seen, [["unsubscribed", { code, reason: "no" }]]);
    assert.deepEqual((await peer.commands()).filter(({ method }) => method === "subscribe"), []);
  });
}

test("a temporary refusal is an error and another attempt after a pause", async () => {
  const { window, peer, room, asked } = await entering();
  const seen = log(room, "error", "unsubscribed");

  peer.refuse(asked, 111, "too many requests", true);
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

test("every topic has its own pauses, and they grow", async () => {
  const { window, client, peer } = await online({ minDelay: 1, maxDelay: 8 }, { ping: 0 });
  window.chance = 1;
  client.subscribe("busy");

  for (const pause of [2, 3, 5, 8]) {
    peer.refuse(await peer.command("subscribe"), 111, "", true);
    await window.advance(pause - 0.1);
    assert.deepEqual(await peer.commands(), []);
    await window.advance(0.1);
  }
  await peer.command("subscribe");
  client.subscribe("quiet");

  assert.equal((await peer.command("subscribe")).body.channel, "quiet");
});

test("a subscription that is not answered costs the connection, not the topic", async () => {
  const { window, client } = await online({ timeout: 4 }, { ping: 0 });
  const room = client.subscribe("room");

  await window.advance(4);
  assert.equal(client.state, "connecting");
  await window.advance(1);
  const next = await welcome(window);

  await next.command("subscribe");
  assert.equal(room.state, "subscribing");
});

test("a topic that was refused is subscribed again when asked", async () => {
  const { peer, room, asked } = await entering();
  const seen = log(room, "subscribing", "subscribed");
  peer.refuse(asked, 103);

  room.subscribe();
  room.subscribe();
  peer.answer(await peer.command("subscribe"), {});

  assert.deepEqual(
    seen.map(([type]) => type),
    ["subscribing", "subscribed"],
  );
});

test("a topic has one subscription at a time", async () => {
  const { client, peer, room, asked } = await entering();
  peer.refuse(asked, 103);
  client.subscribe("room");

  assert.throws(() => room.subscribe(), { name: "InvalidStateError" });
});

// Leaving

test("leaving a topic tells the server and ends the subscription", async () => {
  const { peer, room } = await inside();
  const seen = log(room, "subscribing", "unsubscribed", "publication");

  room.unsubscribe();
  room.unsubscribe();
  peer.publish("room", "late", 4);

  assert.deepEqual((await peer.command("unsubscribe")).body, { channel: "room" });
  assert.deepEqual(seen, [["unsubscribed", { code: 0, reason: "unsubscribe called" }]]);
  assert.equal(room.position, undefined);
});

test("a topic that was left is not subscribed on the next connection", async () => {
  const { window, room } = await inside();
  room.unsubscribe();

  const next = await comeBack(window);

  assert.deepEqual(await next.commands(), []);
});

test("a topic may be left while there is no connection", async () => {
  const { window, client } = await calling();
  const room = client.subscribe("room");

  room.unsubscribe();
  const peer = await welcome(window);

  assert.equal(room.state, "unsubscribed");
  assert.deepEqual(await peer.commands(), []);
});

test("an answer to a subscription that was left is passed over", async () => {
  const { peer, room, asked } = await entering();

  room.unsubscribe();
  peer.answer(asked, {});

  assert.equal(room.state, "unsubscribed");
});

test("an answer to the subscription before the last is not taken for the last", async () => {
  const { client, peer, room, asked } = await entering();
  room.unsubscribe();
  const again = client.subscribe("room");
  await settle();

  peer.answer(asked, { ...STREAM, offset: 3 });

  assert.equal(again.state, "subscribing");
});

test("an unsubscribe that is not answered costs the connection", async () => {
  const site = await online({ timeout: 4 }, { ping: 0 });
  const room = site.client.subscribe("room");
  site.peer.answer(await site.peer.command("subscribe"));
  room.unsubscribe();

  await site.window.advance(4);

  assert.equal(site.client.state, "connecting");
});

// Pushed ends

for (const { code, resubscribe } of vectors.unsubscribe) {
  test(`an unsubscribe push with ${code} is ${resubscribe ? "followed by a recovery" : "final"}`, async () => {
    const { window, peer, room } = await inside();
    const seen = log(room, "unsubscribed", "subscribing");

    peer.push("room", { unsubscribe: { code, reason: "so" } });
    await window.advance(20);

    const asked = (await peer.commands()).filter(({ method }) => method === "subscribe");
    assert.deepEqual(seen, [[resubscribe ? "subscribing" : "unsubscribed", { code, reason: "so" }]]);
    assert.deepEqual(
      asked.map(({ body: { recover, offset, epoch } }) => [recover, offset, epoch]),
      resubscribe ? [[true, 3, "e1"]] : [],
    );
  });
}

test("a state that was invalidated is not continued", async () => {
  const { window, peer, room } = await inside();
  const seen = log(room, "gap");

  peer.push("room", { unsubscribe: { code: 2502, reason: "state invalidated" } });
  await window.advance(0.5);
  const again = await peer.command("subscribe");
  peer.answer(again, { ...STREAM, offset: 4 });

  assert.equal(again.body.recover, undefined);
  assert.equal(seen.length, 1);
});

test("a connection whose state was invalidated continues nothing", async () => {
  const { window, room } = await inside();
  const seen = log(room, "gap");

  window.socket.hangUp(3014, "state invalidated");
  await window.advance(2);
  const next = await welcome(window);
  const again = await next.command("subscribe");
  next.answer(again, { ...STREAM, offset: 4 });

  assert.equal(again.body.recover, undefined);
  assert.equal(seen.length, 1);
});

test("an unsubscribe push for a topic that was left is passed over", async () => {
  const { peer, room } = await inside();
  room.unsubscribe();
  const seen = log(room, "unsubscribed", "subscribing");

  peer.push("room", { unsubscribe: { code: 2500, reason: "again" } });

  assert.deepEqual(seen, []);
});

test("a pause before subscribing again ends with the connection", async () => {
  const { window, peer } = await inside();
  peer.push("room", { unsubscribe: { code: 2500, reason: "again" } });

  const next = await comeBack(window);
  await next.command("subscribe");
  await window.advance(20);

  assert.deepEqual(
    (await next.commands()).filter(({ method }) => method === "subscribe"),
    [],
  );
});

// What can be asked

test("a method of the topic is called through its connection", async () => {
  const { peer, room } = await inside();

  const call = room.call("rename", { to: "tea" });
  const asked = await peer.command("rpc");
  peer.answer(asked, { data: "done" });

  assert.deepEqual(asked.body, {
    method: "$call",
    data: { channel: "room", method: "rename", data: { to: "tea" } },
  });
  assert.equal(await call, "done");
});

test("a call of a topic waits for its subscription", async () => {
  const { peer, room, asked } = await entering();

  const call = room.call("rename");
  assert.deepEqual(await peer.commands(), []);
  peer.answer(asked, {});
  peer.answer(await peer.command("rpc"), { data: 1 });

  assert.equal(await call, 1);
});

test("a call of a topic that is refused is sent, to be refused by the server", async () => {
  const { peer, room, asked } = await entering();
  const call = room.call("rename");

  peer.refuse(asked, 103);
  peer.refuse(await peer.command("rpc"), 103);

  await assert.rejects(call, { code: 103 });
});

test("history is all that is kept, unless the page says less", async () => {
  const { peer, room } = await inside();

  const all = room.history();
  const asked = await peer.command("history");
  peer.answer(asked, { publications: [{ data: 1, offset: 1 }], offset: 3, epoch: "e1" });
  const some = room.history({ limit: 2, since: { offset: 3, epoch: "e1" }, reverse: true });
  const less = await peer.command("history");
  peer.answer(less, {});

  assert.deepEqual(asked.body, { channel: "room", limit: -1 });
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

test("a loop gets the messages from now on, in order", async () => {
  const { peer, room } = await inside();
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

test("a loop goes on over an outage", async () => {
  const { window, peer, room } = await inside();
  const seen: unknown[] = [];
  const loop = (async () => {
    for await (const message of room) if (seen.push(message) === 2) break;
  })();
  peer.publish("room", "a", 4);

  const next = await comeBack(window);
  next.answer(await next.command("subscribe"), { ...STREAM, offset: 4, recovered: true });
  next.publish("room", "b", 5);
  await loop;

  assert.deepEqual(seen, ["a", "b"]);
});

test("a loop that was left listens no more", async () => {
  const { peer, room } = await inside();
  const loop = (async () => {
    for await (const message of room) return message;
    return undefined;
  })();
  peer.publish("room", "a", 4);

  await loop;

  assert.deepEqual(getEventListeners(room, "publication"), []);
  assert.deepEqual(getEventListeners(room, "unsubscribed"), []);
});

test("a loop that is left does not leave the topic", async () => {
  const { peer, room } = await inside();
  const loop = (async () => {
    for await (const message of room) return message;
    return undefined;
  })();

  peer.publish("room", "a", 4);

  assert.equal(await loop, "a");
  assert.equal(room.state, "subscribed");
});

test("a loop ends with what was left to show when the page leaves the topic", async () => {
  const { peer, room } = await inside();
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

test("a loop ends with an error when the server ends the subscription", async () => {
  const { peer, room } = await inside();
  const loop = (async () => {
    for await (const message of room) void message;
  })();
  await settle();

  peer.push("room", { unsubscribe: { code: 2000, reason: "out" } });

  await assert.rejects(loop, { name: "TopicError", code: 2000, message: "out" });
});

test("a loop that cannot follow is told so", async () => {
  const { peer, room } = await inside();
  const loop = (async () => {
    for await (const message of room) void message;
  })();
  await settle();

  for (let n = 0; n < 1001; n++) peer.publish("room", n, 4 + n);

  await assert.rejects(loop, { name: "TopicError", message: /1000 messages behind/ });
});

test("two loops get the same messages", async () => {
  const { peer, room } = await inside();
  const first = async (): Promise<unknown> => {
    for await (const message of room) return message;
    return undefined;
  };
  const loops = [first(), first()];

  peer.publish("room", "a", 4);

  assert.deepEqual(await Promise.all(loops), ["a", "a"]);
});
