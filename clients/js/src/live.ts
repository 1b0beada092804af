/** `<tiderace-live>`, which the template tag `{% live %}` writes. */

import { backoffDelay } from "./backoff.js";
import { morph } from "./morph.js";
import { DEFAULTS } from "./options.js";
import { request, TemporaryError } from "./page_request.js";
import { topics } from "./topics.js";

const TAG = "tiderace-live";
/** Milliseconds in which elements with the same address share one request. */
const SHARED = 10;

/** Documents whose request is not sent yet, by address. */
const waiting = new Map<string, Promise<Document>>();

/**
 * A part of the page that is rendered again when something is published to its topics: the
 * element requests the address it came from, takes the element with its id out of the
 * response, and changes only what is different.
 *
 * What was published is not used, so it cannot bring markup into the page.
 */
export class Live extends ((globalThis.HTMLElement ?? Object) as typeof HTMLElement) {
  #stops: (() => void)[] = [];
  /** Whether something was published after the last request was sent. */
  #isStale = false;
  /** Whether a request waits for its time or for its response. */
  #isBusy = false;
  /** When the next request may be sent. */
  #earliest = 0;
  #failures = 0;

  connectedCallback(): void {
    const places: [topic: string, epoch: string, offset: number][] = JSON.parse(
      this.getAttribute("topics")!,
    );
    document.addEventListener("visibilitychange", this.#schedule);
    for (const [topic, epoch, offset] of places) {
      const since = epoch ? { epoch, offset } : undefined;
      this.#stops.push(
        topics().listen(
          topic,
          {
            // Not for the appends of a growing message.
            publication: ({ detail }) => detail.tags?.grow_state === "growing" || this.#refresh(),
            subscribed: ({ detail }) => detail.recovered || this.#refresh(),
          },
          { since },
        ),
      );
    }
    this.#schedule();
  }

  disconnectedCallback(): void {
    document.removeEventListener("visibilitychange", this.#schedule);
    for (const stop of this.#stops.splice(0)) stop();
  }

  #refresh = (): void => {
    this.#isStale = true;
    this.#schedule();
  };

  /** Send a request if one is needed, and none is waiting or on its way. */
  #schedule = (): void => {
    if (!this.#isStale || this.#isBusy || this.#isAway()) return;
    this.#isBusy = true;
    const spread = Math.random() * this.#seconds("spread") * 1e3;
    setTimeout(this.#load, Math.max(0, this.#earliest - performance.now()) + spread);
  };

  #load = async (): Promise<void> => {
    if (!this.#isAway()) {
      this.#isStale = false;
      let pause = this.#seconds("every");
      try {
        this.#show(await sharedRequest(this.getAttribute("src")!));
        this.#failures = 0;
      } catch (error) {
        console.warn("tiderace-live:", error);
        if (error instanceof TemporaryError) {
          this.#isStale = true;
          pause += backoffDelay(this.#failures++, Math.random(), DEFAULTS);
        }
      }
      this.#earliest = performance.now() + pause * 1e3;
    }
    this.#isBusy = false;
    this.#schedule();
  };

  #show(rendered: Document): void {
    const selector = `${TAG}#${CSS.escape(this.id)}`;
    const wanted = rendered.querySelector(selector);
    if (!wanted) throw new Error(`${this.getAttribute("src")} has no ${selector}`);
    // Scripts would run after each update. Those of JSON data are kept.
    for (const script of wanted.querySelectorAll('script:not([type$="json"])')) script.remove();
    const focused = document.activeElement as HTMLElement | null;
    morph(this, wanted);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
    (globalThis as { htmx?: { process(element: Element): void } }).htmx?.process(this);
    this.dispatchEvent(new CustomEvent("tiderace:updated", { bubbles: true }));
  }

  #seconds(attribute: string): number {
    return Number(this.getAttribute(attribute));
  }

  #isAway(): boolean {
    return document.hidden || !this.isConnected;
  }
}

/** Request a page of the site; elements that ask at the same moment share the request. */
function sharedRequest(address: string): Promise<Document> {
  let shared = waiting.get(address);
  if (!shared) {
    shared = new Promise<void>((send) => setTimeout(send, SHARED)).then(() => {
      waiting.delete(address);
      return request(new URL(address, location.href));
    });
    waiting.set(address, shared);
  }
  return shared;
}

if (globalThis.customElements && !customElements.get(TAG)) {
  customElements.define(TAG, Live);
}
