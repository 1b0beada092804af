/** The built file that is committed: current, small, and with its map. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { BUDGET, STATIC, bundle, bundleTesting, gzipSize } from "../scripts/bundle.js";

const files = await bundle();

for (const [name, contents] of files) {
  test(`the committed ${name} equals a fresh build`, async () => {
    const committed = await readFile(STATIC + name, "utf8");

    assert.equal(
      committed === Buffer.from(contents).toString(),
      true,
      `${name} is stale: run "npm run build" in clients/js and commit the result`,
    );
  });
}

test("the build is the client, what it rarely needs, and the script of the admin's page", () => {
  assert.deepEqual([...files.keys()].sort(), [
    "admin.js",
    "grow.js",
    "grow.js.map",
    "stream.js",
    "stream.js.map",
    "tiderace.js",
    "tiderace.js.map",
  ]);
});

test(`the built file has at most ${BUDGET} bytes after gzip`, () => {
  const size = gzipSize(files.get("tiderace.js"));

  assert.ok(size <= BUDGET, `${size} bytes`);
});

for (const name of ["tiderace.js", "grow.js", "stream.js"]) {
  test(`${name} imports nothing and names its map`, () => {
    const text = Buffer.from(files.get(name)).toString();

    assert.doesNotMatch(text, /\bimport\b/);
    assert.ok(text.endsWith(`\n//# sourceMappingURL=${name}.map\n`));
  });
}

test("the public names are the classes and the two functions", async () => {
  const module = await import(`${STATIC}tiderace.js`);

  assert.deepEqual(Object.keys(module).sort(), [
    "Client",
    "Socket",
    "Subscription",
    "TopicError",
    "UnauthorizedError",
    "connect",
    "topics",
  ]);
});

test("the test in the guide passes", async (context) => {
  const guide = await readFile(new URL("../../../docs/guides/browser-client.md", import.meta.url), "utf8");
  const [, example] = /```js\n([^`]*node:test[^`]*)```/.exec(guide);
  const folder = await mkdtemp(`${tmpdir()}/tiderace-`);
  context.after(() => rm(folder, { recursive: true }));
  await writeFile(`${folder}/tiderace.mjs`, files.get("tiderace.js"));
  await writeFile(`${folder}/testing.mjs`, await bundleTesting());
  await writeFile(
    `${folder}/room.test.mjs`,
    example.replace('"tiderace"', '"./tiderace.mjs"').replace('"tiderace/testing"', '"./testing.mjs"'),
  );
  // The environment of this runner would make the child report to it.
  const { NODE_TEST_CONTEXT, ...env } = process.env;

  const run = spawnSync(process.execPath, ["--test", `${folder}/room.test.mjs`], {
    encoding: "utf8",
    env,
  });

  assert.equal(run.status, 0, run.stdout + run.stderr);
  assert.match(run.stdout, /\bpass 1\b/);
});

test("the fake server contains no client", async () => {
  const text = Buffer.from(await bundleTesting()).toString();

  assert.doesNotMatch(text, /class Client|\bimport\b/);
});

test("the npm package has the version of the Python package", async () => {
  const manifest = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8"));
  const python = await readFile(new URL("../../../src/tiderace/__init__.py", import.meta.url), "utf8");

  assert.equal(manifest.version, /__version__ = "(.+)"/.exec(python)[1]);
});
