/** The ways to the server: tried in order, remembered, and what HTTP makes of them. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, type ClientOptions } from "../src/index.js";
import { FakeWindow, settle } from "./fakes.js";
import { withHttp, type FakeRequest, type Http } from "./http.js";
import { log, Peer, welcome } from "./peer.js";

interface Site {
  window: FakeWindow;
  http: Http;
  client: Client;
}

async function site(options: ClientOptions = {}, prepare?: (http: Http) => void): Promise<Site> {
  const window = new FakeWindow();
  const http = withHttp(window);
  prepare?.(http);
  const client = new Client("/connection/", { window, ...options });
  await settle();
  return { window, http, client };
}

const WELCOME = { client: "c1", ping: 25, pong: true, session: "s1", node: "n1" };
const line = (value: object): string => `${JSON.stringify(value)}\n`;

/** The stream of a client that is connected over HTTP streaming. */
async function streaming(options: ClientOptions = {}): Promise<Site & { stream: FakeRequest }> {
  const world = await site({ transports: ["http_stream"], ...options });
  const stream = world.http.requests[0]!;
  stream.answer();
  await settle();
  stream.feed(line({ id: 1, connect: WELCOME }));
  await settle();
  return { ...world, stream };
}

const path = (request: FakeRequest): string => new URL(request.url).pathname;

// Which

test("WebSocket is tried first", async () => {
  const { window, http } = await site();

  assert.equal(window.sockets.length, 1);
  assert.deepEqual([http.requests, http.sources], [[], []]);
});

test("what fails before it said anything is followed by the next, at once", async () => {
  const { window, http } = await site();

  window.socket.break();
  await window.advance(0.01);
  assert.equal(http.requests.length, 1);
  http.requests[0]!.fail();
  await window.advance(0.01);

  assert.equal(http.sources.length, 1);
});

test("after the last there is a pause, and the first again", async () => {
  const { window, http } = await site();
  window.socket.break();
  await window.advance(0.01);
  http.requests[0]!.fail();
  await window.advance(0.01);
  http.sources[0]!.onerror!();
  await window.advance(0.3);
  assert.equal(window.sockets.length, 1);

  await window.advance(0.3);

  assert.equal(window.sockets.length, 2);
});

test("a WebSocket that opens and says nothing is followed by the next", async () => {
  const { window, http } = await site();
  window.socket.accept();

  await window.advance(10.1);

  assert.equal(http.requests.length, 1);
});

test("a way that was refused by the server itself is not left", async () => {
  const { window, http } = await site();
  const peer = new Peer(window.socket);
  window.socket.accept();
  peer.refuse(await peer.command("connect"), 111, "too many requests", true);

  await window.advance(2);

  assert.equal(window.sockets.length, 2);
  assert.deepEqual(http.requests, []);
});

test("the way that worked is remembered in the tab", async () => {
  const first = await streaming();

  const { http, window } = await site({}, (http) => {
    for (const [key, value] of first.http.storage) http.storage.set(key, value);
  });

  assert.deepEqual([...first.http.storage], [["tiderace-transport", "http_stream"]]);
  assert.equal(http.requests.length, 1);
  assert.equal(window.sockets.length, 0);
});

test("the way that worked comes back with a pause, and is alone at first", async () => {
  const { window, http } = await site();
  await welcome(window);

  for (let attempt = 2; attempt < 5; attempt++) {
    window.socket.break();
    await window.advance(0.01);
    assert.equal(window.sockets.length, attempt - 1);
    await window.advance(9);
    assert.equal(window.sockets.length, attempt);
  }

  assert.deepEqual(http.requests, []);
});

test("a way that worked once and fails three times is not the only one for ever", async () => {
  const { window, http } = await site();
  await welcome(window);
  for (let attempt = 0; attempt < 4; attempt++) {
    window.socket.break();
    await window.advance(9);
  }

  window.socket.break();
  await window.advance(0.01);

  assert.equal(http.requests.length, 1);
});

test("a browser that refuses storage has its way all the same", async () => {
  const window = new FakeWindow();
  const http = withHttp(window);
  Object.defineProperty(window, "sessionStorage", {
    get: () => {
      throw new DOMException("blocked", "SecurityError");
    },
  });
  const client = new Client("/connection/", { window });
  await settle();

  await welcome(window);
  assert.equal(client.state, "connected");
  window.socket.break();
  await window.advance(0.5);
  window.socket.break();
  await window.advance(0.01);

  assert.deepEqual(http.requests, []);
});

