/** Write the built file, with its map, where Django and npm take it from. */

import { mkdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { BUDGET, STATIC, bundle, bundleTesting, weigh } from "./bundle.js";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));

const files = await bundle();
const weight = weigh(files.get("tiderace.js"));
if (weight > BUDGET) {
  console.error(`tiderace.js weighs ${weight} bytes after gzip; the budget is ${BUDGET}`);
  process.exit(1);
}
for (const folder of [STATIC, DIST]) {
  await mkdir(folder, { recursive: true });
  for (const [name, contents] of files) await writeFile(folder + name, contents);
}
await writeFile(`${DIST}testing.js`, await bundleTesting());
console.log(`tiderace.js: ${files.get("tiderace.js").length} bytes, ${weight} after gzip`);
