/** The commands of a client: encoded, sent in few frames, matched with their replies. */

import { LOST, TIMEOUT } from "./codes.js";
import { encode } from "./encode.js";
import { TopicError } from "./errors.js";
import type { Reply } from "./protocol.js";
import { Timer, type TimerOptions } from "./timer.js";

/** Called once: with the error, or with undefined and the result. */
export type ReplyHandler<R = any> = (error: TopicError | undefined, result: R) => void;

interface Command {
  /** Set when it is sent. */
  _id?: number;
  _topic?: string | undefined;
  _method: string;
  /** As JSON. */
  _params: string;
  _done: ReplyHandler;
  _timer: Timer;
}

/** In characters. The server accepts frames of 64 KB; a character has at most three bytes. */
const FRAME_SIZE = 16384;
/** Commands sent at once, and the seconds until more are: the server accepts 200 a second. */
const BURST = 100;
const BURST_INTERVAL = 0.6;

export class CommandQueue {
  /** @internal Whether a command may be sent now; one about a topic also needs a subscription. */
  readonly _isReady: (topic?: string) => boolean;
  /** @internal Why no command is accepted: set while the client is disconnected. */
  _refusal: TopicError | undefined;
  #options: TimerOptions & { timeout: number };
  #sendFrame: (frame: string) => void;
  /** Sent on the present connection and not answered, by id. */
  #sent = new Map<number, Command>();
  /** Not sent yet. */
  #waiting = new Set<Command>();
  /** The lines of the next frame. */
  #lines: string[] = [];
  #timer: Timer;
  #lastId = 0;

  constructor(
    options: TimerOptions & { timeout: number },
    isReady: (topic?: string) => boolean,
    sendFrame: (frame: string) => void,
  ) {
    this.#options = options;
    this.#timer = new Timer(options);
    this._isReady = isReady;
    this.#sendFrame = sendFrame;
  }

  /**
   * @internal Send a command on the present connection.
   *
   * @param params A string is JSON already.
   * @param timeout Seconds until the handler gets a TIMEOUT error; 0: never.
   * @param topic Named by its errors.
   */
  _send(
    method: string,
    params: object | string,
    done: ReplyHandler,
    timeout?: number,
    topic?: string,
  ): void {
    this._write(this._encode(method, params, done, timeout, topic));
  }

  /** @internal Send a command as soon as it is ready, and return its result. */
  _request(method: string, params: object, topic?: string): Promise<any> {
    return new Promise((resolve, reject) => {
      if (this._refusal) throw this._refusal;
      const done: ReplyHandler = (error, result) => (error ? reject(error) : resolve(result));
      this.#waiting.add(this.#create(method, params, done, undefined, topic));
      this._flush();
    });
  }

  /** @internal Send the waiting commands that are ready. */
  _flush(): void {
    for (const command of this.#waiting) {
      if (this._isReady(command._topic) && this.#waiting.delete(command)) {
        this._write(this.#register(command));
      }
    }
  }

  /** @internal Return a command as text; its reply is expected from now on. */
  _encode(
    method: string,
    params: object | string,
    done: ReplyHandler,
    timeout?: number,
    topic?: string,
  ): string {
    return this.#register(this.#create(method, params, done, timeout, topic));
  }

  /** @internal Pass a reply to the handler of its command. */
  _onReply({ id, error, ...results }: Reply): void {
    const command = this.#sent.get(id!);
    if (!command) return;
    this.#forget(command);
    command._done(
      error && new TopicError(error.code, error.message, error.temporary, command._topic),
      results[command._method] ?? {},
    );
  }

  /** @internal Forget what was sent, without calling the handlers. */
  _discard(): void {
    for (const command of this.#sent.values()) this.#forget(command);
  }

  /**
   * @internal Fail what was sent on a connection that is lost.
   *
   * @param refusal Given when no other connection follows: fails waiting and new commands.
   */
  _reset(refusal?: TopicError): void {
    const lost = new TopicError(LOST, "connection lost", true);
    this.#lines = [];
    this._refusal = refusal;
    for (const command of this.#sent.values()) this.#forget(command)._done(lost, {});
    if (!refusal) return;
    for (const command of this.#waiting) this.#forget(command)._done(refusal, {});
  }

  /** @internal Send a line; the lines of one task share a frame. */
  _write(line: string): void {
    if (this.#lines.push(line) === 1) queueMicrotask(this.#sendLines);
  }

  #create(
    method: string,
    params: object | string,
    done: ReplyHandler,
    timeout = this.#options.timeout,
    topic?: string,
  ): Command {
    const command: Command = {
      _topic: topic,
      _method: method,
      _params: encode(params),
      _done: done,
      _timer: new Timer(this.#options),
    };
    if (timeout) {
      command._timer._set(timeout, () => {
        const error = new TopicError(TIMEOUT, `no reply within ${timeout} s`, true);
        this.#forget(command)._done(error, {});
      });
    }
    return command;
  }

  #register(command: Command): string {
    command._id = ++this.#lastId;
    this.#sent.set(command._id, command);
    return `{"id":${command._id},"${command._method}":${command._params}}`;
  }

  #forget(command: Command): Command {
    this.#sent.delete(command._id!);
    this.#waiting.delete(command);
    command._timer._stop();
    return command;
  }

  #sendLines = (): void => {
    let frame = "";
    const lines = this.#lines.splice(0, BURST);
    if (this.#lines[0]) this.#timer._set(BURST_INTERVAL, this.#sendLines);
    for (const line of lines) {
      if (frame && frame.length + line.length > FRAME_SIZE) {
        this.#sendFrame(frame);
        frame = "";
      }
      frame += frame ? `\n${line}` : line;
    }
    if (frame) this.#sendFrame(frame);
  };
}
