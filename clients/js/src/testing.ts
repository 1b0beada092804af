/**
 * A topics' server for tests of pages: no network, no Django, one object.
 * Behaves as the real one does where a client can tell; keeps everything in memory.
 *
 *     const server = new FakeServer();
 *     const client = new Client("/connection/", { window: server.window });
 *     const room = client.subscribe("room:lobby");
 *     await server.settled();
 *     server.publish("room:lobby", { text: "hi" });
 */

import type { Environment } from "./options.js";
import type { ClientInfo, Position, Publication } from "./protocol.js";

/** Answered to a client instead of a result; throw it in a method. */
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
  /** The idempotency key; the same publication comes with the same key. */
  key: string;
  user: string;
}

export type Method = (data: any, context: { user: string; topic: string }) => unknown;

export interface FakeServerOptions {
  /** Publications that every topic keeps; 0: topics without a history. Default 100. */
  history?: number;
  /** Who a token stands for; throw a `Refusal` for one that does not hold. Default: the token. */
  user?: (token: string) => string;
}

interface Stream {
  epoch: string;
  offset: number;
  kept: Publication[];
}

type Body = Record<string, any>;

const REFUSE_GAPS = 2;

/** Node 20 has no CloseEvent; every browser has. */
class CloseEventOfTests extends Event {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;
  constructor(type: string, init: CloseEventInit = {}) {
    super(type);
    this.code = init.code ?? 0;
    this.reason = init.reason ?? "";
    this.wasClean = init.wasClean ?? false;
  }
}

/** The client's end of a connection: as much of a WebSocket as the client looks at. */
export class FakeConnection {
  readyState = 0;
  readonly protocol = "";
  readonly extensions = "";
  readonly bufferedAmount = 0;
  binaryType: BinaryType = "blob";
  onopen: ((event: Event) => void) | null = null;
  onmessage: ((event: MessageEvent) => void) | null = null;
  onerror: ((event: Event) => void) | null = null;
  onclose: ((event: CloseEvent) => void) | null = null;
  /** Given by the server when it welcomes the client. */
  id = "";
  user = "";
  /** The topics this connection receives, and what it asked of each. */
  readonly topics = new Map<string, Body>();
  #server: FakeServer;

  constructor(
    server: FakeServer,
    readonly url: string,
  ) {
    globalThis.CloseEvent ??= CloseEventOfTests as unknown as typeof CloseEvent;
    this.#server = server;
    queueMicrotask(() => {
      if (this.readyState) return;
      if (server.isDown) return this.end(1006);
      this.readyState = 1;
      server.connections.add(this);
      this.onopen?.(new Event("open"));
    });
  }

  get info(): ClientInfo {
    return { user: this.user, client: this.id };
  }

  send(frame: string): void {
    queueMicrotask(() => {
      if (this.readyState === 1) this.#server.hear(this, frame);
    });
  }

  close(code = 1005, reason = ""): void {
    if (this.readyState < 2) queueMicrotask(() => this.end(code, reason));
    this.readyState = 2;
  }

  /** Say something to the client. */
  say(line: object): void {
    if (this.readyState === 1) {
      this.onmessage?.(new MessageEvent("message", { data: JSON.stringify(line) }));
    }
  }

  /** End the connection from the server's side, or without a word (1006). */
  end(code: number, reason = ""): void {
    this.readyState = 3;
    this.#server.forget(this);
    if (code === 1006) this.onerror?.(new Event("error"));
    this.onclose?.(new CloseEvent("close", { code, reason, wasClean: code !== 1006 }));
  }
}

export class FakeServer {
  /** Hand this to the client, as its option `window`. */
  readonly window: Environment;
  /** What clients have published, oldest first; repetitions are not in it. */
  readonly published: Published[] = [];
  readonly connections = new Set<FakeConnection>();
  /** Whether connections are refused as by a server that is not there. */
  isDown = false;
  #options: Required<FakeServerOptions>;
  #streams = new Map<string, Stream>();
  #methods = new Map<string, Method>();
  #closed = new Map<string, Refusal>();
  #keys = new Set<string>();
  #serial = 0;

