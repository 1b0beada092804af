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
  /** @internal */
  readonly _emit: Emit<keyof Events & string> = (type, detail, extra) => {
    this.dispatchEvent(Object.assign(new CustomEvent(type, { detail }), extra));
  };
}
