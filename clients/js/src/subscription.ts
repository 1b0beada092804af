/**
 * One topic, as a page holds it: what arrives, who is there, and what can be asked.
 * Knows no transport; it survives every connection of its client.
 */

import { Timer } from "./timer.js";
import type { Client } from "./client.js";
import { Emitter } from "./emitter.js";
import { TIMEOUT, TopicError } from "./errors.js";
import { TopicStream } from "./topic_stream.js";
import { Presence } from "./presence.js";
import { type Answer, TokenManager } from "./token_manager.js";
import type {
  ClientInfo,
  Expiry,
  History,
  HistoryOptions,
  Position,
  Publication,
  Push,
  SubscribeResult,
} from "./protocol.js";

export type SubscriptionState = "subscribing" | "subscribed" | "unsubscribed";

export interface SubscribeOptions {
  /** A position that the page has seen: the first subscription continues there. */
  since?: Position | undefined;
  /**
   * Load the topic's state into the page, and say at which position it was read: read
   * the position first, then the state. Called when there is no position to continue
   * from, and when the server cannot continue from the one there was.
   */
  getState?: (context: { topic: string }) => Promise<Position> | Position;
  /** Keep `presence` up to date. Default false: a topic of many costs traffic. */
  presence?: boolean;
  /** The token for this topic, where it needs one. */
  token?: string;
  /** Fetches a token; called again when it expires. */
  getToken?: (context: { topic: string }) => Promise<string> | string;
  /** Sent to the server with the subscription. */
  data?: unknown;
}

/** What a change of state says; 0 is the page's own wish. */
export interface Reason {
  code: number;
  reason: string;
}

export interface Subscribed {
  topic: string;
  /** Whether nothing was missed since the position that was asked for. */
  recovered: boolean;
  /** Whether a position was asked for. */
  wasRecovering: boolean;
  data?: unknown;
}

/** A publication; `data` is the message and `detail` what is known about it. */
export interface PublicationEvent<T> extends CustomEvent<Publication<T> & { topic: string }> {
  readonly data: T;
}

export interface SubscriptionEvents<T = any> {
  publication: PublicationEvent<T>;
  subscribing: CustomEvent<Reason>;
  subscribed: CustomEvent<Subscribed>;
  unsubscribed: CustomEvent<Reason>;
  /** Messages may have been missed that will not come: load the state anew. */
  gap: CustomEvent<{ topic: string }>;
  /** Somebody came or went, as the server tells it; for a list of all see `presence`. */
  join: CustomEvent<ClientInfo & { topic: string }>;
  leave: CustomEvent<ClientInfo & { topic: string }>;
  /** `presence` has a member more, a member less, or was brought up to date. */
  joined: CustomEvent<ClientInfo>;
  left: CustomEvent<ClientInfo>;
  presence: CustomEvent<ReadonlyMap<string, ClientInfo>>;
  error: Event & { readonly error: unknown };
}

/** Any name, unless it was said which there are. */
export type Unlisted<Map> = string extends keyof Map ? string : never;

/** Arguments and answer of a method; those of any method where it is not known. */
type Signature<F> = 0 extends 1 & F
  ? [data: [data?: any], answer: any]
  : F extends (...data: infer Data) => infer Answer
    ? [data: Data, answer: Answer]
    : never;

/** Publications that a `for await` may lie behind before it is told so. */
const MAX_BACKLOG = 1000;
const UNRECOVERABLE = 112;
/** The flag of a subscription that is refused rather than continued with a gap. */
const REFUSE_GAPS = 2;

/**
 * A topic that is subscribed to, by `client.subscribe(...)`.
 *
 * Publications arrive in order and once. After an outage the subscription continues
 * where it was, or says with a `gap` event that it cannot.
 */
