/** Code of pages that compiles, or does not; `npm run check` checks it. */

import { test } from "node:test";
import { Client, topics, type Subscription } from "../src/index.js";
import { FakeWindow } from "./fake_browser.js";

interface Line {
  text: string;
}

interface Topics {
  [room: `room:${string}`]: Line;
  orders: { id: number };
}

interface Calls {
  [room: `room:${string}`]: {
    rename(data: { to: string }): boolean;
    count(): number;
  };
}

interface Sends {
  [room: `room:${string}`]: { draft: string };
}

const options = { window: new FakeWindow() };

test("a subscription of a client with a map has the map's type", () => {
  const client = new Client<Topics>(undefined, options);
  const room: Subscription<Line> = client.subscribe("room:lobby");

  room.addEventListener("publication", ({ data, detail }) => [data.text, detail.offset]);
  room.addEventListener("error", ({ error }) => error);
  // @ts-expect-error an order is no line
  const wrong: Subscription<Line> = client.subscribe("orders");
  void wrong;
});

test("a topic that the map lacks is refused", () => {
  const client = new Client<Topics>(undefined, options);

  // @ts-expect-error misspelt
  client.subscribe("rom:lobby");
});

test("a publication has the topic's type", () => {
  const client = new Client<Topics>(undefined, options);

  client.publish("orders", { id: 1 }).catch(() => undefined);
  // @ts-expect-error a line has text
  client.subscribe("room:lobby").publish({ id: 1 }).catch(() => undefined);
});

test("a listener of a topic gets the topic's type", () => {
  const client = topics<Topics, Calls>(options);

  client.listen("room:lobby", {
    publication: ({ data }, room) => {
      const line: Line = data;
      void [line, () => room.call("rename", { to: "tea" })];
    },
  });
  // @ts-expect-error an order has no text
  client.listen("orders", { publication: ({ data }) => data.text });
  // @ts-expect-error there is no such event
  client.listen("orders", { published: () => undefined });
});

test("what is published may have another type than what is received", () => {
  const client = topics<Topics, Calls, Sends>(options);
  const room = client.subscribe("room:lobby");

  room.addEventListener("publication", ({ data }) => data.text);
  room.publish({ draft: "hi" }).catch(() => undefined);
  client.publish("room:lobby", { draft: "hi" }).catch(() => undefined);
  // @ts-expect-error a line is received, not sent
  room.publish({ text: "hi" }).catch(() => undefined);
});

test("a topic that pages may not publish to takes nothing", () => {
  const client = topics<Topics, Calls, Sends>(options);

  // @ts-expect-error nothing can be sent
  client.subscribe("orders").publish({ id: 1 }).catch(() => undefined);
  // @ts-expect-error likewise
  client.publish("orders", { id: 1 }).catch(() => undefined);
});

test("without a map a subscription may name its type", () => {
  const client = topics(options);
  const room = client.subscribe<Line>("anything");

  void (async (): Promise<string[]> => {
    const seen: string[] = [];
    for await (const { text } of room) seen.push(text);
    return seen;
  });
});

test("methods of a topic have the map's types", () => {
  const room = topics<Topics, Calls>(options).subscribe("room:lobby");
  const quiet = <R>(promise: Promise<R>): Promise<R | void> => promise.catch(() => undefined);

  const renamed: Promise<boolean | void> = quiet(room.call("rename", { to: "tea" }));
  const count: Promise<number | void> = quiet(room.call("count"));
  void [renamed, count];
  // @ts-expect-error it is called rename
  void quiet(room.call("renam", { to: "tea" }));
  // @ts-expect-error a name is a string
  void quiet(room.call("rename", { to: 1 }));
});

test("a topic without methods in the map has none", () => {
  const orders = topics<Topics, Calls>(options).subscribe("orders");

  // @ts-expect-error nothing can be called
  orders.call("rename").catch(() => undefined);
});

test("without a map a call may name its result", () => {
  const room = topics(options).subscribe("room");

  const count: Promise<number> = room.call<number>("count", { any: "thing" });
  count.catch(() => undefined);
  room.call("count").catch(() => undefined);
});

test("a listener that is a function has the target as this", () => {
  const client = topics(options);

  client.addEventListener("connected", function () {
    this.send("hi");
  });
});
