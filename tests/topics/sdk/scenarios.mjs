/**
 * Scenarios of an application of the npm package `centrifuge`, in Node and in a browser,
 * over every transport.
 *
 * A scenario gets a `ScenarioContext` and throws when it fails. It uses the public API of
 * the package and the HTTP API of the server.
 */

const TIMEOUT = 20_000; // milliseconds
const SECRET = "secret";

const bytes = (text) => new TextEncoder().encode(text);
const base64url = (data) =>
  btoa(String.fromCharCode(...data)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

/** Return a signed token. */
export async function token(user, claims = {}) {
  const head = base64url(bytes(JSON.stringify({ alg: "HS256", typ: "JWT" })));
  const body = base64url(bytes(JSON.stringify({ sub: user, ...claims })));
  const kind = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes(SECRET), kind, false, ["sign"]);
  const mac = await crypto.subtle.sign("HMAC", key, bytes(`${head}.${body}`));
  return `${head}.${body}.${base64url(new Uint8Array(mac))}`;
}

function assertEqual(actual, expected, what = "the value") {
  const [one, other] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (one !== other) throw new Error(`${what} is ${one}, not ${other}`);
}

/** Records events in order; `next(kind)` resolves to the next one of a kind. */
class EventRecord {
  constructor(emitter, kinds) {
    this.seen = [];
    this.wake = () => {};
    for (const kind of kinds) {
      emitter.on(kind, (event) => {
        this.seen.push([kind, event]);
        this.wake();
      });
    }
  }

  async next(kind) {
    const deadline = Date.now() + TIMEOUT;
    for (;;) {
      while (this.seen.length) {
        const [name, event] = this.seen.shift();
        if (name === kind) return event;
        (this.skipped ??= []).push(name);
      }
      if (Date.now() > deadline) throw new Error(`no ${kind}, but ${this.skipped}`);
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, deadline - Date.now() + 1);
      });
    }
  }

  has(kind) {
    return this.seen.some(([name]) => name === kind);
  }
}

const CLIENT_EVENTS = ["connected", "connecting", "disconnected", "error", "message",
  "subscribed", "subscribing", "unsubscribed", "publication", "join", "leave"];
const SUBSCRIPTION_EVENTS = ["subscribed", "subscribing", "unsubscribed", "publication",
  "join", "leave", "error"];

/** The clients of one scenario, and the HTTP API of the server. */
export class ScenarioContext {
  /**
   * `createClient(options)` returns a new client, `api(method, params)` a result of the
   * HTTP API; a scenario sends at most `burst` commands at once.
   */
  constructor({ createClient, api, binary = false, burst = Infinity }) {
    this.createClient = createClient;
    this.api = api;
    this.binary = binary;
    this.burst = burst;
    this.clients = [];
    this.channel = `c${crypto.randomUUID()}`;
  }

  /** Data in the form of the package's codec, and back. */
  encode(data) {
    return this.binary ? bytes(JSON.stringify(data)) : data;
  }

  decode(data) {
    return this.binary ? JSON.parse(new TextDecoder().decode(data)) : data;
  }

  /** A client that connects; `client.record` has its events. */
  connecting(options = {}) {
    const client = this.createClient({ timeout: TIMEOUT, minReconnectDelay: 100, ...options });
    client.record = new EventRecord(client, CLIENT_EVENTS);
    this.clients.push(client);
    client.connect();
    return client;
  }

  async connect(options) {
    const client = this.connecting(options);
    client.connected = await client.record.next("connected");
    return client;
  }

  subscribing(client, channel = this.channel, options = {}) {
    const subscription = client.newSubscription(channel, options);
    subscription.record = new EventRecord(subscription, SUBSCRIPTION_EVENTS);
    subscription.subscribe();
    return subscription;
  }

  async subscribe(client, channel, options) {
    const subscription = this.subscribing(client, channel, options);
    subscription.subscribed = await subscription.record.next("subscribed");
    return subscription;
  }

  async receive(subscription, count) {
    const data = [];
    while (data.length < count) {
      data.push(this.decode((await subscription.record.next("publication")).data));
    }
    return data;
  }

