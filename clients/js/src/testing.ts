/**
 * A server of topics for tests of pages, in memory. It behaves as the real server where a
 * client can see a difference.
 *
 *     const server = new FakeServer();
 *     const client = new Client("/connection/", { window: server.window });
 *     const room = client.subscribe("room:lobby");
 *     await server.settled();
 *     server.publish("room:lobby", { text: "hi" });
 */

import { FakeConnection, type FakeConnectionContext } from "./fake_connection.js";
import type { Environment } from "./options.js";
import type { ClientInfo, Position, Publication } from "./protocol.js";

export { FakeConnection };

/** An error reply: throw it in a method to refuse a call. */
export class Refusal extends Error {
  constructor(
    readonly code: number,
    message = "refused",
    readonly temporary = false,
  ) {
    super(message);
  }
}

/** A publication that a client made. */
export interface Published {
  topic: string;
  data: any;
  /** The idempotency key: a repeated publication has the same one. */
  key: string;
  user: string;
}

export type Method = (data: any, context: { user: string; topic: string }) => unknown;

export interface FakeServerOptions {
  /** Publications in the history of every topic; 0: no history. Default 100. */
  history?: number;
  /** Returns the user of a token, or throws a `Refusal`. Default: the token is the user. */
  user?: (token: string) => string;
}

interface Stream {
  epoch: string;
  offset: number;
  history: Publication[];
}

type Params = Record<string, any>;

const REFUSE_GAPS = 2;

export class FakeServer {
  /** The option `window` of the client under test. */
  readonly window: Environment;
  /** Publications of clients, oldest first, without repetitions. */
  readonly published: Published[] = [];
  readonly connections = new Set<FakeConnection>();
  /** Whether connections fail, as with a server that does not run. */
  isDown = false;
  #options: Required<FakeServerOptions>;
  #streams = new Map<string, Stream>();
  #methods = new Map<string, Method>();
  /** By topic. */
  #refusals = new Map<string, Refusal>();
  #keys = new Set<string>();
  #lastId = 0;

  constructor(options: FakeServerOptions = {}) {
    this.#options = { history: 100, user: (token) => token, ...options };
    const context: FakeConnectionContext = {
      accept: (connection) => {
        if (!this.isDown) this.connections.add(connection);
        return !this.isDown;
      },
      onFrame: (connection, frame) => this.#onFrame(connection, frame),
      onClose: (connection) => this.#onClose(connection),
    };
    this.window = {
      WebSocket: class extends FakeConnection {
        constructor(url: string) {
          super(context, url);
        }
      } as unknown as Environment["WebSocket"],
      // Read at each call, so that the fake clock of a test runner applies.
      setTimeout: (callback, milliseconds) => globalThis.setTimeout(callback, milliseconds),
      clearTimeout: (timer) => globalThis.clearTimeout(timer),
      Math: globalThis.Math,
      performance: { now: () => globalThis.performance.now() },
      location: { href: "http://server.test/" },
    };
  }

  /** Publish, as a view of the site does. */
  publish(topic: string, data: unknown, extra: Partial<Publication> = {}): Position {
    const stream = this.#stream(topic);
    const publication: Publication = { ...extra, data };
    if (this.#options.history) {
      publication.offset = ++stream.offset;
      stream.history = [...stream.history, publication].slice(-this.#options.history);
    }
    this.#push(topic, { pub: publication });
    return { offset: stream.offset, epoch: stream.epoch };
  }

  /** Answer `client.call(name)` and `subscription.call(name)` with the result of a function. */
  method(name: string, method: Method): void {
    this.#methods.set(name, method);
  }

  /** Refuse subscriptions to a topic and end the present ones, until `allow`. */
  refuse(topic: string, code = 103, message = "permission denied", temporary = false): void {
    this.#refusals.set(topic, new Refusal(code, message, temporary));
    if (!temporary) this.unsubscribe(topic, 2000, message);
  }

  allow(topic: string): void {
    this.#refusals.delete(topic);
  }

  /** End all subscriptions to a topic; with codes from 2500 on, clients subscribe again. */
  unsubscribe(topic: string, code = 2000, reason = "unsubscribed by the server"): void {
    for (const connection of this.#subscribers(topic)) {
      this.#unsubscribe(connection, topic);
      connection.deliver({ push: { channel: topic, unsubscribe: { code, reason } } });
    }
  }

  /** Whisper as another subscriber does: the `whisper` event of subscriptions. */
  whisper(topic: string, data: unknown, info: ClientInfo = { client: "another" }): void {
    this.#push(topic, { whisper: { data, info } });
  }

  /** Send a message to every connection: the `message` event of clients. */
  message(data: unknown): void {
    for (const connection of this.connections) {
      connection.deliver({ push: { message: { data } } });
    }
  }

  /** Close every connection with a code. */
  disconnect(code: number, reason = ""): void {
    for (const connection of [...this.connections]) connection.end(code, reason);
  }

  /** Lose every connection and refuse new ones until `up()`. */
  down(): void {
    this.isDown = true;
    this.disconnect(1006);
  }

  up(): void {
    this.isDown = false;
  }

  /** Delete the history of all topics: clients subscribe again and find a gap. */
  forgetHistory(): void {
    const topics = [...this.#streams.keys()];
    this.#streams.clear();
    for (const topic of topics) this.unsubscribe(topic, 2500, "insufficient state");
  }

  /** Wait until no frame and no promise is on its way. Uses no clock. */
  async settled(): Promise<void> {
    for (let round = 0; round < 50; round++) await undefined;
  }

  #onFrame(connection: FakeConnection, frame: string): void {
    for (const line of frame.split("\n")) {
      const { id, ...command } = JSON.parse(line);
      const [method] = Object.keys(command);
      if (!method) continue;
      const reply = (result: unknown): void => connection.deliver({ id, [method]: result });
      const replyError = ({ code = 100, message, temporary = false }: Refusal): void =>
        connection.deliver({ id, error: { code, message, temporary } });
      try {
        const result = this.#execute(connection, method, command[method]);
        if (result instanceof Promise) result.then(reply, replyError);
        else reply(result);
      } catch (refusal) {
        replyError(refusal as Refusal);
      }
    }
  }

  #onClose(connection: FakeConnection): void {
    this.connections.delete(connection);
    for (const topic of connection.topics.keys()) this.#unsubscribe(connection, topic);
  }