test("a way that works again has its first attempts for itself again", async () => {
  const { window, http } = await site();
  await welcome(window);
  for (let outage = 0; outage < 3; outage++) {
    for (let attempt = 0; attempt < 2; attempt++) {
      window.socket.break();
      await window.advance(9);
    }
    await welcome(window);
  }

  assert.deepEqual(http.requests, []);
});

test("a remembered way that does not exist any more is passed over", async () => {
  const { window } = await site({}, (http) => http.storage.set("tiderace-transport", "pigeon"));

  assert.equal(window.sockets.length, 1);
});

test("ways that the browser does not have are passed over", async () => {
  const window = new FakeWindow();
  const http = withHttp(window);
  Object.assign(window, { WebSocket: undefined });

  new Client("/connection/", { window });
  await settle();

  assert.equal(http.requests.length, 1);
});

for (const options of [{ token: "secret" }, { headers: { Authorization: "secret" } }]) {
  test(`what is secret does not stand in an address: ${Object.keys(options)}`, async () => {
    const { window, http } = await site({ ...options, transports: ["http_stream", "sse"] });

    http.requests[0]!.fail();
    await window.advance(10);

    assert.deepEqual(http.sources, []);
    assert.equal(http.requests.length, 2);
  });
}

// HTTP streaming

test("HTTP streaming begins with a POST of the first command", async () => {
  const { http } = await site({ transports: ["http_stream"] });
  const [request] = http.requests;

  assert.equal(request!.url, "https://site.test/connection/http_stream");
  assert.equal(request!.method, "POST");
  assert.deepEqual(request!.headers, { "Content-Type": "application/json" });
  assert.deepEqual(JSON.parse(request!.body), { id: 1, connect: { name: "tiderace", subs: {} } });
});

test("a client is connected over HTTP streaming", async () => {
  const { client } = await streaming();

  assert.equal(client.state, "connected");
  assert.equal(client.transport, "http_stream");
});

test("characters and lines may be split over chunks", async () => {
  const { client, stream } = await streaming();
  const seen: unknown[] = [];
  client.addEventListener("message", ({ data }) => seen.push(data));
  const bytes = new TextEncoder().encode(line({ push: { message: { data: "grüße 🌊" } } }));

  for (const byte of bytes) stream.feed(Uint8Array.of(byte));
  await settle();

  assert.deepEqual(seen, ["grüße 🌊"]);
});

test("a chunk may hold several lines and the beginning of another", async () => {
  const { client, stream } = await streaming();
  const seen: unknown[] = [];
  client.addEventListener("message", ({ data }) => seen.push(data));
  const [a, b, c] = [1, 2, 3].map((data) => line({ push: { message: { data } } }));

  stream.feed(a! + b! + c!.slice(0, 10));
  await settle();
  assert.deepEqual(seen, [1, 2]);
  stream.feed(c!.slice(10));
  await settle();

  assert.deepEqual(seen, [1, 2, 3]);
});

test("commands go up by POST, in the name of the session", async () => {
  const { http, client } = await streaming();

  client.subscribe("room");
  await settle();
  const post = http.requests[1]!;

  assert.equal(post.url, "https://site.test/connection/emulation");
  assert.deepEqual(post.headers, { "Content-Type": "application/json" });
  const { session, node, data } = JSON.parse(post.body);
  assert.deepEqual([session, node], ["s1", "n1"]);
  assert.deepEqual(JSON.parse(data).subscribe, { channel: "room", recoverable: true });
});

