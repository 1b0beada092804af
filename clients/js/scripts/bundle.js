/** The one recipe of the built file; knows nothing of where it is put. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The folder from which Django serves the client. */
export const STATIC = here("../../../src/tiderace/static/tiderace/");

/** Bytes after gzip that the whole client may cost. */
export const BUDGET = 8 * 1024;

/** Build in memory: file name to contents. */
export async function bundle() {
  const { version } = JSON.parse(await readFile(here("../package.json"), "utf8"));
  const result = await build({
    absWorkingDir: here(".."),
    entryPoints: ["src/index.ts"],
    outfile: `${STATIC}tiderace.js`,
    bundle: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    minify: true,
    // What one class shows only to another of ours begins with an underscore.
    mangleProps: /^_[a-z]/,
    sourcemap: "linked",
    banner: { js: `/*! Tiderace ${version}, BSD-3-Clause */` },
    write: false,
  });
  return new Map(result.outputFiles.map((file) => [file.path.split(/[\\/]/).pop(), file.contents]));
}

/** The fake server, for tests of pages: readable, and no part of what is served. */
export async function bundleTesting() {
  const result = await build({
    absWorkingDir: here(".."),
    entryPoints: ["src/testing.ts"],
    bundle: true,
    format: "esm",
    target: "es2022",
    write: false,
  });
  return result.outputFiles[0].contents;
}

export function weigh(contents) {
  return gzipSync(contents, { level: 9 }).length;
}
