/**
 * Who is in a topic: snapshots and the news between them, merged as a set.
 * Relies on ids that are never reused: who was seen leaving never comes back.
 */

import { Timer } from "./timer.js";
import type { Client } from "./client.js";
import type { TopicError } from "./errors.js";
import type { Subscription } from "./subscription.js";
import type { ClientInfo, Push } from "./protocol.js";

/** Seconds between snapshots, which bring back whatever a lost message took. */
const INTERVAL = 60;
/** Seconds by which the clients of a room spread. */
const SPREAD = 6;
/**
 * How many of a room ask in a second, when much has changed at once: what each is answered
 * is as long as the room is large.
 */
const ASKING = 20;

export class Presence {
  /** @internal */
  readonly _members = new Map<string, ClientInfo>();
  #client: Client<any>;
  #room: Subscription<any>;
  #timer: Timer;
  /** Joined since the snapshot was asked for, which may not name them yet. */
  #joined = new Set<string>();
  /** Whether much has changed since then. */
  #stale = false;
  /** Left, and not yet confirmed by a snapshot that does not name them. */
  #left = new Set<string>();

  constructor(client: Client<any>, room: Subscription<any>) {
    this.#client = client;
    this.#room = room;
    this.#timer = new Timer(client._options);
  }

  /** @internal Ask for a snapshot: in the frame of `subscribe`, and regularly. */
  _ask = (): void => {
    this.#joined.clear();
    this.#stale = false;
    this.#client._ask(
      "presence",
      { channel: this.#room.topic },
      (error?: TopicError, result?: { presence?: Record<string, ClientInfo> }) => {
        // Answers come in order, so this one is of the subscription that holds.
        if (this.#room.state !== "subscribed") return;
        if (error) this.#room._error(error);
        else this.#merge(new Map(Object.entries(result!.presence ?? {})));
        if (error && !error.temporary) return;
        // Unless it is to be asked sooner.
        if (!this.#stale) this.#askIn(INTERVAL, SPREAD);
      },
    );
  };

  #askIn(least: number, spread: number): void {
    const chance = this.#client._options.window.Math.random();
    this.#timer._set(least + spread * chance, this._ask);
  }

  /** @internal */
  _push({ join, leave, changed }: Push): void {
    if (changed) {
      this.#stale = true;
      return this.#askIn(0, Math.min(INTERVAL, this._members.size / ASKING));
    }
    const { info } = (join ?? leave)!;
    const id = info.client;
    if (leave) {
      this.#left.add(id);
      if (!this.#remove(id, this._members.get(id))) return;
    } else {
      this.#joined.add(id);
      if (!this.#add(id, info)) return;
    }
    this.#changed();
  }

  /** @internal No snapshot is waited for any more. */
  _stop(): void {
    this.#timer._stop();
  }

  /** @internal The topic is left. */
  _clear(): void {
    this._members.clear();
    this.#left.clear();
  }

  #merge(snapshot: Map<string, ClientInfo>): void {
    for (const id of this.#left) if (!snapshot.has(id)) this.#left.delete(id);
    for (const [id, info] of this._members) {
      if (!snapshot.has(id) && !this.#joined.has(id)) this.#remove(id, info);
    }
    for (const [id, info] of snapshot) this.#add(id, info);
    this.#changed();
  }

  #add(id: string, info: ClientInfo): boolean {
    if (this.#left.has(id) || this._members.has(id)) return false;
    this._members.set(id, info);
    this.#room._emit("joined", info);
    return true;
  }

  #remove(id: string, info: ClientInfo | undefined): boolean {
    if (info) this.#room._emit("left", info);
    return this._members.delete(id);
  }

  #changed(): void {
    this.#room._emit("presence", this._members);
  }
}
