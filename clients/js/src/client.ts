/**
 * One connection to the topics of a Django site, for everything a page subscribes to.
 * Speaks the protocol of `spec/`; knows nothing of how its text is carried.
 */

import { Connection, type Transport } from "./connection.js";
import { Emitter } from "./emitter.js";
import { DISCONNECTED, LOST, TIMEOUT, TopicError } from "./errors.js";
import type { StateDetail } from "./events.js";
import { TopicStream } from "./topic_stream.js";
import { resolveOptions, DEFAULTS, type SocketOptions } from "./options.js";
import { Outbox } from "./outbox.js";
import { type Reason, type SubscribeOptions, type Subscribed, Subscription, type Unlisted } from "./subscription.js";
import { type Answer, TokenManager } from "./token_manager.js";
import type {
  ClientInfo,
  ConnectResult,
  Expiry,
  Publication,
  Push,
  Reply,
  SubscribeResult,
} from "./protocol.js";

export type ClientState = "connecting" | "connected" | "disconnected";

/** Every time is in seconds, as in the template tag. */
export interface ClientOptions
  extends Omit<
    SocketOptions,
    "heartbeat" | "heartbeatTimeout" | "heartbeatMessage" | "retryOn"
  > {
  /** The first token, where the page has it already. */
  token?: string;
  /** Fetches a token; called again when it expires. Pages with a session need none. */
  getToken?: () => Promise<string> | string;
  /** Sent to the server when connecting. */
  data?: unknown;
  /** What a browser cannot put into the headers of a WebSocket. */
  headers?: Record<string, string>;
  /** What to try, in order. Default WebSocket, then HTTP streaming, then SSE. */
  transports?: readonly Transport[];
  /** How long an answer may take: a little longer than a server works at a call. Default 35. */
  timeout?: number;
  /** Positions that the page has seen: topic to [epoch, offset]. */
  positions?: Record<string, readonly [epoch: string, offset: number]>;
}

/** What a badge in a page would show. */
export interface ClientStateDetail extends StateDetail {
  state: ClientState;
}

type Named<T> = CustomEvent<T & { topic: string }>;

/** The events with a topic are those of subscriptions that the server made. */
export interface ClientEvents {
  state: CustomEvent<ClientStateDetail>;
  connecting: CustomEvent<Reason>;
  connected: CustomEvent<{ client: string; transport: Transport; data?: unknown }>;
  disconnected: CustomEvent<Reason>;
  /** The server speaks to this connection; `data` is what it says. */
  message: CustomEvent<object> & { readonly data: any };
  subscribed: CustomEvent<Subscribed>;
  unsubscribed: Named<Reason>;
  publication: Named<Publication> & { readonly data: any };
  gap: Named<object>;
  join: Named<ClientInfo>;
  leave: Named<ClientInfo>;
  error: Event & { readonly error?: unknown };
}

interface Command {
  _id: number;
  _topic: string;
  _method: string;
  _body: string;
  _done: Answer;
  _timer: unknown;
}

/** What the server takes as one frame is 64 KB; a character is at most three bytes. */
const FRAME = 16384;

const CLIENT_DEFAULTS = {
  ...DEFAULTS,
  token: "",
  getToken: undefined as ClientOptions["getToken"],
  data: undefined as unknown,
  headers: undefined as ClientOptions["headers"],
  transports: ["websocket", "http_stream", "sse"] as readonly Transport[],
  timeout: 35,
  positions: {} as NonNullable<ClientOptions["positions"]>,
};

/** A client for its own parts, which carry any message. */
type Whole = Client<any>;

/**
 * A connection that comes back, and the topics that come back with it.
 *
 * @typeParam Topics What each topic carries, by name: an interface whose keys are names
 *   or templates of names. Without it every topic carries anything.
 * @typeParam Calls What can be called on each topic: the same keys, with methods.
 */
export class Client<
  Topics extends object = Record<string, any>,
  Calls extends object = Record<string, any>,
