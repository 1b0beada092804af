/**
 * Plays the scenarios in Node: node node.mjs '{"http": ..., "transport": ..., ...}'
 *
 * Prints what became of each, as JSON. It knows what Node lacks.
 */

import { createRequire } from "node:module";
import { onTheDemo, play, scenarios, way, World } from "./scenarios.mjs";

const require = createRequire(new URL("../../../clients/js/package.json", import.meta.url));
const { http, transport, group } = JSON.parse(process.argv[2]);
const binary = transport === "websocket_protobuf";
const { Centrifuge } = require(binary ? "centrifuge/build/protobuf" : "centrifuge");
const WebSocket = require("ws");
const EventSource = require("eventsource");

/** As a browser would say it; a program says none. */
const origin = group === "demo" ? { origin: http } : {};

class NamedSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, origin);
  }
}

class NamedEvents extends EventSource {
  constructor(url) {
    super(url, { headers: origin });
  }
}

const namedFetch = (url, options) =>
  fetch(url, { ...options, headers: { ...options.headers, ...origin } });

async function api(method, params) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify(params);
  const answer = await fetch(`${http}/api/${method}`, { method: "POST", headers, body });
  const { result, error } = await answer.json();
  if (error) throw new Error(`${method}: ${error.code} ${error.message}`);
  return result;
}

const newWorld = () =>
  new World({
    api,
    binary,
    make: (options) => {
      const [endpoint, more] = way(http, transport);
      return new Centrifuge(endpoint, {
        websocket: NamedSocket,
        eventsource: NamedEvents,
        fetch: namedFetch,
        ...more,
        ...options,
      });
    },
  });

const results = await play(group === "demo" ? onTheDemo : scenarios, newWorld);
process.stdout.write(JSON.stringify(results), () => process.exit());
