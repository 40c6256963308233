import { connect, createServer, type Server, type Socket } from 'node:net';

/** A way to a server on this machine that can be cut, blocked, and led elsewhere. */
export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #target: number;
  #refusing = false;

  static async to(port: number): Promise<Proxy> {
    const proxy = new Proxy(port);
    await new Promise<void>((resolve) => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  private constructor(port: number) {
    this.#target = port;
    this.#server = createServer((near) => this.#pass(near));
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Where new connections lead. Those that stand are cut. */
  leadTo(port: number): void {
    this.#target = port;
    this.cut();
  }

  /** Ends all connections; new ones are let through. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  /** Ends all connections, and new ones as they come, until `open`. */
  refuse(): void {
    this.#refusing = true;
    this.cut();
  }

  /** From now on nothing arrives on either side of the connections that stand, and nobody is told. New ones are let through. */
  hush(): void {
    for (const [near, far] of this.#pairs) {
      near.removeAllListeners('data').on('data', () => undefined);
      far.removeAllListeners('data').on('data', () => undefined);
    }
  }

  open(): void {
    this.#refusing = false;
  }

  #pass(near: Socket): void {
    if (this.#refusing) {
      near.destroy();
      return;
    }
    const far = connect(this.#target, '127.0.0.1');
    const pair = [near, far] as const;
    this.#pairs.add(pair);
    const over = (): void => {
      this.#pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const socket of pair) socket.on('error', () => undefined).on('close', over);
    near.on('data', (chunk) => far.write(chunk));
    far.on('data', (chunk) => near.write(chunk));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    this.cut();
    await closed;
  }
}
