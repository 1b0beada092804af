/** A subscription of a page to one topic, over every connection of its client. */

import type { SubscribeOptions } from "./client_options.js";
import {
  RESUBSCRIBE,
  TIMEOUT,
  UNRECOVERABLE_POSITION,
  UNSUBSCRIBED_EXPIRED,
  UNSUBSCRIBED_STATE_INVALIDATED,
} from "./codes.js";
import type { CommandQueue } from "./command_queue.js";
import { Emitter } from "./emitter.js";
import { TopicError } from "./errors.js";
import type {
  PublicationEvent,
  Reason,
  SubscriptionEvents,
  SubscriptionState,
} from "./events.js";
import type { Outbox } from "./outbox.js";
import { Presence } from "./presence.js";
import type {
  ClientInfo,
  History,
  HistoryOptions,
  Position,
  Push,
  SubscribeResult,
} from "./protocol.js";
import { Timer, type TimerOptions } from "./timer.js";
import { TokenManager } from "./token_manager.js";
import { TopicStream } from "./topic_stream.js";

/** Any topic where the page has not declared its topics, else none. */
export type UndeclaredTopic<Topics> = string extends keyof Topics ? string : never;

/** What may be published to a topic; nothing where the map lacks it. */
export type Sent<Sends, N> = N extends keyof Sends ? Sends[N] : never;

/** Arguments and result of a method; of any method where it is not declared. */
type Signature<F> = 0 extends 1 & F
  ? [data: [data?: any], result: any]
  : F extends (...data: infer Data) => infer Result
    ? [data: Data, result: Result]
    : never;

/** What a subscription uses of its client. */
export interface SubscriptionContext {
  _options: TimerOptions;
  _commands: CommandQueue;
  _outbox: Outbox;
  /** Ends the connection after an error; the client reconnects. */
  _failConnection(error: unknown): void;
  /** @throws DOMException InvalidStateError when the topic has another subscription. */
  _register(topic: string, subscription: Subscription<any>): void;
  _unregister(topic: string): void;
  /** Sends what has waited for a subscription. */
  _flush(): void;
}

/** Functions for the events of a subscription, by the name of the event. */
export type TopicListeners<T = any, Methods = any, Data = T> = {
  [K in keyof SubscriptionEvents<T>]?: (
    event: SubscriptionEvents<T>[K],
    subscription: Subscription<T, Methods, Data>,
  ) => unknown;
};

/** Seconds that a subscription outlasts its last listener: another one may follow at once. */
const LINGER = 1;
/** Publications that a `for await` loop may leave unread. */
const MAX_BACKLOG = 1000;
/** Flag of a subscribe command: answer with an error where a gap is unavoidable. */
const REFUSE_GAPS = 2;

/**
 * A topic that is subscribed to, by `client.subscribe(...)`.
 *
 * Publications arrive in order and once. After an outage the subscription continues where
 * it was, or emits `gap` when it cannot.
 */
export class Subscription<T = any, Methods = any, Data = T> extends Emitter<SubscriptionEvents<T>> {
  readonly topic: string;
  #context: SubscriptionContext;
  #options: SubscribeOptions;
  #state: SubscriptionState = "unsubscribed";
  #stream: TopicStream;
  #presence: Presence;
  #tokens: TokenManager;
  #retryTimer: Timer;
  #attempt = 0;
  /** Changes when the reply to a request that was sent is no longer wanted. */
  #generation = 0;
  #reason: Reason = { code: 0, reason: "" };
  /** How many calls of `listen()` have not been stopped. */
  #listening = 0;
  /** @internal Whether the page has subscribed itself, so that it unsubscribes itself. */
  _isKept = false;

