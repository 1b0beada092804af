/**
 * Run the scenarios in Node: node node.mjs '{"http": ..., "transport": ..., ...}'
 *
 * Prints the results as JSON: name to error, or null.
 */

import { createRequire } from "node:module";
import { demoScenarios, endpoint, run, ScenarioContext, scenarios } from "./scenarios.mjs";

const require = createRequire(new URL("../../../clients/js/package.json", import.meta.url));
const { http, transport, group, cookie } = JSON.parse(process.argv[2]);
const binary = transport === "websocket_protobuf";
const { Centrifuge } = require(binary ? "centrifuge/build/protobuf" : "centrifuge");
const WebSocket = require("ws");
const EventSource = require("eventsource");

/** A browser sends an Origin header and its cookies; Node sends none. */
const browserHeaders = group === "demo" ? { origin: http, cookie } : {};

class BrowserSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { headers: browserHeaders });
  }
}

class BrowserEventSource extends EventSource {
  constructor(url) {
    super(url, { headers: browserHeaders });
  }
}

const browserFetch = (url, options) =>
  fetch(url, { ...options, headers: { ...options.headers, ...browserHeaders } });

async function api(method, params) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify(params);
  const response = await fetch(`${http}/api/${method}`, { method: "POST", headers, body });
  const { result, error } = await response.json();
  if (error) throw new Error(`${method}: ${error.code} ${error.message}`);
  return result;
}

const createContext = () =>
  new ScenarioContext({
    api,
    binary,
    // Unlike a browser, Node sends any number of requests at once; the server queues 64.
    burst: transport.startsWith("websocket") ? Infinity : 64,
    createClient: (options) => {
      const [url, more] = endpoint(http, transport);
      return new Centrifuge(url, {
        websocket: BrowserSocket,
        eventsource: BrowserEventSource,
        fetch: browserFetch,
        ...more,
        ...options,
      });
    },
  });

const results = await run(group === "demo" ? demoScenarios : scenarios, createContext);
process.stdout.write(JSON.stringify(results), () => process.exit());
