/** The publications of one topic, in order and each once, and the position in its stream. */

import type { Emit } from "./emitter.js";
import type { Position, Publication, Push, SubscribeResult } from "./protocol.js";

type StreamEvent = "subscribed" | "gap" | "publication" | "whisper" | "join" | "leave";

export class TopicStream {
  /** @internal How far the stream has been read; undefined while it has no positions. */
  _position: Position | undefined;
  readonly #topic: string;
  readonly #emitEvent: Emit<StreamEvent>;
  /** Whether the topic was subscribed to before. */
  #wasSubscribed = false;

  constructor(topic: string, emit: Emit<StreamEvent>, position?: Position) {
    this.#topic = topic;
    this.#emitEvent = emit;
    this._position = position;
  }

  /** @internal Start, or continue, at the position in the result of a subscribe command. */
  _begin(result: SubscribeResult): void {
    const { recovered = false, offset = 0, epoch = "", publications = [], data } = result;
    const before = this._position;
    const wasRecovering = !!before;
    const isGap = (this.#wasSubscribed || wasRecovering) && !recovered;
    const hasPositions = result.recoverable || result.positioned;
    this.#wasSubscribed = true;
    // Publications up to the known position are skipped if the server repeats them.
    this._position = hasPositions
      ? { offset: recovered && before ? before.offset : 0, epoch }
      : undefined;
    this.#emit("subscribed", { recovered, wasRecovering, data, publications });
    if (isGap) this.#emit("gap", {});
    for (const publication of publications) this.#onPublication(publication);
    // `offset` is the end of the stream, or the requested position: that depends on the server.
    if (this._position) this._position.offset = Math.max(this._position.offset, offset);
  }

  /** @internal */
  _onPush({ pub, whisper, join, leave }: Push): void {
    if (pub) this.#onPublication(pub);
    if (whisper) this.#emit("whisper", whisper, { data: whisper.data });
    if (join) this.#emit("join", join.info);
    if (leave) this.#emit("leave", leave.info);
  }

  #onPublication(publication: Publication): void {
    const position = this._position;
    const { offset, data } = publication;
    if (position && offset) {
      if (offset <= position.offset) return;
      position.offset = offset;
    }
    this.#emit("publication", publication, { data });
  }

  #emit(type: StreamEvent, detail: object, extra?: object): void {
    this.#emitEvent(type, { topic: this.#topic, ...detail }, extra);
  }
}
