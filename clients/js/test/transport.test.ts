/** Transports: their order, the stored preference, and the connection over HTTP. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, type ClientOptions } from "../src/index.js";
import { FakeWindow, settle } from "./fake_browser.js";
import { withHttp, type FakeRequest, type FakeHttp } from "./fake_http.js";
import { logEvents, Peer, acceptClient } from "./client_setup.js";

interface HttpSetup {
  window: FakeWindow;
  http: FakeHttp;
  client: Client;
}

async function httpClient(
  options: ClientOptions = {},
  prepare?: (http: FakeHttp) => void,
): Promise<HttpSetup> {
  const window = new FakeWindow();
  const http = withHttp(window);
  prepare?.(http);
  const client = new Client("/connection/", { window, ...options });
  await settle();
  return { window, http, client };
}

const CONNECTED = { client: "c1", ping: 25, pong: true, session: "s1", node: "n1" };
const line = (value: object): string => `${JSON.stringify(value)}\n`;

/** A client that is connected over HTTP streaming, and its stream. */
async function streamingClient(options: ClientOptions = {}): Promise<HttpSetup & { stream: FakeRequest }> {
  const setup = await httpClient({ transports: ["http_stream"], ...options });
  const stream = setup.http.requests[0]!;
  stream.respond();
  await settle();
  stream.sendChunk(line({ id: 1, connect: CONNECTED }));
  await settle();
  return { ...setup, stream };
}

const path = (request: FakeRequest): string => new URL(request.url).pathname;

// The choice of a transport

test("WebSocket is tried first", async () => {
  const { window, http } = await httpClient();

  assert.equal(window.sockets.length, 1);
  assert.deepEqual([http.requests, http.sources], [[], []]);
});

test("a transport without any frame is followed by the next, at once", async () => {
  const { window, http } = await httpClient();

  window.socket.break();
  await window.advance(0.01);
  assert.equal(http.requests.length, 1);
  http.requests[0]!.fail();
  await window.advance(0.01);

  assert.equal(http.sources.length, 1);
});