  constructor(options: FakeServerOptions = {}) {
    const server = this;
    this.#options = { history: 100, user: (token) => token, ...options };
    this.window = {
      WebSocket: class extends FakeConnection {
        constructor(url: string) {
          super(server, url);
        }
      } as unknown as Environment["WebSocket"],
      // Looked up at each call, so that a test runner's fake clock holds here too.
      setTimeout: (callback, milliseconds) => globalThis.setTimeout(callback, milliseconds),
      clearTimeout: (timer) => globalThis.clearTimeout(timer),
      Math: globalThis.Math,
      performance: { now: () => globalThis.performance.now() },
      location: { href: "http://server.test/" },
    };
  }

  /** Publish, as a view of the site would. */
  publish(topic: string, data: unknown, extra: Partial<Publication> = {}): Position {
    const stream = this.#stream(topic);
    const isKept = this.#options.history > 0;
    const publication: Publication = { ...extra, data };
    if (isKept) {
      publication.offset = ++stream.offset;
      stream.kept = [...stream.kept, publication].slice(-this.#options.history);
    }
    this.#tell(topic, { pub: publication });
    return { offset: stream.offset, epoch: stream.epoch };
  }

  /** Answer `client.call(name)` and `room.call(name)`; what is returned is the answer. */
  method(name: string, answer: Method): void {
    this.#methods.set(name, answer);
  }

  /** Refuse subscriptions to a topic and end those there are; `allow` undoes it. */
  refuse(topic: string, code = 103, message = "permission denied", temporary = false): void {
    this.#closed.set(topic, new Refusal(code, message, temporary));
    if (!temporary) this.unsubscribe(topic, 2000, message);
  }

  allow(topic: string): void {
    this.#closed.delete(topic);
  }

  /** End all subscriptions to a topic; clients subscribe again from 2500 on. */
  unsubscribe(topic: string, code = 2000, reason = "unsubscribed by the server"): void {
    for (const connection of this.#subscribers(topic)) {
      this.#leave(connection, topic);
      connection.say({ push: { channel: topic, unsubscribe: { code, reason } } });
    }
  }

  /** Say something to every connection, as the client's `message` event. */
  message(data: unknown): void {
    for (const connection of this.connections) connection.say({ push: { message: { data } } });
  }

  /** Close every connection with a code. */
  disconnect(code: number, reason = ""): void {
    for (const connection of [...this.connections]) connection.end(code, reason);
  }

  /** Break every connection and refuse new ones until `up()`. */
  down(): void {
    this.isDown = true;
    this.disconnect(1006);
  }

  up(): void {
    this.isDown = false;
  }

  /** Forget what topics have kept: who comes back finds a gap. */
  forgetHistory(): void {
    const topics = [...this.#streams.keys()];
    this.#streams.clear();
    for (const topic of topics) this.unsubscribe(topic, 2500, "insufficient state");
  }

  /** Wait until nothing is on its way. Uses no clock. */
  async settled(): Promise<void> {
    for (let round = 0; round < 50; round++) await undefined;
  }

  /** @internal */
  hear(connection: FakeConnection, frame: string): void {
    for (const line of frame.split("\n")) {
      const { id, ...command } = JSON.parse(line);
      const [method] = Object.keys(command);
      if (!method) continue;
      const answer = (result: unknown): void => connection.say({ id, [method]: result });
      const refuse = ({ code = 100, message, temporary = false }: Refusal): void =>
        connection.say({ id, error: { code, message, temporary } });
      try {
        const result = this.#obey(connection, method, command[method]);
        if (result instanceof Promise) result.then(answer, refuse);
        else answer(result);
      } catch (refusal) {
        refuse(refusal as Refusal);
      }
    }
  }

  /** @internal */
  forget(connection: FakeConnection): void {
    this.connections.delete(connection);
    for (const topic of connection.topics.keys()) this.#leave(connection, topic);
  }

  #obey(connection: FakeConnection, method: string, asked: Body): unknown {
    if (method !== "connect" && !connection.id) throw new Refusal(107, "connect comes first");
    const { channel: topic = "" } = asked;
    switch (method) {
      case "connect":
        connection.user = this.#options.user(asked.token ?? "");
        connection.id = `client-${++this.#serial}`;
        return { client: connection.id, version: "fake", ping: 0, pong: false };
      case "subscribe":
        return this.#subscribe(connection, topic, asked);
      case "unsubscribe":
        this.#leave(connection, topic);
        return {};
      case "presence":
        return { presence: this.presence(topic) };
      case "history":
        return this.#history(topic, asked);
      case "rpc":
        return this.#call(connection, asked);
      case "ping":
      case "sub_refresh":
        return {};
      case "refresh":
        this.#options.user(asked.token);
        return {};
      default:
        throw new Refusal(104, `${method} is not known to this fake`);
    }
  }

  /** Who is in a topic, by id. */
  presence(topic: string): Record<string, ClientInfo> {
    return Object.fromEntries(this.#subscribers(topic).map(({ id, info }) => [id, info]));
  }

  #subscribers(topic: string): FakeConnection[] {
    return [...this.connections].filter((connection) => connection.topics.has(topic));
  }

  #subscribe(connection: FakeConnection, topic: string, asked: Body): object {
    const refusal = this.#closed.get(topic);
    if (refusal) throw refusal;
    if (connection.topics.has(topic)) throw new Refusal(105, "already subscribed");
    const { offset, epoch, kept } = this.#stream(topic);
    const isKept = this.#options.history > 0;
    const missed = offset - (asked.offset ?? 0);
    const recovered =
      isKept && !!asked.recover && asked.epoch === epoch && missed >= 0 && missed <= kept.length;
    if (asked.recover && !recovered && asked.flag & REFUSE_GAPS) {
      throw new Refusal(112, "unrecoverable position");
    }
    this.#tell(topic, { join: { info: connection.info } }, true);
    connection.topics.set(topic, asked);
    if (!isKept) return {};
    return {
      recoverable: true,
      positioned: true,
      offset,
      epoch,
      was_recovering: !!asked.recover,
      recovered,
      publications: recovered && missed ? kept.slice(-missed) : [],
    };
  }

