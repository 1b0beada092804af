/** Clients on a fake window, and the server at the other end of their connections. */

import { Client, type ClientOptions, type Subscription } from "../src/index.js";
import { FakeWindow, settle, type FakeWebSocket } from "./fake_browser.js";

export interface Command {
  id: number;
  method: string;
  body: any;
}

/** The server's end of one connection. */
export class Peer {
  #read = 0;

  constructor(readonly native: FakeWebSocket) {}

  /** Return the frames that were not read before. */
  frames(): string[] {
    const frames = this.native.sent.slice(this.#read) as string[];
    this.#read = this.native.sent.length;
    return frames;
  }

  /** Return the commands that were not read before. */
  async commands(): Promise<Command[]> {
    await settle();
    return this.frames()
      .flatMap((frame) => frame.split("\n"))
      .map((line) => JSON.parse(line))
      .map(({ id, ...rest }) => ({ id, method: Object.keys(rest)[0]!, body: Object.values(rest)[0] }));
  }

  /** Return the only command that was not read before. */
  async command(method: string): Promise<Command> {
    const commands = await this.commands();
    if (commands.length !== 1 || commands[0]!.method !== method) {
      throw new Error(`expected one ${method}, got ${JSON.stringify(commands)}`);
    }
    return commands[0]!;
  }

  /** Send lines in one frame. */
  send(...lines: object[]): void {
    this.native.receive(lines.map((line) => JSON.stringify(line)).join("\n"));
  }

  reply({ id, method }: Command, result: object = {}): void {
    this.send({ id, [method]: result });
  }

  replyError({ id }: Command, code: number, message = "no", temporary = false): void {
    this.send({ id, error: { code, message, temporary } });
  }

  push(channel: string, push: object): void {
    this.send({ push: { channel, ...push } });
  }

  publish(channel: string, data: unknown, offset?: number): void {
    this.push(channel, { pub: { data, offset } });
  }
}

export interface ClientSetup {
  window: FakeWindow;
  client: Client;
}

/** A client in its first attempt to connect. */
export async function connectingClient(options: ClientOptions = {}): Promise<ClientSetup> {
  const window = new FakeWindow();
  const client = new Client("/connection/", { window, ...options });
  await settle();
  return { window, client };
}

/** Accept the newest connection and answer connect; `result` adds to the result. */
export async function acceptClient(window: FakeWindow, result: object = {}): Promise<Peer> {
  const peer = new Peer(window.socket);
  window.socket.accept();
  const connect = await peer.command("connect");
  peer.reply(connect, { client: "c1", version: "1", ping: 25, pong: true, ...result });
  return peer;
}

/** A client that is connected. */
export async function connectedClient(
  options: ClientOptions = {},
  result: object = {},
): Promise<ClientSetup & { peer: Peer }> {
  const setup = await connectingClient(options);
  return { ...setup, peer: await acceptClient(setup.window, result) };
}

/** Lose the connection and accept the next one. */
export async function reconnectClient(window: FakeWindow, result: object = {}): Promise<Peer> {
  window.socket.break();
  await window.advance(2);
  return acceptClient(window, result);
}

/** Return a list to which the events of some types are added, as `[type, detail]`. */
export function logEvents(target: Client | Subscription, ...types: string[]): [string, any][] {
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
