/**
 * What an application of the npm package `centrifuge` does and sees, in Node and in a
 * browser, over every transport.
 *
 * A scenario gets a `World` and throws when something is not as it must be. It knows
 * what the package offers in public, and nothing of the server but its HTTP API.
 */

const PATIENCE = 20_000; // milliseconds
const SECRET = "secret";

const bytes = (text) => new TextEncoder().encode(text);
const base64url = (data) =>
  btoa(String.fromCharCode(...data)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

/** A token as the suites make them. */
export async function token(user, claims = {}) {
  const head = base64url(bytes(JSON.stringify({ alg: "HS256", typ: "JWT" })));
  const body = base64url(bytes(JSON.stringify({ sub: user, ...claims })));
  const kind = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes(SECRET), kind, false, ["sign"]);
  const mac = await crypto.subtle.sign("HMAC", key, bytes(`${head}.${body}`));
  return `${head}.${body}.${base64url(new Uint8Array(mac))}`;
}

function same(seen, expected, what = "it") {
  const [one, other] = [JSON.stringify(seen), JSON.stringify(expected)];
  if (one !== other) throw new Error(`${what} is ${one}, not ${other}`);
}

/** Notes events in order; `next(kind)` is what came with the next one of a kind. */
class Record {
  constructor(emitter, kinds) {
    this.seen = [];
    this.wake = () => {};
    for (const kind of kinds) {
      emitter.on(kind, (context) => {
        this.seen.push([kind, context]);
        this.wake();
      });
    }
  }

