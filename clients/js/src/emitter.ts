/** An EventTarget with typed events. */

type Listener<Target, E> =
  | ((this: Target, event: E) => unknown)
  | { handleEvent(event: E): unknown }
  | null;

/** Dispatches an event; `extra` are properties of the event beside `detail`. */
export type Emit<Type extends string> = (type: Type, detail?: unknown, extra?: object) => void;

export interface Emitter<Events> {
  addEventListener<K extends keyof Events & string>(
    type: K,
    listener: Listener<this, Events[K]>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof Events & string>(
    type: K,
    listener: Listener<this, Events[K]>,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

export class Emitter<Events> extends EventTarget {
  /** The types that have had a listener. */
  #heard = new Set<string>();

  /** @param events The types of its events, for the warning of another one. */
  constructor(events: string) {
    super();
    this.addEventListener = (type: string, ...rest: any[]): void => {
      if (!events.split(" ").includes(type)) {
        console.warn(`tiderace: no event "${type}"; known: ${events}`);
      }
      this.#heard.add(type);
      super.addEventListener(type, ...(rest as [any]));
    };
  }

  /**
   * @internal An error that no listener gets is written to the console; not one that is a
   * text, of a connection that took too long and is opened again.
   */
  readonly _emit: Emit<keyof Events & string> = (type, detail, extra: any) => {
    this.dispatchEvent(Object.assign(new CustomEvent(type, { detail }), extra));
    if (extra?.error instanceof Error) this._warnUnheard(extra.error, type);
  };

  /** @internal Write to the console what no listener of these types gets. */
  _warnUnheard(what: unknown, ...types: string[]): void {
    if (types.some((type) => this.#heard.has(type))) return;
    const { topic } = this as { topic?: string };
    console.warn(topic ? `tiderace, ${topic}:` : "tiderace:", what);
  }
}