  #history(topic: string, { limit = 0, since, reverse }: Body): object {
    const { offset, epoch, kept } = this.#stream(topic);
    if (!this.#options.history) throw new Refusal(108, "not available");
    let found = kept;
    if (since && since.epoch !== epoch) throw new Refusal(112, "unrecoverable position");
    if (reverse) found = [...kept].reverse();
    if (since) {
      found = found.filter((each) =>
        reverse ? each.offset! < since.offset : each.offset! > since.offset,
      );
    }
    return { offset, epoch, publications: limit < 0 ? found : found.slice(0, limit) };
  }

  #call(connection: FakeConnection, { method, data }: Body): unknown {
    const { user } = connection;
    if (method !== "$publish" && method !== "$call") return this.#run(method, data, user, "");
    const topic: string = data.channel;
    if (!connection.topics.has(topic)) throw new Refusal(103, "permission denied");
    if (method === "$call") return this.#run(data.method, data.data, user, topic);
    if (this.#keys.has(data.key)) return {};
    this.#keys.add(data.key);
    this.published.push({ topic, data: data.data, key: data.key, user });
    this.publish(topic, data.data, { info: connection.info });
    return {};
  }

  async #run(name: string, data: unknown, user: string, topic: string): Promise<object> {
    const method = this.#methods.get(name);
    if (!method) throw new Refusal(104, `no method ${name}; give the fake server one`);
    return { data: await method(data, { user, topic }) };
  }

  #leave(connection: FakeConnection, topic: string): void {
    if (!connection.topics.delete(topic)) return;
    this.#tell(topic, { leave: { info: connection.info } }, true);
  }

  #tell(channel: string, push: object, onlyWatchers = false): void {
    for (const connection of this.#subscribers(channel)) {
      if (onlyWatchers && !connection.topics.get(channel)!.join_leave) continue;
      connection.say({ push: { channel, ...push } });
    }
  }

  #stream(topic: string): Stream {
    const known = this.#streams.get(topic);
    if (known) return known;
    const stream = { epoch: `epoch-${++this.#serial}`, offset: 0, kept: [] };
    this.#streams.set(topic, stream);
    return stream;
  }
}