  async next(kind) {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      while (this.seen.length) {
        const [name, context] = this.seen.shift();
        if (name === kind) return context;
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

/** The package, a server, a transport, and how to say things to them. */
export class World {
  /** `make(options)` is a new client; `api(method, params)` what the HTTP API returns. */
  constructor({ make, api, binary = false }) {
    this.make = make;
    this.api = api;
    this.binary = binary;
    this.clients = [];
    this.channel = `c${crypto.randomUUID()}`;
  }

  /** Data as this codec of the package takes it, and as it gives it back. */
  out(data) {
    return this.binary ? bytes(JSON.stringify(data)) : data;
  }

  back(data) {
    return this.binary ? JSON.parse(new TextDecoder().decode(data)) : data;
  }

  /** A client that has begun to connect; `client.record` knows what has happened. */
  begin(options = {}) {
    const client = this.make({ timeout: PATIENCE, minReconnectDelay: 100, ...options });
    client.record = new Record(client, CLIENT_EVENTS);
    this.clients.push(client);
    client.connect();
    return client;
  }

  async visit(options) {
    const client = this.begin(options);
    client.connected = await client.record.next("connected");
    return client;
  }

  request(client, channel = this.channel, options = {}) {
    const subscription = client.newSubscription(channel, options);
    subscription.record = new Record(subscription, SUBSCRIPTION_EVENTS);
    subscription.subscribe();
    return subscription;
  }

  async subscribe(client, channel, options) {
    const subscription = this.request(client, channel, options);
    subscription.began = await subscription.record.next("subscribed");
    return subscription;
  }

  async heard(subscription, count) {
    const data = [];
    while (data.length < count) {
      data.push(this.back((await subscription.record.next("publication")).data));
    }
    return data;
  }

  /** Have the server close all connections of a user, who will come back. */
  cut(user) {
    return this.api("disconnect", { user, disconnect: { code: 4000, reason: "cut" } });
  }

  end() {
    for (const client of this.clients) client.disconnect();
  }
}

/** Publishes when a client comes back, before it says connect. */
function publishing(world, channel, ...all) {
  let first = true;
  return async () => {
    if (!first) for (const data of all) await world.api("publish", { channel, data });
    first = false;
    return world.out({});
  };
}

export const scenarios = {
  async what_one_publishes_the_other_hears_with_its_author(world) {
    const one = await world.visit({ token: await token("42") });
    const hears = await world.subscribe(await world.visit());
    const speaks = await world.subscribe(one);
    await speaks.publish(world.out({ text: "größer ☃ 🌊" }));

    const publication = await hears.record.next("publication");
    same(world.back(publication.data), { text: "größer ☃ 🌊" });
    same(publication.offset, 1, "the offset");
    same(publication.info.user, "42", "the user");
    same(publication.info.client, one.connected.client, "the client");
  },

  async what_the_server_publishes_is_heard_with_its_tags(world) {
    const hears = await world.subscribe(await world.visit());
    await world.api("publish", { channel: world.channel, data: [1], tags: { a: "b" } });

    const publication = await hears.record.next("publication");
    same(world.back(publication.data), [1]);
    same(publication.tags.a, "b", "the tag");
  },

  async much_is_heard_in_order(world) {
    const client = await world.visit();
    const subscription = await world.subscribe(client);
    const all = Array.from({ length: 90 }, (_, n) => n);
    await Promise.all(all.map((n) => subscription.publish(world.out(n))));

    same((await world.heard(subscription, 90)).length, 90, "how many");
    const page = await subscription.history({ limit: -1 });
    same(page.publications.map((each) => each.offset), all.map((n) => n + 1), "offsets");
  },

  async history_is_read_forwards_backwards_and_from_a_position(world) {
    const subscription = await world.subscribe(await world.visit());
    for (let n = 1; n <= 5; n++) await subscription.publish(world.out(n));
    const data = (page) => page.publications.map((each) => world.back(each.data));

    const every = await subscription.history({ limit: -1 });
    same(every.offset, 5, "the end");
    same(data(every), [1, 2, 3, 4, 5]);
    same(data(await subscription.history({ limit: 2, reverse: true })), [5, 4]);
    const since = { offset: 3, epoch: every.epoch };
    same(data(await subscription.history({ limit: 10, since })), [4, 5]);
    same(data(await subscription.history({ limit: 0 })), []);
  },

  async presence_tells_who_is_there(world) {
    const one = await world.visit({ token: await token("42") });
    const other = await world.visit({ token: await token("43") });
    const subscription = await world.subscribe(one);
    await world.subscribe(other);

    const { clients } = await subscription.presence();
    same(Object.values(clients).map((info) => info.user).sort(), ["42", "43"]);
    const stats = await subscription.presenceStats();
    same([stats.numClients, stats.numUsers], [2, 2], "how many");
  },

  async one_hears_who_comes_and_goes(world) {
    const stays = await world.subscribe(await world.visit());
    const goes = await world.visit({ token: await token("42") });
    await world.subscribe(goes);
    let joined;
    do joined = await stays.record.next("join");
    while (joined.info.user !== "42");
    goes.disconnect();

    same((await stays.record.next("leave")).info.client, joined.info.client, "who left");
  },

  async who_was_cut_off_gets_what_was_missed(world) {
    const user = world.channel;
    const getData = publishing(world, world.channel, 2, 3, 4);
    const client = await world.visit({ token: await token(user), getData });
    const subscription = await world.subscribe(client);
    await subscription.publish(world.out(1));
    same(await world.heard(subscription, 1), [1]);
    await world.cut(user);

    const again = await subscription.record.next("subscribed");
    same([again.wasRecovering, again.recovered], [true, true], "recovery");
    same(await world.heard(subscription, 3), [2, 3, 4]);
    await subscription.publish(world.out(5));
    same(await world.heard(subscription, 1), [5]);
  },

  async who_comes_back_by_itself_gets_what_was_missed(world) {
    const client = await world.visit();
    const subscription = await world.subscribe(client);
    client.disconnect();
    await world.api("publish", { channel: world.channel, data: "missed" });
    client.connect();

    same((await subscription.record.next("subscribed")).recovered, true, "recovered");
    same(await world.heard(subscription, 1), ["missed"]);
  },

  async who_missed_too_much_is_told_that_it_is_lost(world) {
    const channel = `smallhistory:${world.channel}`;
    const user = world.channel;
    const getData = publishing(world, channel, 1, 2, 3, 4);
    const client = await world.visit({ token: await token(user), getData });
    const subscription = await world.subscribe(client, channel);
    await world.cut(user);

    const again = await subscription.record.next("subscribed");
    same([again.wasRecovering, again.recovered], [true, false], "recovery");
  },

  async state_is_read_again_when_its_position_is_too_old(world) {
    const channel = `smallhistory:${world.channel}`;
    const asked = [];
    const getState = async () => {
      const { offset = 0, epoch } = await world.api("history", { channel, limit: 0 });
      asked.push(offset);
      if (asked.length === 1) {
        for (let n = 0; n < 4; n++) await world.api("publish", { channel, data: n });
      }
      return { offset, epoch };
    };
    const client = await world.visit();
    const subscription = await world.subscribe(client, channel, { getState });

    same(asked, [0, 4], "the positions of the states");
    same(subscription.began.recovered, true, "recovered");
  },

  async what_follows_the_position_of_a_state_is_heard(world) {
    const { channel } = world;
    const getState = async () => {
      const { offset = 0, epoch } = await world.api("history", { channel, limit: 0 });
      await world.api("publish", { channel, data: "after it" });
      return { offset, epoch };
    };
    const subscription = await world.subscribe(await world.visit(), channel, { getState });

    same(await world.heard(subscription, 1), ["after it"]);
  },

  async a_token_is_renewed_before_it_ends(world) {
    let fetched = 0;
    let enough;
    const renewed = new Promise((resolve) => (enough = resolve));
    const getToken = async () => {
      if (++fetched === 3) enough();
      return token("42", { exp: Math.floor(Date.now() / 1000) + 3 });
    };
    const client = await world.visit({ getToken });
    await renewed;

    await client.rpc("echo", world.out({ value: 1 }));
    same(client.record.has("connecting"), false, "a new connection");
  },

  async an_expired_token_is_replaced_by_a_fresh_one(world) {
    const old = await token("42", { exp: Math.floor(Date.now() / 1000) - 60 });
    let fetched = 0;
    const getToken = async () => (++fetched, token("42"));
    await world.visit({ token: old, getToken });

    same(fetched, 1, "how many were fetched");
  },

  async a_forged_token_ends_it_for_good(world) {
    const forged = (await token("42")).slice(0, -4) + "AAAA";
    const client = world.begin({ token: forged });

    same((await client.record.next("disconnected")).code, 3500, "the code");
  },

  async a_subscription_token_lets_into_its_channel(world) {
    const client = await world.visit({ token: await token("42") });
    const getToken = ({ channel }) => token("42", { channel });
    const subscription = await world.subscribe(client, "#43", { getToken });

    same(subscription.began.recoverable, true, "recoverable");
  },

  async a_subscription_token_for_another_channel_does_not(world) {
    const client = await world.visit({ token: await token("42") });
    const other = await token("42", { channel: "#44" });
    const subscription = world.request(client, "#43", { token: other });

    same((await subscription.record.next("unsubscribed")).code, 103, "the code");
  },

  async who_unsubscribed_hears_nothing_more(world) {
    const client = await world.visit();
    const subscription = await world.subscribe(client);
    subscription.unsubscribe();
    await world.api("publish", { channel: world.channel, data: 1 });
    await client.rpc("echo", world.out({})); // answered after what came before

    same(subscription.record.has("publication"), false, "that it hears");
  },

  async who_subscribes_again_hears_again(world) {
    const client = await world.visit();
    const subscription = await world.subscribe(client);
    subscription.unsubscribe();
    subscription.subscribe();
    await subscription.record.next("subscribed");
    await world.api("publish", { channel: world.channel, data: "now" });

    same(await world.heard(subscription, 1), ["now"]);
  },

  async a_call_is_answered(world) {
    const client = await world.visit();
    const { data } = await client.rpc("echo", world.out({ value: [1, null] }));

    same(world.back(data), [1, null]);
  },

  async a_call_that_fails_says_why(world) {
    const client = await world.visit();
    const codes = [];
    for (const method of ["fail", "nothing_like_this"]) {
      await client.rpc(method, world.out({})).catch((error) => codes.push(error.code));
    }

    same(codes, [1000, 104], "the codes");
  },

  async a_channel_of_an_unknown_namespace_is_given_up(world) {
    const subscription = world.request(await world.visit(), "unknown:x");

    same((await subscription.record.next("unsubscribed")).code, 102, "the code");
  },

  async presence_that_is_off_says_so(world) {
    const channel = `smallhistory:${world.channel}`;
    const subscription = await world.subscribe(await world.visit(), channel);
    let code;
    await subscription.presence().catch((error) => (code = error.code));

    same(code, 108, "the code");
  },

  async a_subscription_of_the_servers_begins_hears_and_recovers(world) {
    const user = world.channel;
    const channel = `#${user}`;
    const getData = publishing(world, channel, 2);
    const client = world.begin({ token: await token(user), getData });
    same((await client.record.next("subscribed")).channel, channel, "the channel");
    await world.api("publish", { channel, data: 1 });
    same(world.back((await client.record.next("publication")).data), 1);
    await world.cut(user);

    same((await client.record.next("subscribed")).recovered, true, "recovered");
    same(world.back((await client.record.next("publication")).data), 2);
  },

  async the_server_may_begin_and_end_a_subscription(world) {
    const { channel } = world;
    const client = await world.visit({ token: await token(channel) });
    await world.api("subscribe", { user: channel, channel });
    let began;
    do began = await client.record.next("subscribed");
    while (began.channel !== channel);
    await world.api("unsubscribe", { user: channel, channel });

    same((await client.record.next("unsubscribed")).channel, channel, "the channel");
  },

  async a_subscription_that_the_server_ends_is_over(world) {
    const { channel } = world;
    const subscription = await world.subscribe(
      await world.visit({ token: await token(channel) }),
    );
    await world.api("unsubscribe", { user: channel, channel });

    same((await subscription.record.next("unsubscribed")).code, 2000, "the code");
  },

  async a_kick_ends_it_for_good(world) {
    const client = await world.visit({ token: await token(world.channel) });
    await world.api("disconnect", { user: world.channel });

    same((await client.record.next("disconnected")).code, 3503, "the code");
  },

  async commands_may_be_batched(world) {
    const client = world.make({ timeout: PATIENCE });
    client.record = new Record(client, CLIENT_EVENTS);
    world.clients.push(client);
    client.startBatching();
    const subscriptions = [1, 2, 3].map((n) =>
      world.request(client, `${world.channel}-${n}`),
    );
    client.connect();
    client.stopBatching();

    await client.record.next("connected");
    for (const each of subscriptions) await each.record.next("subscribed");
  },
};

export const onTheDemo = {
  async the_board_is_written_on_and_seen(world) {
    const client = await world.visit();
    const board = await world.subscribe(client, "board:main");
    const add = { text: "from another client", author: "js" };
    const call = { channel: "board:main", method: "add", data: add };
    const { data } = await client.rpc("$call", world.out(call));

    let change;
    do [change] = await world.heard(board, 1);
    while (change.pk !== world.back(data));
    same([change.event, change.fields.text], ["created", add.text]);
  },

  async the_board_tells_what_was_missed(world) {
    const away = await world.visit();
    const board = await world.subscribe(away, "board:main");
    const writes = await world.visit();
    await world.subscribe(writes, "board:main");
    away.disconnect();
    const add = { text: `meanwhile ${world.channel.slice(0, 8)}`, author: "js" };
    const call = { channel: "board:main", method: "add", data: add };
    await writes.rpc("$call", world.out(call));
    away.connect();

    same((await board.record.next("subscribed")).recovered, true, "recovered");
    let change;
    do [change] = await world.heard(board, 1);
    while (change.fields?.text !== add.text);
  },

  async a_visitor_is_present(world) {
    const board = await world.subscribe(await world.visit(), "board:main");

    same((await board.presenceStats()).numClients > 0, true, "somebody");
  },
};

/** Play scenarios, so many at once; name to what went wrong, or null. */
export async function play(chosen, newWorld, atOnce = Infinity) {
  const results = {};
  const waiting = Object.entries(chosen);
  const playNext = async () => {
    const [name, scenario] = waiting.shift();
    results[name] = await outcome(scenario, newWorld());
    if (waiting.length) await playNext();
  };
  const players = Math.min(atOnce, waiting.length);
  await Promise.all(Array.from({ length: players }, playNext));
  return results;
}

async function outcome(scenario, world) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("it has not ended")), PATIENCE * 2);
  });
  try {
    await Promise.race([scenario(world), late]);
    return null;
  } catch (error) {
    return `${error?.code ?? ""} ${error?.message} ${error?.stack ?? ""}`;
  } finally {
    clearTimeout(timer);
    world.end();
  }
}

/** Options of a client of `http`, an address, over `transport`. */
export function way(http, transport) {
  const ws = http.replace("http", "ws");
  return transport.startsWith("websocket")
    ? [`${ws}/connection/websocket`, {}]
    : [
        [{ transport, endpoint: `${http}/connection/${transport}` }],
        { emulationEndpoint: `${http}/connection/emulation` },
      ];
}
