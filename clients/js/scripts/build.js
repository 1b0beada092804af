/** Write the built file and its map to the folders from which Django and npm serve them. */

import { mkdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { BUDGET, STATIC, bundle, bundleTesting, gzipSize } from "./bundle.js";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));

const files = await bundle();
const gzipSizet = gzipSize(files.get("tiderace.js"));
if (gzipSizet > BUDGET) {
  console.error(`tiderace.js gzipSizes ${gzipSizet} bytes after gzip; the budget is ${BUDGET}`);
  process.exit(1);
}
for (const folder of [STATIC, DIST]) {
  await mkdir(folder, { recursive: true });
  for (const [name, contents] of files) await writeFile(folder + name, contents);
}
await writeFile(`${DIST}testing.js`, await bundleTesting());
console.log(`tiderace.js: ${files.get("tiderace.js").length} bytes, ${gzipSizet} after gzip`);