test("after the last transport the first is tried again, after a delay", async () => {
  const { window, http } = await httpClient();
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

test("a WebSocket that opens without any frame is followed by the next transport", async () => {
  const { window, http } = await httpClient();
  window.socket.accept();

  await window.advance(10.1);

  assert.equal(http.requests.length, 1);
});

test("a transport over which the server refused connect is kept", async () => {
  const { window, http } = await httpClient();
  const peer = new Peer(window.socket);
  window.socket.accept();
  peer.replyError(await peer.command("connect"), 111, "too many requests", true);

  await window.advance(2);

  assert.equal(window.sockets.length, 2);
  assert.deepEqual(http.requests, []);
});

test("the transport that worked is stored for the tab", async () => {
  const first = await streamingClient();

  const { http, window } = await httpClient({}, (http) => {
    for (const [key, value] of first.http.storage) http.storage.set(key, value);
  });

  assert.deepEqual([...first.http.storage], [["tiderace", "http_stream"]]);
  assert.equal(http.requests.length, 1);
  assert.equal(window.sockets.length, 0);
});

test("the transport that worked has the first attempts after a delay", async () => {
  const { window, http } = await httpClient();
  await acceptClient(window);

  for (let attempt = 2; attempt < 5; attempt++) {
    window.socket.break();
    await window.advance(0.01);
    assert.equal(window.sockets.length, attempt - 1);
    await window.advance(9);
    assert.equal(window.sockets.length, attempt);
  }

  assert.deepEqual(http.requests, []);
});

test("after three failures of the transport that worked the others are tried", async () => {
  const { window, http } = await httpClient();
  await acceptClient(window);
  for (let attempt = 0; attempt < 4; attempt++) {
    window.socket.break();
    await window.advance(9);
  }

  window.socket.break();
  await window.advance(0.01);

  assert.equal(http.requests.length, 1);
});

test("a transport is chosen without storage too", async () => {
  const window = new FakeWindow();
  const http = withHttp(window);
  Object.defineProperty(window, "sessionStorage", {
    get: () => {
      throw new DOMException("blocked", "SecurityError");
    },
  });
  const client = new Client("/connection/", { window });
  await settle();

  await acceptClient(window);
  assert.equal(client.state, "connected");
  window.socket.break();
  await window.advance(0.5);
  window.socket.break();
  await window.advance(0.01);

  assert.deepEqual(http.requests, []);
});

test("a transport that works again has the first attempts again", async () => {
  const { window, http } = await httpClient();
  await acceptClient(window);
  for (let outage = 0; outage < 3; outage++) {
    for (let attempt = 0; attempt < 2; attempt++) {
      window.socket.break();
      await window.advance(9);
    }
    await acceptClient(window);
  }

  assert.deepEqual(http.requests, []);
});

test("an unknown stored transport is ignored", async () => {
  const { window } = await httpClient({}, (http) => http.storage.set("tiderace", "pigeon"));

  assert.equal(window.sockets.length, 1);
});

test("transports that the browser lacks are skipped", async () => {
  const window = new FakeWindow();
  const http = withHttp(window);
  Object.assign(window, { WebSocket: undefined });

  new Client("/connection/", { window });
  await settle();

  assert.equal(http.requests.length, 1);
});

for (const options of [{ token: "secret" }, { headers: { Authorization: "secret" } }]) {
  test(`secrets are not sent in a URL: ${Object.keys(options)}`, async () => {
    const { window, http } = await httpClient({ ...options, transports: ["http_stream", "sse"] });

    http.requests[0]!.fail();
    await window.advance(10);

    assert.deepEqual(http.sources, []);
    assert.equal(http.requests.length, 2);
  });
}

// HTTP streaming

test("HTTP streaming begins with a POST of the first command", async () => {
  const { http } = await httpClient({ transports: ["http_stream"] });
  const [request] = http.requests;

  assert.equal(request!.url, "https://site.test/connection/http_stream");
  assert.equal(request!.method, "POST");
  assert.deepEqual(request!.headers, { "Content-Type": "application/json" });
  assert.deepEqual(JSON.parse(request!.body), { id: 1, connect: { name: "tiderace", subs: {} } });
});

test("a client is connected over HTTP streaming", async () => {
  const { client } = await streamingClient();

  assert.equal(client.state, "connected");
  assert.equal(client.transport, "http_stream");
});

test("characters and lines may be split over chunks", async () => {
  const { client, stream } = await streamingClient();
  const seen: unknown[] = [];
  client.addEventListener("message", ({ data }) => seen.push(data));
  const bytes = new TextEncoder().encode(line({ push: { message: { data: "grüße 🌊" } } }));

  for (const byte of bytes) stream.sendChunk(Uint8Array.of(byte));
  await settle();

  assert.deepEqual(seen, ["grüße 🌊"]);
});

test("a chunk may hold several lines and the beginning of another", async () => {
  const { client, stream } = await streamingClient();
  const seen: unknown[] = [];
  client.addEventListener("message", ({ data }) => seen.push(data));
  const [a, b, c] = [1, 2, 3].map((data) => line({ push: { message: { data } } }));

  stream.sendChunk(a! + b! + c!.slice(0, 10));
  await settle();
  assert.deepEqual(seen, [1, 2]);
  stream.sendChunk(c!.slice(10));
  await settle();

  assert.deepEqual(seen, [1, 2, 3]);
});

test("commands are sent by POST, with the session", async () => {
  const { http, client } = await streamingClient();

  client.subscribe("room");
  await settle();
  const post = http.requests[1]!;

  assert.equal(post.url, "https://site.test/connection/emulation");
  assert.deepEqual(post.headers, { "Content-Type": "application/json" });
  const { session, node, data } = JSON.parse(post.body);
  assert.deepEqual([session, node], ["s1", "n1"]);
  assert.deepEqual(JSON.parse(data).subscribe, { channel: "room", recoverable: true });
});

test("POST requests are sent one at a time, in order", async () => {
  const { http, client } = await streamingClient();
  for (const topic of ["a", "b"]) {
    client.subscribe(topic);
    await settle();
  }
  assert.equal(http.requests.length, 2);

  http.requests[1]!.respond(204);
  await settle();

  assert.equal(http.requests.length, 3);
  assert.match(http.requests[2]!.body, /"b/);
});

test("pings are answered by POST", async () => {
  const { http, stream } = await streamingClient();

  stream.sendChunk("{}\n");
  await settle();

  assert.deepEqual(JSON.parse(http.requests[1]!.body), { session: "s1", node: "n1", data: "{}" });
});

for (const [what, fail] of [
  ["that finds its session gone", (post: FakeRequest) => post.respond(404)],
  ["that fails", (post: FakeRequest) => post.fail()],
] as const) {
  test(`a POST ${what} ends the connection`, async () => {
    const { window, http, client, stream } = await streamingClient();
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
  const { window, http, client, stream } = await streamingClient();
  const seen = logEvents(client, "connecting");

  stream.end();
  await settle();
  await window.advance(0.5);

  assert.equal(seen.length, 1);
  assert.equal(http.requests.length, 2);
});

test("a refused stream is a failed attempt", async () => {
  const { window, http, client } = await httpClient({ transports: ["http_stream"] });

  http.requests[0]!.respond(403);
  await window.advance(0.5);

  assert.equal(client.state, "connecting");
  assert.equal(http.requests.length, 2);
});

for (const status of [403, 503]) {
  test(`the error of a request that is refused with ${status} has the status`, async () => {
    const { http, client } = await httpClient({ transports: ["http_stream"] });
    const errors = logEvents(client, "error");

    http.requests[0]!.respond(status);
    await settle();

    assert.deepEqual(errors.map(([, error]) => String(error)), [`Error: HTTP ${status}`]);
  });
}

test("the error of a request that fails is that of fetch", async () => {
  const { http, client } = await httpClient({ transports: ["http_stream"] });
  const errors = logEvents(client, "error");

  http.requests[0]!.fail();
  await settle();

  assert.deepEqual(errors.map(([, error]) => String(error)), ["TypeError: network error"]);
});

test("a stream that does not begin in time is a failed attempt", async () => {
  const { window, http } = await httpClient({ transports: ["http_stream"] });

  await window.advance(10);

  assert.equal(http.requests[0]!.isAborted, true);
});

test("a disconnect push ends the stream and the client", async () => {
  const { client, stream } = await streamingClient();
  const seen = logEvents(client, "disconnected");

  stream.sendChunk(line({ push: { disconnect: { code: 3501, reason: "bad request" } } }));
  await settle();

  assert.deepEqual(seen, [["disconnected", { code: 3501, reason: "bad request" }]]);
  assert.equal(stream.isAborted, true);
});

test("disconnect ends the stream and sends nothing more", async () => {
  const { window, http, client, stream } = await streamingClient();
  client.subscribe("room");

  client.disconnect();
  await settle();

  assert.equal(stream.isAborted, true);
  assert.equal(http.requests.length, 1);
  assert.equal(window.listeners, 0);
  assert.equal(window.timers, 0);
});

test("a client over HTTP connects again after a disconnect", async () => {
  const { http, client } = await streamingClient();

  client.disconnect();
  client.connect();
  await settle();

  assert.equal(client.state, "connecting");
  assert.equal(http.requests.length, 2);
});

test("a page in the page cache ends the stream", async () => {
  const { window, client, stream } = await streamingClient();

  window.fire("pagehide");

  assert.equal(stream.isAborted, true);
  assert.equal(client.state, "connecting");
});

test("a timeout of a stream that the page cache ended does not affect the next", async () => {
  const { window, http, client } = await httpClient({ transports: ["http_stream"] });
  window.fire("pagehide");
  await window.advance(5);
  window.fire("pageshow");
  await settle();
  http.requests[1]!.respond();
  await settle();
  http.requests[1]!.sendChunk(line({ id: 2, connect: CONNECTED }));
  await settle();
  assert.equal(client.state, "connected");

  await window.advance(9);

  assert.equal(client.state, "connected");
});

// Server-sent events

async function eventSourceClient(): Promise<HttpSetup & { source: FakeHttp["sources"][number] }> {
  const setup = await httpClient({ transports: ["sse"] });
  const source = setup.http.sources[0]!;
  source.onopen!();
  source.onmessage!({ data: JSON.stringify({ id: 1, connect: CONNECTED }) });
  return { ...setup, source };
}

test("an event source has the first command in its URL", async () => {
  const { source } = await eventSourceClient();
  const url = new URL(source.url);

  assert.equal(url.origin + url.pathname, "https://site.test/connection/sse");
  assert.deepEqual(JSON.parse(url.searchParams.get("cf_connect")!), {
    id: 1,
    connect: { name: "tiderace", subs: {} },
  });
});

test("a client is connected over server-sent events and sends commands by POST", async () => {
  const { http, client } = await eventSourceClient();

  client.subscribe("room");
  await settle();

  assert.equal(client.transport, "sse");
  assert.equal(http.requests[0]!.url, "https://site.test/connection/emulation");
});

test("an event may hold several lines", async () => {
  const { client, source } = await eventSourceClient();
  const seen = logEvents(client, "message");
  const push = JSON.stringify({ push: { message: { data: 1 } } });

  source.onmessage!({ data: `${push}\n${push}` });

  assert.equal(seen.length, 2);
});

test("an event source that fails is closed", async () => {
  const { window, http, client, source } = await eventSourceClient();

  source.onerror!();
  await settle();
  assert.equal(source.isClosed, true);
  assert.equal(client.state, "connecting");
  await window.advance(0.5);

  assert.equal(http.sources.length, 2);
});
