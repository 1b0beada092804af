/** The topics' server at the far end of a fake connection, played by hand. */

import { Client, type ClientOptions, type Subscription } from "../src/index.js";
import { FakeWindow, settle, type FakeWebSocket } from "./fakes.js";

export interface Asked {
  id: number;
  method: string;
  body: any;
}

/** One connection, seen from the server. */
export class Peer {
  #read = 0;

  constructor(readonly native: FakeWebSocket) {}

  /** The frames that have not been read, as they came. */
  frames(): string[] {
    const frames = this.native.sent.slice(this.#read) as string[];
    this.#read = this.native.sent.length;
    return frames;
  }

  /** The commands that have not been read. */
  async commands(): Promise<Asked[]> {
    await settle();
    return this.frames()
      .flatMap((frame) => frame.split("\n"))
      .map((line) => JSON.parse(line))
      .map(({ id, ...rest }) => ({ id, method: Object.keys(rest)[0]!, body: Object.values(rest)[0] }));
  }

  /** The only command that has not been read. */
  async command(method: string): Promise<Asked> {
    const commands = await this.commands();
    if (commands.length !== 1 || commands[0]!.method !== method) {
      throw new Error(`expected one ${method}, got ${JSON.stringify(commands)}`);
    }
    return commands[0]!;
  }

  say(...lines: object[]): void {
    this.native.receive(lines.map((line) => JSON.stringify(line)).join("\n"));
  }

  answer({ id, method }: Asked, result: object = {}): void {
    this.say({ id, [method]: result });
  }

  refuse({ id }: Asked, code: number, message = "no", temporary = false): void {
    this.say({ id, error: { code, message, temporary } });
  }

  push(channel: string, push: object): void {
    this.say({ push: { channel, ...push } });
  }

  publish(channel: string, data: unknown, offset?: number): void {
    this.push(channel, { pub: { data, offset } });
  }
}

export interface Site {
  window: FakeWindow;
  client: Client;
}

/** A client whose first attempt is on its way. */
export async function calling(options: ClientOptions = {}): Promise<Site> {
  const window = new FakeWindow();
  const client = new Client("/connection/", { window, ...options });
  await settle();
  return { window, client };
}

/** The newest connection, welcomed; `result` is what the connect result says besides. */
export async function welcome(window: FakeWindow, result: object = {}): Promise<Peer> {
  const peer = new Peer(window.socket);
  window.socket.accept();
  const connect = await peer.command("connect");
  peer.answer(connect, { client: "c1", version: "1", ping: 25, pong: true, ...result });
  return peer;
}

/** A client that is connected. */
export async function online(
  options: ClientOptions = {},
  result: object = {},
): Promise<Site & { peer: Peer }> {
  const site = await calling(options);
  return { ...site, peer: await welcome(site.window, result) };
}

/** The connection breaks, and the next one is welcomed. */
export async function comeBack(window: FakeWindow, result: object = {}): Promise<Peer> {
  window.socket.break();
  await window.advance(2);
  return welcome(window, result);
}

/** The events of some types, as `[type, detail]`. */
export function log(target: Client | Subscription, ...types: string[]): [string, any][] {
  const seen: [string, any][] = [];
  for (const type of types) {
    target.addEventListener(type, (event: Event) => {
      const { detail, error } = event as CustomEvent & { error?: unknown };
      seen.push([type, type === "error" ? error : detail]);
    });
  }
  return seen;
}

export const STREAM = { recoverable: true, positioned: true, epoch: "e1" };
