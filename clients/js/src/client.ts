/** One connection to the topics of a site, for all subscriptions of a page. */

import { CLIENT_DEFAULTS, SUBSCRIBE_DEFAULTS, type ClientOptions, type SubscribeOptions } from "./client_options.js";
import {
  CLOSE_EXPIRED,
  CLOSE_STATE_INVALIDATED,
  DISCONNECTED,
  UNSUBSCRIBED,
} from "./codes.js";
import { CommandQueue, type ReplyHandler } from "./command_queue.js";
import { Connection } from "./connection.js";
import { encode } from "./encode.js";
import { Emitter } from "./emitter.js";
import { TopicError } from "./errors.js";
import type { ClientEvents, ClientState, Reason, StateDetail } from "./events.js";
import { resolveOptions, type Transport } from "./options.js";
import { Outbox } from "./outbox.js";
import type { ConnectResult, Push, Reply, SubscribeResult } from "./protocol.js";
import {
  type Sent,
  Subscription,
  type SubscriptionContext,
  type TopicListeners,
  type UndeclaredTopic,
} from "./subscription.js";
import { TokenManager } from "./token_manager.js";
import { TopicStream } from "./topic_stream.js";

/**
 * A connection that reconnects, with its subscriptions.
 *
 * @typeParam Topics What is received in each topic: an interface whose keys are names or
 *   templates of names. Without it every topic carries anything.
 * @typeParam Calls The methods of each topic, under the same keys.
 * @typeParam Sends What may be published to each topic, under the same keys; by default
 *   what is received.
 */
export class Client<
  Topics extends object = Record<string, any>,
  Calls extends object = Record<string, any>,
  Sends extends object = Topics,
