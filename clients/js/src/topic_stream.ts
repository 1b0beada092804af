/**
 * What arrives from one topic, in order and once, and how far it came.
 * Knows no commands: who subscribed, and how, is another's business.
 */

import type { Emitter } from "./emitter.js";
import type { Position, Publication, Push, SubscribeResult } from "./protocol.js";

export class TopicStream {
  /** @internal Where the stream has been read to; undefined while it has no positions. */
  _position: Position | undefined;
  /** @internal Whether this topic was received before. */
  _known = false;

  /** @internal */
  readonly _topic: string;
  #target: Emitter<any>;

  constructor(topic: string, target: Emitter<any>, position?: Position) {
    this._topic = topic;
    this.#target = target;
    this._position = position;
  }

  /** @internal The subscription holds, from the position in the result on. */
  _begin(result: SubscribeResult): void {
    const { recovered = false, offset = 0, epoch = "", publications = [], data } = result;
    const before = this._position;
    const gap = (this._known || !!before) && !recovered;
    this._known = true;
    const kept = result.recoverable || result.positioned;
    // What was seen before is not shown again, whatever the server repeats.
    this._position = kept ? { offset: recovered && before ? before.offset : 0, epoch } : undefined;
    this.#emit("subscribed", { recovered, wasRecovering: !!before, data });
    if (gap) this.#emit("gap", {});
    for (const publication of publications) this.#publication(publication);
    // Some servers say where the stream ends, others where the request was.
    if (this._position) this._position.offset = Math.max(this._position.offset, offset);
  }

  /** @internal */
  _push({ pub, join, leave }: Push): void {
    if (pub) this.#publication(pub);
    if (join) this.#emit("join", join.info);
    if (leave) this.#emit("leave", leave.info);
  }

  #publication(publication: Publication): void {
    const position = this._position;
    const { offset, data } = publication;
    if (position && offset) {
      if (offset <= position.offset) return;
      position.offset = offset;
    }
    this.#emit("publication", publication, { data });
  }

  #emit(type: string, detail: object, extra?: object): void {
    this.#target._emit(type, { topic: this._topic, ...detail }, extra);
  }
}