  /** Close all connections of a user with a code after which clients reconnect. */
  dropConnections(user) {
    return this.api("disconnect", { user, disconnect: { code: 4000, reason: "dropped" } });
  }

  close() {
    for (const client of this.clients) client.disconnect();
  }
}

/** Return a `getData` that publishes before each connect command except the first. */
function publishBeforeReconnect(context, channel, ...all) {
  let first = true;
  return async () => {
    if (!first) for (const data of all) await context.api("publish", { channel, data });
    first = false;
    return context.encode({});
  };
}

export const scenarios = {
  async a_publication_is_received_with_its_publisher(context) {
    const one = await context.connect({ token: await token("42") });
    const receiver = await context.subscribe(await context.connect());
    const publisher = await context.subscribe(one);
    await publisher.publish(context.encode({ text: "größer ☃ 🌊" }));

    const publication = await receiver.record.next("publication");
    assertEqual(context.decode(publication.data), { text: "größer ☃ 🌊" });
    assertEqual(publication.offset, 1, "the offset");
    assertEqual(publication.info.user, "42", "the user");
    assertEqual(publication.info.client, one.connected.client, "the client");
  },

  async a_publication_of_the_server_is_received_with_its_tags(context) {
    const receiver = await context.subscribe(await context.connect());
    await context.api("publish", { channel: context.channel, data: [1], tags: { a: "b" } });

    const publication = await receiver.record.next("publication");
    assertEqual(context.decode(publication.data), [1]);
    assertEqual(publication.tags.a, "b", "the tag");
  },

  async a_whisper_is_sent_and_those_of_others_are_ignored(context) {
    const receiver = await context.subscribe(await context.connect());
    const sender = await context.connect();
    await context.subscribe(sender);
    const { channel } = context;
    await sender.rpc("$whisper", context.encode({ channel, data: "typing" }));
    await context.api("publish", { channel, data: "said" });

    assertEqual(await context.receive(receiver, 1), ["said"]);
    assertEqual(receiver.record.has("error"), false, "an error");
  },

  async bytes_are_for_clients_with_protobuf(context) {
    const client = await context.connect();
    const channel = `bytes:${context.channel}`;
    const data = Uint8Array.from({ length: 256 }, (_, n) => n);
    const subscription = context.subscribing(client, channel);
    if (!context.binary) {
      const { code } = await subscription.record.next("unsubscribed");
      return assertEqual(code, 108, "the code");
    }
    await subscription.record.next("subscribed");
    await subscription.publish(data);

    const publication = await subscription.record.next("publication");
    assertEqual([...publication.data], [...data]);
    const page = await subscription.history({ limit: -1 });
    assertEqual([...page.publications[0].data], [...data], "the history");
  },

  async many_publications_are_received_in_order(context) {
    const client = await context.connect();
    const subscription = await context.subscribe(client);
    const all = Array.from({ length: 90 }, (_, n) => n);
    for (let n = 0; n < 90; n += context.burst) {
      const some = all.slice(n, n + context.burst);
      await Promise.all(some.map((n) => subscription.publish(context.encode(n))));
    }

    assertEqual((await context.receive(subscription, 90)).length, 90, "how many");
    const page = await subscription.history({ limit: -1 });
    assertEqual(page.publications.map((each) => each.offset), all.map((n) => n + 1), "offsets");
  },

  async history_is_read_forwards_backwards_and_from_a_position(context) {
    const subscription = await context.subscribe(await context.connect());
    for (let n = 1; n <= 5; n++) await subscription.publish(context.encode(n));
    const data = (page) => page.publications.map((each) => context.decode(each.data));

    const every = await subscription.history({ limit: -1 });
    assertEqual(every.offset, 5, "the end");
    assertEqual(data(every), [1, 2, 3, 4, 5]);
    assertEqual(data(await subscription.history({ limit: 2, reverse: true })), [5, 4]);
    const since = { offset: 3, epoch: every.epoch };
    assertEqual(data(await subscription.history({ limit: 10, since })), [4, 5]);
    assertEqual(data(await subscription.history({ limit: 0 })), []);
  },

  async presence_returns_the_members(context) {
    const one = await context.connect({ token: await token("42") });
    const other = await context.connect({ token: await token("43") });
    const subscription = await context.subscribe(one);
    await context.subscribe(other);

    const { clients } = await subscription.presence();
    assertEqual(Object.values(clients).map((info) => info.user).sort(), ["42", "43"]);
    const stats = await subscription.presenceStats();
    assertEqual([stats.numClients, stats.numUsers], [2, 2], "how many");
  },

  async joins_and_leaves_are_received(context) {
    const observer = await context.subscribe(await context.connect());
    const other = await context.connect({ token: await token("42") });
    await context.subscribe(other);
    let joined;
    do joined = await observer.record.next("join");
    while (joined.info.user !== "42");
    other.disconnect();

    assertEqual((await observer.record.next("leave")).info.client, joined.info.client, "who left");
  },

  async a_lost_connection_is_recovered(context) {
    const user = context.channel;
    const getData = publishBeforeReconnect(context, context.channel, 2, 3, 4);
    const client = await context.connect({ token: await token(user), getData });
    const subscription = await context.subscribe(client);
    await subscription.publish(context.encode(1));
    assertEqual(await context.receive(subscription, 1), [1]);
    await context.dropConnections(user);

    const again = await subscription.record.next("subscribed");
    assertEqual([again.wasRecovering, again.recovered], [true, true], "recovery");
    assertEqual(await context.receive(subscription, 3), [2, 3, 4]);
    await subscription.publish(context.encode(5));
    assertEqual(await context.receive(subscription, 1), [5]);
  },

  async a_client_recovers_from_a_signed_position_and_no_other(context) {
    const channel = `inbox:${context.channel}`;
    await context.api("publish", { channel, data: "before" });
    const user = context.channel;
    const getData = publishBeforeReconnect(context, channel, "missed");
    const client = await context.connect({ token: await token(user), getData });
    const subscription = await context.subscribe(client, channel);
    const { epoch, offset } = subscription.subscribed.streamPosition;
    assertEqual([epoch.split(".").length, offset], [3, 1], "the signed position");
    await context.dropConnections(user);

    assertEqual((await subscription.record.next("subscribed")).recovered, true, "recovered");
    assertEqual(await context.receive(subscription, 1), ["missed"]);
    for (const made of ["", epoch.split(".")[0]]) {
      const since = { epoch: made, offset: 0 };
      const guess = await context.subscribe(await context.connect(), channel, { since });
      assertEqual(guess.subscribed.recovered, false, `from ${made || "no epoch"}`);
      assertEqual(guess.record.has("publication"), false, "a publication");
    }
  },

  async differences_between_publications_are_undone(context) {
    const channel = `delta:${context.channel}`;
    const states = Array.from({ length: 5 }, (_, n) => ({ n, pad: "größer ☃ 🌊 ".repeat(30) }));
    const user = context.channel;
    const getData = publishBeforeReconnect(context, channel, states[3], states[4]);
    const client = await context.connect({ token: await token(user), getData });
    const subscription = await context.subscribe(client, channel, { delta: "fossil" });
    for (const data of states.slice(0, 3)) await context.api("publish", { channel, data });

    assertEqual(await context.receive(subscription, 3), states.slice(0, 3));
    let { numFullPayloads, numDeltaPayloads } = subscription.deltaStats();
    assertEqual([numFullPayloads, numDeltaPayloads], [1, 2], "whole ones and differences");
    await context.dropConnections(user);
    assertEqual((await subscription.record.next("subscribed")).recovered, true, "recovered");
    assertEqual(await context.receive(subscription, 2), states.slice(3));
    ({ numFullPayloads, numDeltaPayloads } = subscription.deltaStats());
    assertEqual([numFullPayloads, numDeltaPayloads], [2, 3], "after the recovery");
    const page = await subscription.history({ limit: -1 });
    assertEqual(page.publications.map((each) => context.decode(each.data)), states, "history");
  },

  async a_client_that_connects_again_recovers(context) {
    const client = await context.connect();
    const subscription = await context.subscribe(client);
    client.disconnect();
    await context.api("publish", { channel: context.channel, data: "missed" });
    client.connect();

    assertEqual((await subscription.record.next("subscribed")).recovered, true, "recovered");
    assertEqual(await context.receive(subscription, 1), ["missed"]);
  },

  async a_position_that_is_too_old_is_not_recovered(context) {
    const channel = `smallhistory:${context.channel}`;
    const user = context.channel;
    const getData = publishBeforeReconnect(context, channel, 1, 2, 3, 4);
    const client = await context.connect({ token: await token(user), getData });
    const subscription = await context.subscribe(client, channel);
    await context.dropConnections(user);

    const again = await subscription.record.next("subscribed");
    assertEqual([again.wasRecovering, again.recovered], [true, false], "recovery");
  },

  async the_last_publication_comes_with_the_subscription(context) {
    const channel = `latest:${context.channel}`;
    for (const n of [1, 2, 3]) await context.api("publish", { channel, data: n });
    const user = context.channel;
    const getData = publishBeforeReconnect(context, channel, 4, 5, 6, 7);
    const client = await context.connect({ token: await token(user), getData });
    const subscription = await context.subscribe(client, channel);

    assertEqual(await context.receive(subscription, 1), [3], "the last one");
    await context.dropConnections(user);
    const again = await subscription.record.next("subscribed");
    assertEqual([again.wasRecovering, again.recovered], [true, false], "recovery");
    assertEqual(await context.receive(subscription, 1), [7], "the last one afterwards");
    await context.api("publish", { channel, data: 8 });
    assertEqual(await context.receive(subscription, 1), [8], "the next one");
  },

  async a_position_of_the_page_is_recovered_with_the_subscription(context) {
    const channel = `latest:${context.channel}`;
    for (const n of [1, 2]) await context.api("publish", { channel, data: n });
    const since = { offset: 0, epoch: "" };
    const subscription = await context.subscribe(await context.connect(), channel, { since });

    assertEqual(subscription.subscribed.recovered, true, "recovered");
    assertEqual(await context.receive(subscription, 2), [1, 2]);
  },

  async only_publications_with_matching_tags_are_received(context) {
    const { channel } = context;
    const tagsFilter = {
      op: "and",
      nodes: [
        { key: "colour", cmp: "in", vals: ["red", "green"] },
        { op: "not", nodes: [{ key: "size", cmp: "gt", val: "9" }] },
      ],
    };
    const user = channel;
    let first = true;
    const publish = async (data, tags) => context.api("publish", { channel, data, tags });
    const getData = async () => {
      if (!first) {
        await publish("missed", { colour: "red" });
        await publish("not missed", { colour: "blue" });
      }
      first = false;
      return context.encode({});
    };
    const client = await context.connect({ token: await token(user), getData });
    const subscription = await context.subscribe(client, channel, { tagsFilter });
    await publish(1, { colour: "blue" });
    await publish(2, { colour: "red", size: "10" });
    await publish(3, { colour: "green", size: "2" });
    assertEqual(await context.receive(subscription, 1), [3], "the match");
    await context.dropConnections(user);

    assertEqual((await subscription.record.next("subscribed")).recovered, true, "recovered");
    await publish(4, {});
    await publish(5, { colour: "red" });
    assertEqual(await context.receive(subscription, 2), ["missed", 5], "the later matches");
  },

  async state_is_read_again_when_its_position_is_too_old(context) {
    const channel = `smallhistory:${context.channel}`;
    const offsets = [];
    const getState = async () => {
      const { offset = 0, epoch } = await context.api("history", { channel, limit: 0 });
      offsets.push(offset);
      if (offsets.length === 1) {
        for (let n = 0; n < 4; n++) await context.api("publish", { channel, data: n });
      }
      return { offset, epoch };
    };
    const client = await context.connect();
    const subscription = await context.subscribe(client, channel, { getState });

    assertEqual(offsets, [0, 4], "the positions of the states");
    assertEqual(subscription.subscribed.recovered, true, "recovered");
  },

  async publications_after_the_position_of_a_state_are_received(context) {
    const { channel } = context;
    const getState = async () => {
      const { offset = 0, epoch } = await context.api("history", { channel, limit: 0 });
      await context.api("publish", { channel, data: "after it" });
      return { offset, epoch };
    };
    const subscription = await context.subscribe(await context.connect(), channel, { getState });

    assertEqual(await context.receive(subscription, 1), ["after it"]);
  },

  async a_token_is_refreshed_before_it_expires(context) {
    let fetched = 0;
    let enough;
    const renewed = new Promise((resolve) => (enough = resolve));
    const getToken = async () => {
      if (++fetched === 3) enough();
      return token("42", { exp: Math.floor(Date.now() / 1000) + 3 });
    };
    const client = await context.connect({ getToken });
    await renewed;

    await client.rpc("echo", context.encode({ value: 1 }));
    assertEqual(client.record.has("connecting"), false, "a new connection");
  },

  async an_expired_token_is_replaced_by_a_new_one(context) {
    const old = await token("42", { exp: Math.floor(Date.now() / 1000) - 60 });
    let fetched = 0;
    const getToken = async () => (++fetched, token("42"));
    await context.connect({ token: old, getToken });

    assertEqual(fetched, 1, "how many were fetched");
  },

  async a_forged_token_ends_the_client(context) {
    const forged = (await token("42")).slice(0, -4) + "AAAA";
    const client = context.connecting({ token: forged });

    assertEqual((await client.record.next("disconnected")).code, 3500, "the code");
  },

  async a_subscription_token_permits_its_channel(context) {
    const client = await context.connect({ token: await token("42") });
    const getToken = ({ channel }) => token("42", { channel });
    const subscription = await context.subscribe(client, "#43", { getToken });

    assertEqual(subscription.subscribed.recoverable, true, "recoverable");
  },

  async a_subscription_token_for_another_channel_is_refused(context) {
    const client = await context.connect({ token: await token("42") });
    const other = await token("42", { channel: "#44" });
    const subscription = context.subscribing(client, "#43", { token: other });

    assertEqual((await subscription.record.next("unsubscribed")).code, 103, "the code");
  },

  async an_unsubscribed_client_receives_no_publications(context) {
    const client = await context.connect();
    const subscription = await context.subscribe(client);
    subscription.unsubscribe();
    await context.api("publish", { channel: context.channel, data: 1 });
    await client.rpc("echo", context.encode({})); // answered after earlier pushes

    assertEqual(subscription.record.has("publication"), false, "a publication");
  },

  async a_client_that_subscribes_again_receives_publications(context) {
    const client = await context.connect();
    const subscription = await context.subscribe(client);
    subscription.unsubscribe();
    subscription.subscribe();
    await subscription.record.next("subscribed");
    await context.api("publish", { channel: context.channel, data: "now" });

    assertEqual(await context.receive(subscription, 1), ["now"]);
  },

  async a_call_returns_a_result(context) {
    const client = await context.connect();
    const { data } = await client.rpc("echo", context.encode({ value: [1, null] }));

    assertEqual(context.decode(data), [1, null]);
  },

  async a_call_that_fails_has_a_code(context) {
    const client = await context.connect();
    const codes = [];
    for (const method of ["fail", "nothing_like_this"]) {
      await client.rpc(method, context.encode({})).catch((error) => codes.push(error.code));
    }

    assertEqual(codes, [1000, 104], "the codes");
  },

  async a_channel_of_an_unknown_namespace_is_refused(context) {
    const subscription = context.subscribing(await context.connect(), "unknown:x");

    assertEqual((await subscription.record.next("unsubscribed")).code, 102, "the code");
  },

  async presence_that_is_disabled_is_refused(context) {
    const channel = `smallhistory:${context.channel}`;
    const subscription = await context.subscribe(await context.connect(), channel);
    let code;
    await subscription.presence().catch((error) => (code = error.code));

    assertEqual(code, 108, "the code");
  },

  async a_server_side_subscription_receives_and_recovers(context) {
    const user = context.channel;
    const channel = `#${user}`;
    const getData = publishBeforeReconnect(context, channel, 2);
    const client = context.connecting({ token: await token(user), getData });
    assertEqual((await client.record.next("subscribed")).channel, channel, "the channel");
    await context.api("publish", { channel, data: 1 });
    assertEqual(context.decode((await client.record.next("publication")).data), 1);
    await context.dropConnections(user);

    assertEqual((await client.record.next("subscribed")).recovered, true, "recovered");
    assertEqual(context.decode((await client.record.next("publication")).data), 2);
  },

  async the_server_subscribes_and_unsubscribes_a_client(context) {
    const { channel } = context;
    const client = await context.connect({ token: await token(channel) });
    await context.api("subscribe", { user: channel, channel });
    let event;
    do event = await client.record.next("subscribed");
    while (event.channel !== channel);
    await context.api("unsubscribe", { user: channel, channel });

    assertEqual((await client.record.next("unsubscribed")).channel, channel, "the channel");
  },

  async a_subscription_that_the_server_ends_is_unsubscribed(context) {
    const { channel } = context;
    const subscription = await context.subscribe(
      await context.connect({ token: await token(channel) }),
    );
    await context.api("unsubscribe", { user: channel, channel });

    assertEqual((await subscription.record.next("unsubscribed")).code, 2000, "the code");
  },

  async a_disconnect_by_the_server_ends_the_client(context) {
    const client = await context.connect({ token: await token(context.channel) });
    await context.api("disconnect", { user: context.channel });

    assertEqual((await client.record.next("disconnected")).code, 3503, "the code");
  },

  async batched_commands_are_answered(context) {
    const client = context.createClient({ timeout: TIMEOUT });
    client.record = new EventRecord(client, CLIENT_EVENTS);
    context.clients.push(client);
    client.startBatching();
    const subscriptions = [1, 2, 3].map((n) =>
      context.subscribing(client, `${context.channel}-${n}`),
    );
    client.connect();
    client.stopBatching();

    await client.record.next("connected");
    for (const each of subscriptions) await each.record.next("subscribed");
  },
};

