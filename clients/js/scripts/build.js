/** Write the built file and its map to the folders from which Django and npm serve them. */

import { mkdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { BUDGET, STATIC, bundle, bundleTesting, gzipSize } from "./bundle.js";

const DIST = fileURLToPath(new URL("../dist/", import.meta.url));

const files = await bundle();
const size = gzipSize(files.get("tiderace.js"));
if (size > BUDGET) {
  console.error(`tiderace.js has ${size} bytes after gzip; the budget is ${BUDGET}`);
  process.exit(1);
}
for (const folder of [STATIC, DIST]) {
  await mkdir(folder, { recursive: true });
  for (const [name, contents] of files) {
    if (folder === STATIC || name !== "admin.js") await writeFile(folder + name, contents);
  }
}
await writeFile(`${DIST}testing.js`, await bundleTesting());
console.log(`tiderace.js: ${files.get("tiderace.js").length} bytes, ${size} after gzip`);