  /** @internal Pages call `client.subscribe()`. */
  constructor(context: SubscriptionContext, topic: string, options: SubscribeOptions) {
    super(
      "presence joined left subscribing subscribed unsubscribed publication whisper gap join leave stream error",
    );
    const { getToken, since, token } = options;
    const { _commands, _options } = context;
    this.topic = topic;
    this.#context = context;
    this.#options = options;
    this.#stream = new TopicStream(topic, this._emit, since && { ...since });
    const config = {
      _commands,
      _options,
      _topic: topic,
      _token: token,
      _getToken: getToken && (() => getToken({ topic })),
      _end: this.#end,
      _emit: this._emit,
    };
    this.#presence = new Presence(config);
    this.#tokens = new TokenManager(config);
    this.#retryTimer = new Timer(_options);
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  /** How far the topic has been read; undefined while it keeps no positions. */
  get position(): Position | undefined {
    const position = this.#stream._position;
    return position && { ...position };
  }

  /** The members by client id: up to date with the option `presence: true`, else empty. */
  get presence(): ReadonlyMap<string, ClientInfo> {
    return this.#presence._members;
  }

  /** Subscribe again after an end; listeners are kept. */
  subscribe(): void {
    if (this.#state !== "unsubscribed") return;
    this.#context._register(this.topic, this);
    this.#setState("subscribing", 0, "subscribe called");
    this._start();
  }

  /** Unsubscribe, and do not subscribe again. It ends the subscription for all its users. */
  unsubscribe(): void {
    if (this.#state === "unsubscribed") return;
    const { _commands, _failConnection } = this.#context;
    if (_commands._isReady()) {
      _commands._send("unsubscribe", { channel: this.topic }, (error) => {
        // It is not known whether the server still sends publications.
        if (error?.code === TIMEOUT) _failConnection(error);
      });
    }
    this.#end(0, "unsubscribe called");
  }

  /**
   * Publish; the promise is fulfilled when the server has the message. Offline it waits,
   * and after an outage it is repeated; the server accepts it once.
   *
   * @throws TopicError when the server refuses it or the client is disconnected.
   * @throws DOMException QuotaExceededError when the outbox is full.
   */
  publish(data: Data): Promise<void> {
    return this.#context._outbox._publish(this.topic, data);
  }

  /**
   * Send to the other subscribers, without storing it: that the user types, a cursor.
   *
   * It is dropped without a connection and beyond the topic's rate; another refusal is
   * emitted as `error`.
   */
  whisper(data?: unknown): void {
    const { topic } = this;
    if (this.#state !== "subscribed") return;
    const params = { method: "$whisper", data: { channel: topic, data } };
    const done = (error?: TopicError): void => {
      if (error && !error.temporary) this._emit("error", null, { error });
    };
    this.#context._commands._send("rpc", params, done, undefined, topic);
  }

  /** Call a method of the topic on the server. @throws TopicError when it is refused. */
  call<M extends keyof Methods & string>(
    method: M,
    ...data: Signature<Methods[M]>[0]
  ): Promise<Signature<Methods[M]>[1]>;
  call<R>(method: UndeclaredTopic<Methods>, data?: unknown): Promise<R>;
  async call(method: string, data?: unknown): Promise<any> {
    const { topic } = this;
    const params = { method: "$call", data: { channel: topic, method, data } };
    return (await this.#context._commands._request("rpc", params, topic)).data;
  }

  /** Return publications of the topic's history. @throws TopicError when it is refused. */
  async history(options?: HistoryOptions): Promise<History<T>> {
    const { topic } = this;
    const params = { channel: topic, limit: -1, ...options };
    const { publications = [], offset = 0, epoch = "" } = await this.#context._commands._request(
      "history",
      params,
      topic,
    );
    return { publications, offset, epoch };
  }

  /**
   * The messages from now on. Ends when the page unsubscribes.
   *
   * @throws TopicError when the server ends the subscription, and when more than 1000
   *   messages are unread.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    const unread: T[] = [];
    let wake = (): void => {};
    const end = new AbortController();
    const onPublication = ({ data }: PublicationEvent<T>): void => {
      if (unread.length <= MAX_BACKLOG) unread.push(data);
      wake();
    };
    this.addEventListener("publication", onPublication, end);
    this.addEventListener("unsubscribed", () => wake(), end);
    try {
      for (;;) {
        const { code, reason } = this.#reason;
        if (unread.length > MAX_BACKLOG) {
          throw new TopicError(0, `${MAX_BACKLOG} messages behind`);
        }
        if (unread.length) yield unread.shift()!;
        else if (this.#state !== "unsubscribed") await new Promise<void>((done) => (wake = done));
        else if (code) throw new TopicError(code, reason, false, this.topic);
        else return;
      }
    } finally {
      end.abort();
    }
  }

  /** @internal Add listeners until the returned function is called, as `Client.listen()`. */
  _listen(listeners: TopicListeners<T, Methods, Data>, since?: Position): () => void {
    const end = new AbortController();
    for (const [type, listener] of Object.entries<any>(listeners)) {
      this.addEventListener(type, (event) => listener(event, this), end);
    }
    this.#listening++;
    if (this.#state === "subscribed") {
      const { epoch, offset } = this.position ?? {};
      const recovered = !!since && epoch === since.epoch && offset! <= since.offset;
      const detail = { topic: this.topic, recovered, wasRecovering: !!since };
      queueMicrotask(() => {
        if (end.signal.aborted) return;
        listeners.subscribed?.(new CustomEvent("subscribed", { detail }), this);
      });
    }
    return () => {
      if (end.signal.aborted) return;
      end.abort();
      this.#listening--;
      this.#context._options.window.setTimeout(() => {
        if (!this.#listening && !this._isKept) this.unsubscribe();
      }, LINGER * 1e3);
    };
  }

  /** @internal Send a subscribe command, if there is a connection. */
  async _start(): Promise<void> {
    const { getState, presence, data, tagsFilter } = this.#options;
    const { topic } = this;
    const { _commands, _failConnection } = this.#context;
    const stream = this.#stream;
    const tokens = this.#tokens;
    const generation = this.#generation;
    if (!_commands._isReady()) return;
    const onError = (error: unknown): void => {
      if (generation !== this.#generation) return;
      tokens._onFailure(error, (expired) => (expired ? this._start() : this.#retry(error)));
    };
    try {
      if (tokens._isMissing) await tokens._fetch();
      if (generation === this.#generation && getState && !stream._position) {
        const { offset, epoch } = await Promise.resolve({ topic }).then(getState);
        if (generation === this.#generation) stream._position = { offset, epoch };
      }
    } catch (error) {
      return onError(error);
    }
    if (generation !== this.#generation) return;
    const params = {
      channel: topic,
      token: tokens._token,
      data,
      recoverable: true,
      tf: tagsFilter,
      ...(stream._position && { recover: true, ...stream._position }),
      ...(presence && { join_leave: true }),
      ...(getState && { flag: REFUSE_GAPS }),
    };
    _commands._send("subscribe", params, (error?: TopicError, result?: SubscribeResult) => {
      if (generation !== this.#generation) return;
      if (!error) return this.#begin(result!);
      this.#presence._stop();
      if (error.code === TIMEOUT) _failConnection(error);
      else if (error.code === UNRECOVERABLE_POSITION && getState) {
        stream._position = undefined;
        if (this.#attempt++) this.#retry(error);
        else this._start();
      } else onError(error);
    });
    if (presence) this.#presence._request();
  }

  /** @internal The connection is lost, or the server asks to subscribe again. */
  _onLost(code: number, reason: string): void {
    this.#generation++;
    this.#retryTimer._stop();
    this.#tokens._stop(this.#state !== "unsubscribed");
    this.#presence._stop();
    if (this.#state === "subscribed") this.#setState("subscribing", code, reason);
  }

  /** @internal Discard the token and the position. */
  _invalidate(): void {
    this.#tokens._drop();
    this.#stream._position = undefined;
  }

  /** @internal */
  _onPush(push: Push): void {
    const { unsubscribe } = push;
    if (this.#state !== "subscribed") return;
    if (!unsubscribe) {
      this.#stream._onPush(push);
      if (this.#options.presence) this.#presence._onPush(push);
      return;
    }
    const { code, reason } = unsubscribe;
    if (code < RESUBSCRIBE) return this.#end(code, reason);
    if (code === UNSUBSCRIBED_EXPIRED) this.#tokens._drop();
    if (code === UNSUBSCRIBED_STATE_INVALIDATED) this._invalidate();
    this._onLost(code, reason);
    this.#retry();
  }

  #end = (code: number, reason: string): void => {
    this.#state = "unsubscribed";
    this._onLost(code, reason);
    this.#context._unregister(this.topic);
    this.#presence._clear();
    this.#stream._position = undefined;
    this.#setState("unsubscribed", code, reason);
    if (code) this._warnUnheard(`no subscription: ${reason} (${code})`, "unsubscribed");
  };

  #begin(result: SubscribeResult): void {
    this.#attempt = 0;
    this.#state = "subscribed";
    this.#tokens._watch(result);
    this.#stream._begin(result);
    this.#context._flush();
  }

  #retry(error?: unknown): void {
    this.#retryTimer._setBackoff(this.#attempt++, () => this._start());
    if (error) this._emit("error", null, { error });
  }

  #setState(state: "subscribing" | "unsubscribed", code: number, reason: string): void {
    this.#state = state;
    this.#reason = { code, reason };
    this._emit(state, this.#reason);
  }
}