test("POSTs go up one at a time, in order", async () => {
  const { http, client } = await streaming();
  for (const topic of ["a", "b"]) {
    client.subscribe(topic);
    await settle();
  }
  assert.equal(http.requests.length, 2);

  http.requests[1]!.answer(204);
  await settle();

  assert.equal(http.requests.length, 3);
  assert.match(http.requests[2]!.body, /"b/);
});

test("pings are answered by POST", async () => {
  const { http, stream } = await streaming();

  stream.feed("{}\n");
  await settle();

  assert.deepEqual(JSON.parse(http.requests[1]!.body), { session: "s1", node: "n1", data: "{}" });
});

for (const [what, fail] of [
  ["that finds its session gone", (post: FakeRequest) => post.answer(404)],
  ["that fails", (post: FakeRequest) => post.fail()],
] as const) {
  test(`a POST ${what} ends the connection`, async () => {
    const { window, http, client, stream } = await streaming();
    client.subscribe("room");
    await settle();

    fail(http.requests[1]!);
    await settle();
    assert.equal(client.state, "connecting");
    await window.advance(0.5);

    assert.equal(stream.isAborted, true);
    assert.equal(path(http.requests.at(-1)!), "/connection/http_stream");
  });
}

test("a stream that ends is a lost connection", async () => {
  const { window, http, client, stream } = await streaming();
  const seen = log(client, "connecting");

  stream.end();
  await settle();
  await window.advance(0.5);

  assert.equal(seen.length, 1);
  assert.equal(http.requests.length, 2);
});

test("a stream that is refused is a failed attempt", async () => {
  const { window, http, client } = await site({ transports: ["http_stream"] });

  http.requests[0]!.answer(403);
  await window.advance(0.5);

  assert.equal(client.state, "connecting");
  assert.equal(http.requests.length, 2);
});

test("a stream that does not begin in time is given up", async () => {
  const { window, http } = await site({ transports: ["http_stream"] });

  await window.advance(10);

  assert.equal(http.requests[0]!.isAborted, true);
});

test("a disconnect that is pushed ends the stream and the client", async () => {
  const { client, stream } = await streaming();
  const seen = log(client, "disconnected");

  stream.feed(line({ push: { disconnect: { code: 3501, reason: "bad request" } } }));
  await settle();

  assert.deepEqual(seen, [["disconnected", { code: 3501, reason: "bad request" }]]);
  assert.equal(stream.isAborted, true);
});

test("disconnecting ends the stream and sends nothing more", async () => {
  const { window, http, client, stream } = await streaming();
  client.subscribe("room");

  client.disconnect();
  await settle();

  assert.equal(stream.isAborted, true);
  assert.equal(http.requests.length, 1);
  assert.equal(window.listeners, 0);
  assert.equal(window.timers, 0);
});

test("a client over HTTP connects again after a disconnect", async () => {
  const { http, client } = await streaming();

  client.disconnect();
  client.connect();
  await settle();

  assert.equal(client.state, "connecting");
  assert.equal(http.requests.length, 2);
});

test("a page that is put away ends the stream", async () => {
  const { window, client, stream } = await streaming();

  window.fire("pagehide");

  assert.equal(stream.isAborted, true);
  assert.equal(client.state, "connecting");
});

test("a stream that the page cache cut off has no say in the next", async () => {
  const { window, http, client } = await site({ transports: ["http_stream"] });
  window.fire("pagehide");
  await window.advance(5);
  window.fire("pageshow");
  await settle();
  http.requests[1]!.answer();
  await settle();
  http.requests[1]!.feed(line({ id: 2, connect: WELCOME }));
  await settle();
  assert.equal(client.state, "connected");

  await window.advance(9);

  assert.equal(client.state, "connected");
});

// Server-sent events

async function listening(): Promise<Site & { source: Http["sources"][number] }> {
  const world = await site({ transports: ["sse"] });
  const source = world.http.sources[0]!;
  source.onopen!();
  source.onmessage!({ data: JSON.stringify({ id: 1, connect: WELCOME }) });
  return { ...world, source };
}

test("an event source has the first command in its address", async () => {
  const { source } = await listening();
  const url = new URL(source.url);

  assert.equal(url.origin + url.pathname, "https://site.test/connection/sse");
  assert.deepEqual(JSON.parse(url.searchParams.get("cf_connect")!), {
    id: 1,
    connect: { name: "tiderace", subs: {} },
  });
});

test("a client is connected over server-sent events, and POSTs its commands", async () => {
  const { http, client } = await listening();

  client.subscribe("room");
  await settle();

  assert.equal(client.transport, "sse");
  assert.equal(http.requests[0]!.url, "https://site.test/connection/emulation");
});

test("an event may hold several lines", async () => {
  const { client, source } = await listening();
  const seen = log(client, "message");
  const push = JSON.stringify({ push: { message: { data: 1 } } });

  source.onmessage!({ data: `${push}\n${push}` });

  assert.equal(seen.length, 2);
});

test("an event source that fails is not left to itself", async () => {
  const { window, http, client, source } = await listening();

  source.onerror!();
  await settle();
  assert.equal(source.isClosed, true);
  assert.equal(client.state, "connecting");
  await window.advance(0.5);

  assert.equal(http.sources.length, 2);
});