export const demoScenarios = {
  async a_note_on_the_board_is_received(context) {
    const client = await context.connect();
    const board = await context.subscribe(client, "board:main");
    const draft = { client_id: `sdk-${context.channel.slice(0, 8)}`, text: "from another client" };
    await board.publish(context.encode(draft));

    let change;
    do [change] = await context.receive(board, 1);
    while (change.fields?.client_id !== draft.client_id);
    assertEqual([change.event, change.fields.text], ["created", draft.text]);
  },

  async a_missed_note_is_recovered(context) {
    const reader = await context.connect();
    const board = await context.subscribe(reader, "board:main");
    const writer = await context.connect();
    await context.subscribe(writer, "board:main");
    reader.disconnect();
    const unique = context.channel.slice(0, 8);
    const draft = { client_id: `missed-${unique}`, text: `meanwhile ${unique}` };
    await writer.publish("board:main", context.encode(draft));
    reader.connect();

    assertEqual((await board.record.next("subscribed")).recovered, true, "recovered");
    let change;
    do [change] = await context.receive(board, 1);
    while (change.fields?.text !== draft.text);
  },

  async a_visitor_is_a_member(context) {
    const board = await context.subscribe(await context.connect(), "board:main");

    assertEqual((await board.presenceStats()).numClients > 0, true, "any members");
  },
};

/** Run scenarios, a number of them at once; return name to error, or null. */
export async function run(chosen, createContext, concurrency = Infinity) {
  const results = {};
  const waiting = Object.entries(chosen);
  const runNext = async () => {
    const [name, scenario] = waiting.shift();
    results[name] = await outcome(scenario, createContext());
    if (waiting.length) await runNext();
  };
  const length = Math.min(concurrency, waiting.length);
  await Promise.all(Array.from({ length }, runNext));
  return results;
}

async function outcome(scenario, context) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the scenario has not ended")), TIMEOUT * 2);
  });
  try {
    await Promise.race([scenario(context), late]);
    return null;
  } catch (error) {
    return `${error?.code ?? ""} ${error?.message} ${error?.stack ?? ""}`;
  } finally {
    clearTimeout(timer);
    context.close();
  }
}

/** Return endpoint and options of a client of `http`, a URL, over `transport`. */
export function endpoint(http, transport) {
  const ws = http.replace("http", "ws");
  return transport.startsWith("websocket")
    ? [`${ws}/connection/websocket`, {}]
    : [
        [{ transport, endpoint: `${http}/connection/${transport}` }],
        { emulationEndpoint: `${http}/connection/emulation` },
      ];
}
