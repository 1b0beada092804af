/** `connect()` and the settings that a template tag wrote into the page. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { afterEach, test } from "node:test";
import { connect } from "../src/index.js";
import { DEFAULTS } from "../src/options.js";
import { FakeWindow, settle } from "./fake_browser.js";

const CONFIG = "script#tiderace-config";

function page(settings: string | undefined): void {
  const querySelector = (selector: string): unknown =>
    selector === CONFIG && settings !== undefined ? { textContent: settings } : null;
  Object.assign(globalThis, { document: { querySelector } });
}

afterEach(() => {
  Object.assign(globalThis, { document: undefined });
});

test("the page's settings apply to a socket without options", async () => {
  page('{"base": "/live/"}');

  const socket = connect("room/", { window: new FakeWindow() });

  assert.equal(socket.url, "wss://site.test/live/room/");
});

test("another element with the id of the settings is not read", async () => {
  const asked: string[] = [];
  const comment = { textContent: '{"base": "wss://evil.test/"}' };
  const document = {
    getElementById: () => comment,
    querySelector: (selector: string) => (asked.push(selector), null),
  };
  Object.assign(globalThis, { document });

  const socket = connect("room/", { window: new FakeWindow() });

  assert.equal(new URL(socket.url).host, "site.test");
  assert.deepEqual(asked, [CONFIG]);
});

test("without a url the base is the url", async () => {
  page('{"base": "/live/"}');

  const socket = connect(undefined, { window: new FakeWindow() });

  assert.equal(socket.url, "wss://site.test/live/");
});

test("a given option overrides the page's", async () => {
  page('{"base": "/live/"}');

  const socket = connect("room/", { base: "/other/", window: new FakeWindow() });

  assert.equal(socket.url, "wss://site.test/other/room/");
});

test("the defaults apply in a page without settings", async () => {
  page(undefined);

  const socket = connect("/ws/", { window: new FakeWindow() });

  assert.equal(socket.url, "wss://site.test/ws/");
});

test("the defaults apply outside a page", async () => {
  const socket = connect("/ws/", { window: new FakeWindow() });

  assert.equal(socket.url, "wss://site.test/ws/");
});

test("subprotocols are an option of connect", async () => {
  const window = new FakeWindow();

  connect("/ws/", { protocols: ["chat"], window });
  await settle();

  assert.deepEqual(window.socket.protocols, ["chat"]);
});

test("settings with a misspelt name are refused", () => {
  page('{"heart_beat": 25}');

  assert.throws(() => connect("/ws/"), /unknown option "heart_beat"/);
});

test("every option is in the guide's table", async () => {
  const guide = await readFile("../../docs/guides/browser-socket.md", "utf8");

  for (const name of Object.keys(DEFAULTS)) assert.ok(guide.includes(`\n| \`${name}\` | `), name);
});
