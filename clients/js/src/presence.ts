/**
 * The members of a topic: snapshots, and the joins and leaves between them, merged as a set.
 * Client ids are never reused: a member that left does not come back.
 */

import type { CommandQueue } from "./command_queue.js";
import type { Emit } from "./emitter.js";
import type { TopicError } from "./errors.js";
import type { ClientInfo, Push } from "./protocol.js";
import { Timer, type TimerOptions } from "./timer.js";

/** Seconds between snapshots, which repair what a lost push left wrong. */
const INTERVAL = 60;
/** Seconds over which the snapshots of a topic's clients are spread. */
const JITTER = 6;
/**
 * Snapshots per second that all clients of a topic request after a mass change: the size of
 * a snapshot grows with the number of members.
 */
const SNAPSHOT_RATE = 20;

export interface PresenceConfig {
  _commands: CommandQueue;
  _options: TimerOptions;
  _topic: string;
  _emit: Emit<"joined" | "left" | "presence" | "error">;
}

export class Presence {
  /** @internal */
  readonly _members = new Map<string, ClientInfo>();
  #config: PresenceConfig;
  #timer: Timer;
  /** Joined since the latest request of a snapshot, which may not contain them yet. */
  #joined = new Set<string>();
  /** Left, and not yet confirmed by a snapshot without them. */
  #left = new Set<string>();
  /** Whether there was a mass change since the latest request. */
  #isStale = false;
  /** Changes when the replies to requests that were sent are no longer wanted. */
  #generation = 0;

  constructor(config: PresenceConfig) {
    this.#config = config;
    this.#timer = new Timer(config._options);
  }

  /** @internal Request a snapshot now and then regularly, until `_stop()`. */
  _request = (): void => {
    const generation = this.#generation;
    this.#joined.clear();
    this.#isStale = false;
    this.#config._commands._send(
      "presence",
      { channel: this.#config._topic },
      (error?: TopicError, result?: { presence?: Record<string, ClientInfo> }) => {
        if (generation !== this.#generation) return;
        if (error) this.#config._emit("error", null, { error });
        else this.#merge(new Map(Object.entries(result!.presence ?? {})));
        if (error && !error.temporary) return;
        // After a mass change the timer is set already, to an earlier time.
        if (!this.#isStale) this.#schedule(INTERVAL, JITTER);
      },
    );
  };

  /** @internal */
  _onPush({ join, leave, changed }: Push): void {
    if (changed) {
      this.#isStale = true;
      this.#schedule(0, Math.min(INTERVAL, this._members.size / SNAPSHOT_RATE));
    }
    if (join) {
      this.#joined.add(join.info.client);
      if (this.#add(join.info.client, join.info)) this.#emitPresence();
    }
    if (leave) {
      this.#left.add(leave.info.client);
      if (this.#remove(leave.info.client)) this.#emitPresence();
    }
  }

  /** @internal Ignore the replies on their way and request no more snapshots. */
  _stop(): void {
    this.#generation++;
    this.#timer._stop();
  }

  /** @internal */
  _clear(): void {
    this._members.clear();
    this.#left.clear();
  }

  #schedule(delay: number, jitter: number): void {
    const chance = this.#config._options.window.Math.random();
    this.#timer._set(delay + jitter * chance, this._request);
  }

  #merge(snapshot: Map<string, ClientInfo>): void {
    for (const id of this.#left) if (!snapshot.has(id)) this.#left.delete(id);
    for (const id of this._members.keys()) {
      if (!snapshot.has(id) && !this.#joined.has(id)) this.#remove(id);
    }
    for (const [id, info] of snapshot) this.#add(id, info);
    this.#emitPresence();
  }

  #add(id: string, info: ClientInfo): boolean {
    if (this.#left.has(id) || this._members.has(id)) return false;
    this._members.set(id, info);
    this.#config._emit("joined", info);
    return true;
  }

  #remove(id: string): boolean {
    const info = this._members.get(id);
    if (info) this.#config._emit("left", info);
    return this._members.delete(id);
  }

  #emitPresence(): void {
    this.#config._emit("presence", this._members);
  }
}