  #execute(connection: FakeConnection, method: string, params: Params): unknown {
    if (method !== "connect" && !connection.id) throw new Refusal(107, "connect comes first");
    const { channel: topic = "" } = params;
    switch (method) {
      case "connect":
        connection.user = this.#options.user(params.token ?? "");
        connection.id = `client-${++this.#lastId}`;
        return { client: connection.id, version: "fake", ping: 0, pong: false };
      case "subscribe":
        return this.#subscribe(connection, topic, params);
      case "unsubscribe":
        this.#unsubscribe(connection, topic);
        return {};
      case "presence":
        return { presence: this.presence(topic) };
      case "history":
        return this.#history(topic, params);
      case "rpc":
        return this.#call(connection, params);
      case "ping":
      case "sub_refresh":
        return {};
      case "refresh":
        this.#options.user(params.token);
        return {};
      default:
        throw new Refusal(104, `the fake server has no ${method}`);
    }
  }

  /** Return the members of a topic, by client id. */
  presence(topic: string): Record<string, ClientInfo> {
    return Object.fromEntries(this.#subscribers(topic).map(({ id, info }) => [id, info]));
  }

  #subscribers(topic: string): FakeConnection[] {
    return [...this.connections].filter((connection) => connection.topics.has(topic));
  }

  #subscribe(connection: FakeConnection, topic: string, params: Params): object {
    const refusal = this.#refusals.get(topic);
    if (refusal) throw refusal;
    if (connection.topics.has(topic)) throw new Refusal(105, "already subscribed");
    const { offset, epoch, history } = this.#stream(topic);
    const missed = offset - (params.offset ?? 0);
    const recovered =
      this.#options.history > 0 &&
      !!params.recover &&
      params.epoch === epoch &&
      missed >= 0 &&
      missed <= history.length;
    if (params.recover && !recovered && params.flag & REFUSE_GAPS) {
      throw new Refusal(112, "unrecoverable position");
    }
    this.#push(topic, { join: { info: connection.info } }, { onlyJoinLeave: true });
    connection.topics.set(topic, params);
    if (!this.#options.history) return {};
    return {
      recoverable: true,
      positioned: true,
      offset,
      epoch,
      was_recovering: !!params.recover,
      recovered,
      publications: recovered && missed ? history.slice(-missed) : [],
    };
  }

  #history(topic: string, { limit = 0, since, reverse }: Params): object {
    const { offset, epoch, history } = this.#stream(topic);
    if (!this.#options.history) throw new Refusal(108, "not available");
    let found = history;
    if (since && since.epoch !== epoch) throw new Refusal(112, "unrecoverable position");
    if (reverse) found = [...history].reverse();
    if (since) {
      found = found.filter((each) =>
        reverse ? each.offset! < since.offset : each.offset! > since.offset,
      );
    }
    return { offset, epoch, publications: limit < 0 ? found : found.slice(0, limit) };
  }

  #call(connection: FakeConnection, { method, data }: Params): unknown {
    const { user } = connection;
    if (!/^\$(publish|call|whisper)$/.test(method)) return this.#run(method, data, user, "");
    const topic: string = data.channel;
    if (!connection.topics.has(topic)) throw new Refusal(103, "permission denied");
    if (method === "$call") return this.#run(data.method, data.data, user, topic);
    if (method === "$whisper") {
      const whisper = { data: data.data ?? null, info: connection.info };
      this.#push(topic, { whisper }, { except: connection });
      return {};
    }
    if (this.#keys.has(data.key)) return {};
    this.#keys.add(data.key);
    this.published.push({ topic, data: data.data, key: data.key, user });
    this.publish(topic, data.data, { info: connection.info });
    return {};
  }

  async #run(name: string, data: unknown, user: string, topic: string): Promise<object> {
    const method = this.#methods.get(name);
    if (!method) throw new Refusal(104, `no method ${name}; define it with server.method()`);
    return { data: await method(data, { user, topic }) };
  }

  #unsubscribe(connection: FakeConnection, topic: string): void {
    if (!connection.topics.delete(topic)) return;
    this.#push(topic, { leave: { info: connection.info } }, { onlyJoinLeave: true });
  }

  #push(
    channel: string,
    push: object,
    { onlyJoinLeave = false, except }: { onlyJoinLeave?: boolean; except?: FakeConnection } = {},
  ): void {
    for (const connection of this.#subscribers(channel)) {
      if (connection === except) continue;
      if (onlyJoinLeave && !connection.topics.get(channel)!.join_leave) continue;
      connection.deliver({ push: { channel, ...push } });
    }
  }

  #stream(topic: string): Stream {
    const existing = this.#streams.get(topic);
    if (existing) return existing;
    const stream = { epoch: `epoch-${++this.#lastId}`, offset: 0, history: [] };
    this.#streams.set(topic, stream);
    return stream;
  }
}
