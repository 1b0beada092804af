/** How the client is built, in memory. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The folder from which Django serves the client. */
export const STATIC = here("../../../src/tiderace/static/tiderace/");

/** The most bytes of the whole client after gzip. */
export const BUDGET = 10 * 1024;

/** Return the built files with their maps, and the script of the admin's page: name to contents. */
export async function bundle() {
  const { version } = JSON.parse(await readFile(here("../package.json"), "utf8"));
  const options = {
    absWorkingDir: here(".."),
    bundle: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    minify: true,
    // Names with an underscore are internal to the client.
    mangleProps: /^_[a-z]/,
    banner: { js: `/*! Tiderace ${version}, BSD-3-Clause */` },
    write: false,
  };
  const results = await Promise.all([
    ...["index", "grow", "stream"].map((source) =>
      build({
        ...options,
        entryPoints: [`src/${source}.ts`],
        outfile: `${STATIC}${source === "index" ? "tiderace" : source}.js`,
        sourcemap: "linked",
      }),
    ),
    build({ ...options, entryPoints: ["src/admin.ts"], outfile: `${STATIC}admin.js` }),
  ]);
  const outputs = results.flatMap(({ outputFiles }) => outputFiles);
  return new Map(outputs.map((file) => [file.path.split(/[\\/]/).pop(), file.contents]));
}

/** Return the fake server for tests of pages: not minified, and not part of the client. */
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

/** Return the size after gzip, in bytes. */
export function gzipSize(contents) {
  return gzipSync(contents, { level: 9 }).length;
}
