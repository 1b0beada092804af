/** Compile the TypeScript tests and run all tests with Node's test runner. */

import { spawnSync } from "node:child_process";
import { readdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const OUT = `${ROOT}.build`;

const names = await readdir(`${ROOT}test`);
const compiled = names.filter((name) => name.endsWith(".test.ts"));
const plain = names.filter((name) => name.endsWith(".test.js"));

await rm(OUT, { recursive: true, force: true });
await build({
  absWorkingDir: ROOT,
  entryPoints: compiled.map((name) => `test/${name}`),
  outdir: OUT,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  format: "esm",
  platform: "node",
  target: "node20",
  sourcemap: "inline",
});
const run = spawnSync(
  process.execPath,
  [
    "--enable-source-maps",
    "--test",
    ...process.argv.slice(2),
    ...compiled.map((name) => `${OUT}/${name.replace(/ts$/, "mjs")}`),
    ...plain.map((name) => `${ROOT}test/${name}`),
  ],
  { cwd: ROOT, stdio: "inherit" },
);
process.exit(run.status ?? 1);
