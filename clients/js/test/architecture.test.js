/** The structure of the sources. */

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { test } from "node:test";

const FOLDER = new URL("../src/", import.meta.url);
const sources = await Promise.all(
  (await readdir(FOLDER)).map(async (name) => [name, await readFile(new URL(name, FOLDER), "utf8")]),
);

/** Return a circle of a graph (name to names) as a list of names, or undefined. */
function findCircle(graph) {
  const done = new Set();
  const visit = (name, path) => {
    if (path.includes(name)) return [...path.slice(path.indexOf(name)), name];
    if (done.has(name)) return undefined;
    done.add(name);
    for (const next of graph.get(name) ?? []) {
      const circle = visit(next, [...path, name]);
      if (circle) return circle;
    }
    return undefined;
  };
  for (const name of graph.keys()) {
    const circle = visit(name, []);
    if (circle) return circle;
  }
  return undefined;
}

/** The names of types in the declarations and initial values of fields, not in functions. */
function fieldTypes(body) {
  const fields = body.matchAll(/^ {2}(?:readonly |declare )*[#\w]+\??(?:: | = )([^;(]*)/gm);
  const parameters = body.matchAll(/^ {4}readonly \w+: ([^;(]*)/gm);
  return [...fields, ...parameters].flatMap(([, type]) => type.match(/\b[A-Z]\w+/g) ?? []);
}

test("imports form no circle, those of types included", () => {
  const graph = new Map();
  for (const [name, text] of sources) {
    const imports = [...text.matchAll(/ from "\.\/(\w+)\.js"/g)];
    graph.set(name, imports.map(([, target]) => `${target}.ts`));
  }

  assert.ok(graph.get("client.ts").includes("subscription.ts"));
  assert.equal(findCircle(graph), undefined);
});

test("no object holds an object that holds it", () => {
  const graph = new Map();
  for (const [, text] of sources) {
    const types = text.matchAll(
      /^(?:export )?(?:class|interface) (\w+)(?:<[^{]*>)?(?: extends (\w+))?[^{]*\{\n(.*?)^\}/gms,
    );
    for (const [, name, base, body] of types) {
      graph.set(name, [...(graph.get(name) ?? []), ...(base ? [base] : []), ...fieldTypes(body)]);
    }
  }

  assert.ok(graph.get("Client").includes("Subscription"));
  assert.ok(graph.get("Subscription").includes("SubscriptionContext"));
  assert.equal(findCircle(graph), undefined);
});
