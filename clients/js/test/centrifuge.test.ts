/** The npm client `centrifuge` on pushes that only Tiderace sends. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Centrifuge } from "centrifuge";

/** A WebSocket whose server accepts every command. */
class Server {
  static last: Server;
  onopen = (): void => {};
  onmessage = (_event: { data: string }): void => {};
  onclose = (_event: object): void => {};
  onerror = (): void => {};
  readyState = 1;

  constructor() {
    Server.last = this;
    queueMicrotask(() => this.onopen());
  }

  send(text: string): void {
    for (const line of text.split("\n")) {
      const { id, connect, subscribe } = JSON.parse(line);
      if (connect) this.deliver({ id, connect: { client: "c", version: "1" } });
      if (subscribe) this.deliver({ id, subscribe: {} });
    }
  }

  close(): void {
    this.onclose({ code: 1000, reason: "" });
  }

  deliver(reply: object): void {
    queueMicrotask(() => this.onmessage({ data: JSON.stringify(reply) }));
  }
}

test("the npm client ignores an unknown push", async () => {
  const client = new Centrifuge("ws://site.test/", { websocket: Server });
  const room = client.newSubscription("room", { joinLeave: true });
  const seen: string[] = [];
  for (const kind of ["join", "leave", "error", "subscribing", "unsubscribed"] as const) {
    room.on(kind, () => seen.push(kind));
  }
  for (const kind of ["message", "error", "disconnected"] as const) {
    client.on(kind, () => seen.push(kind));
  }
  room.subscribe();
  client.connect();
  await room.ready();
  seen.length = 0;

  const received = new Promise((done) => room.on("publication", ({ data }) => done(data)));
  Server.last.deliver({ push: { channel: "room", changed: {} } });
  Server.last.deliver({ push: { channel: "room", pub: { data: "afterwards" } } });

  assert.equal(await received, "afterwards");
  assert.deepEqual(seen, []);
  client.disconnect();
});