> extends Emitter<ClientEvents> {
  #options: typeof CLIENT_DEFAULTS;
  #state: ClientState = "connecting";
  #stateDetail: StateDetail = { status: "connecting", attempt: 0, delay: 0 };
  #connection: Connection;
  #commands: CommandQueue;
  #outbox: Outbox;
  #tokens: TokenManager;
  #subscriptions = new Map<string, Subscription>();
  #subscriptionContext: SubscriptionContext;
  /** The subscriptions that the server made, by topic. */
  #serverStreams = new Map<string, TopicStream>();
  /** Positions that the page has seen, until their first use. */
  #positions: Map<string, readonly [epoch: string, offset: number]>;
  /** Whether the server expects an answer to its pings. */
  #sendsPong = false;

  /**
   * @param url The prefix of the endpoints, absolute or relative to the page. One that
   *   cannot be parsed ends the client, with an `error` event.
   * @throws TypeError when an option or its value is unknown.
   */
  constructor(url: string | URL = "/connection/", options: ClientOptions = {}) {
    super(
      "state connecting connected disconnected message subscribed unsubscribed publication whisper gap join leave error",
    );
    this.#options = resolveOptions(options, CLIENT_DEFAULTS);
    const { token, getToken, data, headers, transports, timeout, positions, ...socketOptions } =
      this.#options;
    this.#positions = new Map(Object.entries(positions));
    const commands = new CommandQueue(
      this.#options,
      (topic) =>
        this.#state === "connected" && this.#subscriptions.get(topic!)?.state !== "subscribing",
      (frame) => connection.send(frame),
    );
    this.#commands = commands;
    this.#outbox = new Outbox(commands, this.#options);
    this.#tokens = new TokenManager({
      _commands: commands,
      _options: this.#options,
      _token: token,
      _getToken: getToken,
      _end: this.#end,
      _emit: this._emit,
    });
    const connection = new Connection(
      url,
      {
        // SSE puts the connect command into the URL, which proxies and servers log.
        _transports: () =>
          transports.filter((name) => name !== "sse" || !(this.#tokens._token || headers)),
        _prepare: async () => {
          try {
            if (this.#tokens._isMissing) await this.#tokens._fetch();
          } catch (error) {
            this.#tokens._onFailure(error);
            throw error;
          }
        },
        _connectCommand: this.#connectCommand,
        _pingCommand: () => commands._encode("ping", {}, () => {}, 0),
      },
      socketOptions,
    );
    this.#connection = connection;
    this.#subscriptionContext = {
      _options: this.#options,
      _commands: commands,
      _outbox: this.#outbox,
      _failConnection: (error) => connection._fail(error),
      _register: (topic, subscription) => {
        if (this.#subscriptions.has(topic)) {
          throw new DOMException(`${topic} has another subscription`, "InvalidStateError");
        }
        this.#subscriptions.set(topic, subscription);
      },
      _unregister: (topic) => {
        this.#subscriptions.delete(topic);
        this.#flush();
      },
      _flush: this.#flush,
    };
    connection.addEventListener("message", ({ data }) => this.#onFrame(data));
    connection.addEventListener("error", ({ error }) => this._emit("error", null, { error }));
    connection.addEventListener("close", ({ code, reason, willReconnect }) => {
      if (this.#state === "disconnected") return;
      if (code === CLOSE_EXPIRED || code === CLOSE_STATE_INVALIDATED) this.#tokens._drop();
      if (code === CLOSE_STATE_INVALIDATED) {
        for (const subscription of this.#subscriptions.values()) subscription._invalidate();
        for (const stream of this.#serverStreams.values()) stream._position = undefined;
      }
      this.#setState(willReconnect ? "connecting" : "disconnected", code, reason);
    });
    connection.addEventListener("state", ({ detail }) => {
      this.#stateDetail = detail;
      // After "open" and "closed" the client's own state changes, which emits the event.
      if (this.#state === "connecting" && !/open|closed/.test(detail.status)) this.#emitState();
    });
  }

  get state(): ClientState {
    return this.#state;
  }

  /** The transport of the present connection or attempt. */
  get transport(): Transport {
    return this.#connection.transport;
  }

  /**
   * Subscribe to a topic. Until it is unsubscribed, the same topic gives the same
   * subscription, with the options of the first call.
   *
   * @throws TypeError for a topic that is not a string, and an unknown option or value.
   */
  subscribe<N extends keyof Topics & string>(
    topic: N,
    options?: SubscribeOptions,
  ): Subscription<Topics[N], N extends keyof Calls ? Calls[N] : object, Sent<Sends, N>>;
  subscribe<T>(topic: UndeclaredTopic<Topics>, options?: SubscribeOptions): Subscription<T>;
  subscribe(topic: string, options: SubscribeOptions = {}): Subscription {
    const subscription = this.#open(topic, options);
    subscription._isKept = true;
    return subscription;
  }

  /**
   * Listen to a topic until the returned function is called: for parts of a page that come
   * and go. The first listener subscribes. One second after the last one has ended, the page
   * unsubscribes, unless it has called `subscribe()` itself.
   *
   * A listener of a topic that is subscribed to already gets a `subscribed` event, too:
   * `recovered` is whether nothing was published after `options.since`. The second argument
   * of every listener is the subscription.
   *
   * @param options As for `subscribe()`; those of the first call count, except `since`.
   */
  listen<N extends keyof Topics & string>(
    topic: N,
    listeners: TopicListeners<
      Topics[N],
      N extends keyof Calls ? Calls[N] : object,
      Sent<Sends, N>
    >,
    options?: SubscribeOptions,
  ): () => void;
  listen<T>(
    topic: UndeclaredTopic<Topics>,
    listeners: TopicListeners<T>,
    options?: SubscribeOptions,
  ): () => void;
  listen(topic: string, listeners: TopicListeners, options: SubscribeOptions = {}) {
    return this.#open(topic, options)._listen(listeners, options.since);
  }

  #open(topic: string, options: SubscribeOptions): Subscription {
    if (typeof topic !== "string") throw new TypeError(`topic ${topic} is not a string`);
    resolveOptions(options, SUBSCRIBE_DEFAULTS);
    const existing = this.#subscriptions.get(topic);
    if (existing) return existing;
    const seen = this.#positions.get(topic);
    this.#positions.delete(topic);
    const since = options.since ?? (seen && { epoch: seen[0], offset: seen[1] });
    const subscription = new Subscription(this.#subscriptionContext, topic, { ...options, since });
    subscription.subscribe();
    return subscription;
  }

  /** Publish to a topic that the page is subscribed to, as `Subscription.publish`. */
  publish<N extends keyof Sends & string>(topic: N, data: Sends[N]): Promise<void> {
    return this.#outbox._publish(topic, data);
  }

  /**
   * Call a method on the server, now or as soon as there is a connection. It is sent once:
   * when the connection is lost before the reply, the method may have run or not.
   *
   * @throws TopicError when it is refused, lost or not answered in time.
   */
  async call<R = any>(method: string, data?: unknown): Promise<R> {
    return (await this.#commands._request("rpc", { method, data })).data;
  }

  /** Send a message without a reply; return false, and send nothing, without a connection. */
  send(data: unknown): boolean {
    const isConnected = this.#state === "connected";
    if (isConnected) this.#commands._write(encode({ send: { data } } as object));
    return isConnected;
  }

  /** Connect again after an end, with every subscription and every listener. */
  connect(): void {
    if (this.#state !== "disconnected") return;
    this.#connection.reconnect();
    this.#setState("connecting", 0, "connect called");
  }

  /** Disconnect for good. What is not acknowledged is rejected. */
  disconnect(): void {
    this.#end(0, "disconnect called");
  }

  #end = (code: number, reason: string): void => {
    this.#stateDetail = { status: "closed", attempt: 0, delay: 0 };
    this.#setState("disconnected", code, reason);
    this.#connection.close();
  };

  /** Send what has waited for a connection or a subscription. */
  #flush = (): void => {
    this.#commands._flush();
    this.#outbox._flush();
  };

  #connectCommand = (): string => {
    const { connectTimeout, data, headers } = this.#options;
    const subs: Record<string, object> = {};
    for (const [topic, { _position }] of this.#serverStreams) {
      if (_position) subs[topic] = { recover: true, ..._position };
    }
    const token = this.#tokens._token || undefined;
    const params = { name: "tiderace", token, data, headers, subs };
    const done: ReplyHandler<ConnectResult> = (error, result) => {
      if (!error) this.#onConnected(result);
      // Otherwise the command belongs to a connection that was closed before.
      else if (this.#connection.readyState === 1) {
        this.#tokens._onFailure(error, (expired) => this.#connection._fail(error, false, expired));
      }
    };
    this.#commands._discard();
    return this.#commands._encode("connect", params, done, connectTimeout);
  };

  #onConnected(result: ConnectResult): void {
    const { client, data, node, ping = 0, pong = false, session } = result;
    const subs = new Map(Object.entries(result.subs ?? {}));
    const { transport } = this.#connection;
    this.#sendsPong = pong;
    this.#connection._onConnected(ping, { session, node });
    this.#tokens._watch(result);
    this.#state = "connected";
    for (const subscription of this.#subscriptions.values()) void subscription._start();
    this.#flush();
    this._emit("connected", { client, transport, data });
    this.#emitState();
    for (const topic of this.#serverStreams.keys()) {
      if (!subs.has(topic)) {
        this.#endServerStream(topic, { code: UNSUBSCRIBED, reason: "not subscribed" });
      }
    }
    for (const [topic, sub] of subs) this.#beginServerStream(topic, sub);
  }

  #onFrame(frame: string): void {
    this.#connection._confirmTransport();
    try {
      for (const line of frame.split("\n")) {
        // An earlier line may have ended the connection.
        if (line && this.#connection.readyState === 1) this.#onReply(JSON.parse(line));
      }
    } catch (error) {
      this.#connection._fail(error);
    }
  }

  #onReply(reply: Reply): void {
    if (reply.push) this.#onPush(reply.push);
    else if (reply.id) this.#commands._onReply(reply);
    // An empty reply is a ping.
    else if (this.#sendsPong && !Object.keys(reply)[0]) this.#connection.send("{}");
  }

  #onPush(push: Push): void {
    const { channel = "", disconnect, message, refresh, subscribe, unsubscribe } = push;
    const subscription = this.#subscriptions.get(channel);
    // A streamed call belongs to a subscription.
    if (message && subscription) subscription._emit("stream", message.data);
    else if (message) this._emit("message", message, { data: message.data });
    else if (disconnect) this.#connection._fail(undefined, false, disconnect);
    else if (refresh) this.#tokens._watch(refresh);
    else if (subscribe) this.#beginServerStream(channel, subscribe);
    else if (subscription) subscription._onPush(push);
    else if (unsubscribe) this.#endServerStream(channel, unsubscribe);
    else this.#serverStreams.get(channel)?._onPush(push);
  }

  #beginServerStream(topic: string, result: SubscribeResult): void {
    const stream = this.#serverStreams.get(topic) ?? new TopicStream(topic, this._emit);
    this.#serverStreams.set(topic, stream);
    stream._begin(result);
  }

  #endServerStream(topic: string, reason: Reason): void {
    if (this.#serverStreams.delete(topic)) this._emit("unsubscribed", { topic, ...reason });
  }

  /** Leave the present connection: what depends on it fails or waits for the next one. */
  #setState(state: "connecting" | "disconnected", code: number, reason: string): void {
    const before = this.#state;
    this.#state = state;
    this.#tokens._stop(state === "connecting");
    for (const subscription of this.#subscriptions.values()) {
      subscription._onLost(1, "connection lost");
    }
    if (state === "disconnected") {
      const message = "disconnected; call connect()";
      const refusal = new TopicError(DISCONNECTED, message);
      this.#commands._reset(refusal);
      this.#outbox._clear(refusal);
    } else this.#commands._reset();
    if (state === before) return;
    this._emit(state, { code, reason });
    this.#emitState();
    if (code && state === "disconnected") {
      this._warnUnheard(`disconnected: ${reason} (${code})`, state, "state");
    }
  }

  #emitState(): void {
    this._emit("state", { ...this.#stateDetail, state: this.#state });
  }
}