export class Subscription<T = any, Methods = any> extends Emitter<SubscriptionEvents<T>> {
  /** @internal */
  readonly _options: Client<any>["_options"];
  /** @internal */
  readonly _make: (() => Promise<string> | string) | undefined;
  #client: Client<any>;
  #given: SubscribeOptions;
  #state: SubscriptionState = "unsubscribed";
  #stream: TopicStream;
  #presence: Presence;
  #tokens: TokenManager;
  #retry: Timer;
  #attempt = 0;
  /** Changes whenever what was asked is void, so that a late answer is noticed. */
  #generation = 0;
  #reason: Reason = { code: 0, reason: "" };

  /** @internal Pages call `client.subscribe()`. */
  constructor(client: Client<any>, topic: string, options: SubscribeOptions) {
    super();
    const { getToken, since, token } = options;
    this.#client = client;
    this.#given = options;
    this._options = client._options;
    this._make = getToken && (() => getToken({ topic }));
    this.#stream = new TopicStream(topic, this, since && { ...since });
    this.#presence = new Presence(client, this);
    this.#tokens = new TokenManager(this, token);
    this.#retry = new Timer(client._options);
  }

  get topic(): string {
    return this.#stream._topic;
  }

  get state(): SubscriptionState {
    return this.#state;
  }

  /** How far the topic has been read; undefined while it keeps no positions. */
  get position(): Position | undefined {
    const position = this.#stream._position;
    return position && { ...position };
  }

  /** Who is here, by id: up to date when subscribed with `presence: true`, else empty. */
  get presence(): ReadonlyMap<string, ClientInfo> {
    return this.#presence._members;
  }

  /** Subscribe again after an end; listeners are kept. */
  subscribe(): void {
    if (this.#state !== "unsubscribed") return;
    this.#client._hold(this);
    this.#move("subscribing", 0, "subscribe called");
    this._start();
  }

  /** Leave the topic for good. Other holders of the same subscription leave with you. */
  unsubscribe(): void {
    if (this.#state === "unsubscribed") return;
    if (this.#client.state === "connected") {
      this.#client._ask("unsubscribe", { channel: this.topic }, (error) => {
        // Whether the server still sends is not known, so that nothing may be sent.
        if (error?.code === TIMEOUT) this.#client._drop(error);
      });
    }
    this._end(0, "unsubscribe called");
  }

  /**
   * Publish, and know that it arrived: the promise is kept until the server has the
   * message. Offline it waits, and after an outage it is repeated; the server takes it once.
   *
   * @throws TopicError when the server refuses, or the client ends for good.
   * @throws DOMException QuotaExceededError when the outbox is full.
   */
  publish(data: T): Promise<void> {
    return this.#client.publish(this.topic, data);
  }

  /** Call a method of the topic on the server. @throws TopicError when it is refused. */
  call<M extends keyof Methods & string>(
    method: M,
    ...data: Signature<Methods[M]>[0]
  ): Promise<Signature<Methods[M]>[1]>;
  call<R>(method: Unlisted<Methods>, data?: unknown): Promise<R>;
  call(method: string, data?: unknown): Promise<any> {
    return this.#client.call("$call", { channel: this.topic, method, data }, this.topic);
  }

