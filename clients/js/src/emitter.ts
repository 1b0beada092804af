/**
 * An EventTarget that knows the types of its events.
 * Knows nothing of what happens.
 */

type Listener<E> = ((event: E) => unknown) | { handleEvent(event: E): unknown } | null;

export interface Emitter<Events> {
  addEventListener<K extends keyof Events & string>(
    type: K,
    listener: Listener<Events[K]>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof Events & string>(
    type: K,
    listener: Listener<Events[K]>,
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
  _emit(type: keyof Events & string, detail: object, extra?: object): void {
    this.dispatchEvent(Object.assign(new CustomEvent(type, { detail }), extra));
  }

  /** @internal */
  _error(error: unknown): void {
    this.dispatchEvent(Object.assign(new Event("error"), { error }));
  }
}
