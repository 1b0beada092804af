/** The `on<type>` properties of a socket. */

import type { Handler } from "./events.js";

/**
 * Define those of the types, which are separated by spaces. A handler that is replaced keeps
 * its place among the listeners, as in HTML.
 */
export function defineHandlers(target: EventTarget, types: string): void {
  for (const type of types.split(" ")) {
    let handler: Handler<Event> = null;
    const call = (event: Event): unknown => handler!.call(target, event);
    Object.defineProperty(target, `on${type}`, {
      get: () => handler,
      set: (value: unknown) => {
        handler = typeof value === "function" ? (value as Handler<Event>) : null;
        if (handler) target.addEventListener(type, call);
        else target.removeEventListener(type, call);
      },
    });
  }
}