  /** What the topic keeps. @throws TopicError when it is refused. */
  async history(options?: HistoryOptions): Promise<History<T>> {
    const { topic } = this;
    const asked = { channel: topic, limit: -1, ...options };
    const { publications = [], offset = 0, epoch = "" } = await this.#client._request(
      "history",
      asked,
      topic,
    );
    return { publications, offset, epoch };
  }

  /**
   * The messages from now on. Ends when the page unsubscribes.
   *
   * @throws TopicError when the server ends the subscription, and when the loop lies
   *   1000 messages behind.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    const waiting: T[] = [];
    let wake = (): void => {};
    const hear = ({ data }: PublicationEvent<T>): void => {
      if (waiting.length <= MAX_BACKLOG) waiting.push(data);
      wake();
    };
    const end = (): void => wake();
    this.addEventListener("publication", hear);
    this.addEventListener("unsubscribed", end);
    try {
      for (;;) {
        const { code, reason } = this.#reason;
        if (waiting.length > MAX_BACKLOG) throw new TopicError(0, `the loop is ${MAX_BACKLOG} messages behind`);
        if (waiting.length) yield waiting.shift()!;
        else if (this.#state !== "unsubscribed") await new Promise<void>((done) => (wake = done));
        else if (code) throw new TopicError(code, reason);
        else return;
      }
    } finally {
      this.removeEventListener("publication", hear);
      this.removeEventListener("unsubscribed", end);
    }
  }

  /** @internal Ask the server, if there is a connection. */
  async _start(): Promise<void> {
    const { getState, presence, data } = this.#given;
    const { topic } = this;
    const stream = this.#stream;
    const client = this.#client;
    const tokens = this.#tokens;
    const generation = this.#generation;
    if (client.state !== "connected") return;
    const failed = (error: unknown): void => {
      if (generation === this.#generation) tokens._onFailure(error, () => this.#again(error));
    };
    try {
      if (tokens._missing) await tokens._fetch();
      if (generation === this.#generation && getState && !stream._position) {
        const { offset, epoch } = await Promise.resolve({ topic }).then(getState);
        if (generation === this.#generation) stream._position = { offset, epoch };
      }
    } catch (error) {
      return failed(error);
    }
    if (generation !== this.#generation) return;
    const asked = {
      channel: topic,
      token: tokens._token,
      data,
      recoverable: true,
      ...(stream._position && { recover: true, ...stream._position }),
      ...(presence && { join_leave: true }),
      ...(getState && { flag: REFUSE_GAPS }),
    };
    client._ask("subscribe", asked, (error?: TopicError, result?: SubscribeResult) => {
      if (generation !== this.#generation) return;
      if (!error) this.#begin(result!);
      else if (error.code === TIMEOUT) client._drop(error);
      else if (error.code === UNRECOVERABLE && getState) {
        stream._position = undefined;
        if (this.#attempt++) this.#again(error);
        else this._start();
      } else failed(error);
    });
    if (presence) this.#presence._ask();
  }

  /** @internal The connection is gone. */
  _lost(code: number, reason: string): void {
    this.#generation++;
    this.#retry._stop();
    this.#tokens._stop();
    this.#presence._stop();
    if (this.#state === "subscribed") this.#move("subscribing", code, reason);
  }

  /** @internal What the page has may be worth nothing any more. */
  _invalidate(): void {
    this.#tokens._drop();
    this.#stream._position = undefined;
  }

  /** @internal */
  _push(push: Push): void {
    const { unsubscribe } = push;
    if (this.#state !== "subscribed") return;
    if (!unsubscribe) {
      this.#stream._push(push);
      if (this.#given.presence && (push.join ?? push.leave ?? push.changed)) this.#presence._push(push);
      return;
    }
    const { code, reason } = unsubscribe;
    if (code < 2500) return this._end(code, reason);
    if (code === 2501) this.#tokens._drop();
    if (code === 2502) this._invalidate();
    this._lost(code, reason);
    this.#again();
  }

  /** @internal */
  _end(code: number, reason: string): void {
    this.#state = "unsubscribed";
    this._lost(code, reason);
    this.#client._release(this);
    this.#presence._clear();
    this.#stream._position = undefined;
    this.#move("unsubscribed", code, reason);
  }

  /** @internal */
  _renew(token: string, done: Answer<Expiry>): void {
    this.#client._ask("sub_refresh", { channel: this.topic, token }, done);
  }

  #begin(result: SubscribeResult): void {
    this.#attempt = 0;
    this.#state = "subscribed";
    this.#tokens._watch(result);
    this.#stream._begin(result);
    this.#client._pump();
  }

  #again(error?: unknown): void {
    this.#retry._retry(this.#attempt++, () => this._start());
    if (error) this._error(error);
  }

  #move(state: "subscribing" | "unsubscribed", code: number, reason: string): void {
    this.#state = state;
    this.#reason = { code, reason };
    this._emit(state, this.#reason);
  }
}