> extends Emitter<ClientEvents> {
  /** @internal */
  readonly _options: typeof CLIENT_DEFAULTS;
  /** @internal */
  readonly _make: ClientOptions["getToken"];
  #connection: Connection;
  #state: ClientState = "connecting";
  #tokens: TokenManager;
  #outbox: Outbox;
  #subscriptions = new Map<string, Subscription>();
  /** What the server subscribed this connection to. */
  #streams = new Map<string, TopicStream>();
  /** Asked on the present connection, by id. */
  #asked = new Map<number, Command>();
  /** To be asked on the next connection. */
  #waiting = new Set<Command>();
  /** The next frame. */
  #lines: string[] = [];
  #serial = 0;
  #pong = false;
  #positions: Map<string, readonly [epoch: string, offset: number]>;
  #detail: StateDetail = { status: "connecting", attempt: 0, delay: 0 };

  /**
   * @param url The prefix of the endpoints, absolute or relative to the page.
   *   One that cannot be parsed is an `error` event, and the end.
   * @throws TypeError when an option is unknown.
   */
  constructor(url: string | URL = "/connection/", options: ClientOptions = {}) {
    super();
    this._options = resolveOptions(options, CLIENT_DEFAULTS);
    const { token, getToken, data, headers, transports, timeout, positions, ...socket } =
      this._options;
    this._make = getToken;
    this.#positions = new Map(Object.entries(positions));
    this.#tokens = new TokenManager(this, token);
    this.#outbox = new Outbox(this as unknown as Whole);
    const connection = new Connection(
      url,
      {
        // The first command would stand in the address, for every log on the way.
        _transports: () =>
          transports.filter((name) => name !== "sse" || !(this.#tokens._token || headers)),
        _prepare: async () => {
          try {
            if (this.#tokens._missing) await this.#tokens._fetch();
          } catch (error) {
            this.#tokens._onFailure(error, () => {});
            throw error;
          }
        },
        _greet: () => this.#greet(),
        _probe: () => JSON.stringify({ id: ++this.#serial, ping: {} }),
      },
      socket,
    );
    this.#connection = connection;
    connection.addEventListener("message", ({ data }) => this.#receive(data));
    connection.addEventListener("error", ({ error }) => this._error(error));
    connection.addEventListener("close", ({ code, reason, willReconnect }) => {
      if (this.#state === "disconnected") return;
      if (code === 3005 || code === 3014) this.#tokens._drop();
      if (code === 3014) {
        for (const room of this.#subscriptions.values()) room._invalidate();
        for (const stream of this.#streams.values()) stream._position = undefined;
      }
      this.#move(willReconnect ? "connecting" : "disconnected", code, reason);
    });
    connection.addEventListener("state", ({ detail }) => {
      this.#detail = detail;
      // The others are told when it is known what they mean.
      if (this.#state === "connecting" && !/open|closed/.test(detail.status)) this.#tell();
    });
  }

  get state(): ClientState {
    return this.#state;
  }

  /** What carries the connection. */
  get transport(): Transport {
    return this.#connection.transport;
  }

  /**
   * Receive a topic. The same topic gives the same subscription until it is left.
   *
   * @param options Those of the first call hold.
   */
  subscribe<N extends keyof Topics & string>(
    topic: N,
    options?: SubscribeOptions,
  ): Subscription<Topics[N], N extends keyof Calls ? Calls[N] : object>;
  subscribe<T>(topic: Unlisted<Topics>, options?: SubscribeOptions): Subscription<T>;
  subscribe(topic: string, options: SubscribeOptions = {}): Subscription {
    const known = this.#subscriptions.get(topic);
    if (known) return known;
    const seen = this.#positions.get(topic);
    // What the page was made with is old after its first use.
    this.#positions.delete(topic);
    const since = options.since ?? (seen && { epoch: seen[0], offset: seen[1] });
    const room = new Subscription(this as unknown as Whole, topic, { ...options, since });
    room.subscribe();
    return room;
  }

  /** Publish to a topic of which the page is a subscriber; see `Subscription.publish`. */
  publish<N extends keyof Topics & string>(topic: N, data: Topics[N]): Promise<void> {
    if (this.#state === "disconnected") return Promise.reject(this.#refusal());
    return this.#outbox._add(topic, data);
  }

  /**
   * Call a method on the server, now or as soon as there is a connection.
   * It is sent once: when the connection breaks before the answer, nobody knows.
   *
   * @throws TopicError when it is refused, lost or not answered in time.
   */
  call<R = any>(method: string, data?: unknown): Promise<R>;
  /** @internal */
  call<R = any>(method: string, data: unknown, topic: string): Promise<R>;
  async call(method: string, data?: unknown, topic?: string): Promise<any> {
    return (await this._request("rpc", { method, data }, topic)).data;
  }

  /** Say something that needs no answer. Without a connection it is lost: false. */
  send(data: unknown): boolean {
    const isConnected = this.#state === "connected";
    if (isConnected) this.#write(`{"send":${JSON.stringify({ data })}}`);
    return isConnected;
  }

  /** Connect again after an end, with every subscription and every listener. */
  connect(): void {
    if (this.#state !== "disconnected") return;
    this.#connection.reconnect();
    this.#move("connecting", 0, "connect called");
  }

  /** Disconnect for good. What is not acknowledged is rejected. */
  disconnect(): void {
    this._end(0, "disconnect called");
  }

  /** @internal */
  _ask(method: string, asked: object | string, done: Answer, timeout?: number): void {
    this.#write(this.#line(this.#command(method, asked, done, timeout)));
  }

  /** @internal The answer to a command; it may wait for a connection. */
  _request(method: string, asked: object, topic = ""): Promise<any> {
    return new Promise((resolve, reject) => {
      if (this.#state === "disconnected") throw this.#refusal();
      const command = this.#command(method, asked, (error, result) => {
        this.#waiting.delete(command);
        if (error) reject(error);
        else resolve(result);
      });
      command._topic = topic;
      this.#waiting.add(command);
      this._pump();
    });
  }

  /** @internal Whether what concerns a topic may be sent: the server hears subscribers only. */
  _ready(topic: string): boolean {
    return this.#state === "connected" && this.#subscriptions.get(topic)?.state !== "subscribing";
  }

  /** @internal Send what has waited for a connection or a subscription. */
  _pump(): void {
    for (const command of this.#waiting) {
      if (this._ready(command._topic) && this.#waiting.delete(command)) {
        this.#write(this.#line(command));
      }
    }
    this.#outbox._flush();
  }

  /** @internal Give this connection up for a new one. */
  _drop(error: unknown): void {
    this.#connection._fail(error);
  }

  /** @internal */
  _end(code: number, reason: string): void {
    this.#detail = { status: "closed", attempt: 0, delay: 0 };
    this.#move("disconnected", code, reason);
    this.#connection.close();
  }

  /** @internal */
  _renew(token: string, done: Answer<Expiry>): void {
    this._ask("refresh", { token }, done);
  }

  /** @internal */
  _hold(room: Subscription): void {
    const { topic } = room;
    if (this.#subscriptions.has(topic)) {
      throw new DOMException(`another subscription holds ${topic}`, "InvalidStateError");
    }
    this.#subscriptions.set(topic, room);
  }

  /** @internal */
  _release(room: Subscription): void {
    this.#subscriptions.delete(room.topic);
    this._pump();
  }

  #command(
    method: string,
    asked: object | string,
    done: Answer,
    timeout = this._options.timeout,
  ): Command {
    const body = typeof asked === "string" ? asked : JSON.stringify(asked);
    const command: Command = {
      _id: 0,
      _topic: "",
      _method: method,
      _body: body,
      _done: done,
      _timer: undefined,
    };
    if (timeout) {
      command._timer = this._options.window.setTimeout(() => {
        this.#asked.delete(command._id);
        done(new TopicError(TIMEOUT, `no answer to ${method} within ${timeout} s`, true), {});
      }, timeout * 1e3);
    }
    return command;
  }

  /** The command as text, with its answer waited for. */
  #line(command: Command): string {
    command._id = ++this.#serial;
    this.#asked.set(command._id, command);
    return `{"id":${command._id},"${command._method}":${command._body}}`;
  }

  /** What is said in one task goes out in one frame. */
  #write(line: string): void {
    if (this.#lines.push(line) === 1) queueMicrotask(this.#flush);
  }

  #flush = (): void => {
    let frame = "";
    for (const line of this.#lines.splice(0)) {
      if (frame && frame.length + line.length > FRAME) {
        this.#connection.send(frame);
        frame = "";
      }
      frame += frame ? `\n${line}` : line;
    }
    if (frame) this.#connection.send(frame);
  };

  #greet(): string {
    const { data, headers } = this._options;
    const subs: Record<string, object> = {};
    for (const command of this.#asked.values()) this.#forget(command);
    for (const [topic, { _position }] of this.#streams) {
      if (_position) subs[topic] = { recover: true, ..._position };
    }
    const asked = { name: "tiderace", token: this.#tokens._token || undefined, data, headers, subs };
    const done: Answer<ConnectResult> = (error, result) => {
      if (!error) this.#welcome(result);
      // No answer on a connection that was given up before.
      else if (this.#connection.readyState === 1) this.#tokens._onFailure(error, () => this._drop(error));
    };
    return this.#line(this.#command("connect", asked, done, this._options.connectTimeout));
  }

  #welcome(result: ConnectResult): void {
    const { client, data, node, ping = 0, pong = false, session } = result;
    const subs = new Map(Object.entries(result.subs ?? {}));
    const { transport } = this.#connection;
    this.#pong = pong;
    this.#connection._welcome(ping, { session, node });
    this.#tokens._watch(result);
    this.#state = "connected";
    for (const room of this.#subscriptions.values()) void room._start();
    this._pump();
    this._emit("connected", { client, transport, data });
    this.#tell();
    for (const topic of this.#streams.keys()) {
      if (!subs.has(topic)) this.#leave(topic, { code: 2000, reason: "not subscribed any more" });
    }
    for (const [topic, sub] of subs) this.#enter(topic, sub);
  }

  #receive(data: string): void {
    this.#connection._works();
    try {
      for (const line of data.split("\n")) {
        // A connection that was given up by an earlier line is not heard any more.
        if (line && this.#connection.readyState === 1) this.#handle(JSON.parse(line));
      }
    } catch (error) {
      this._drop(error);
    }
  }

  #handle(reply: Reply): void {
    const { id, error, push } = reply;
    if (push) this.#push(push);
    else if (id) {
      const command = this.#asked.get(id);
      if (!command) return;
      this.#forget(command);
      command._done(
        error && new TopicError(error.code, error.message, error.temporary),
        reply[command._method] ?? {},
      );
    } else if (this.#pong && !Object.keys(reply)[0]) this.#connection.send("{}");
  }

  #push(push: Push): void {
    const { channel = "", disconnect, message, refresh, subscribe, unsubscribe } = push;
    const room = this.#subscriptions.get(channel);
    if (message) this._emit("message", message, { data: message.data });
    else if (disconnect) this.#connection._fail(undefined, false, disconnect);
    else if (refresh) this.#tokens._watch(refresh);
    else if (subscribe) this.#enter(channel, subscribe);
    else if (room) room._push(push);
    else if (unsubscribe) this.#leave(channel, unsubscribe);
    else this.#streams.get(channel)?._push(push);
  }

  #enter(topic: string, result: SubscribeResult): void {
    const stream = this.#streams.get(topic) ?? new TopicStream(topic, this);
    this.#streams.set(topic, stream);
    stream._begin(result);
  }

  #leave(topic: string, { code, reason }: Reason): void {
    if (this.#streams.delete(topic)) this._emit("unsubscribed", { topic, code, reason });
  }

  #move(state: ClientState, code: number, reason: string): void {
    const before = this.#state;
    this.#state = state;
    this.#lines = [];
    this.#tokens._stop();
    for (const room of this.#subscriptions.values()) room._lost(1, "connection lost");
    const lost = new TopicError(LOST, "connection lost", true);
    for (const command of this.#asked.values()) this.#forget(command)._done(lost, {});
    if (state === "disconnected") {
      for (const command of this.#waiting) this.#forget(command)._done(this.#refusal(), {});
      this.#outbox._clear(this.#refusal());
    }
    if (state === before) return;
    this._emit(state as "connecting", { code, reason });
    this.#tell();
  }

  #forget(command: Command): Command {
    this.#asked.delete(command._id);
    this._options.window.clearTimeout(command._timer as never);
    return command;
  }

  #refusal(): TopicError {
    return new TopicError(DISCONNECTED, "the client is disconnected; connect() connects it");
  }

  #tell(): void {
    this._emit("state", { ...this.#detail, state: this.#state });
  }
}
