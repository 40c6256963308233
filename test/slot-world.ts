import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import type { StatusReport } from '../src/app/operations.ts';
import { doctor } from '../src/app/doctor.ts';
import { openSystem } from '../src/app/system.ts';
import type { Finding } from '../src/model/errors.ts';
import { Cluster } from './postgres-cluster.ts';
import { createDatabase, type TestDatabase } from './postgres.ts';
import { Proxy } from './proxy.ts';

const quiet = (): void => {};
const PATIENCE_MS = 30_000;

export interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/**
 * A shop on a server of its own, reached through a proxy, and tracked as `foreshadow start` does it. `running` is that process; it is
 * ended and begun again with `stop` and `run`.
 */
export class SlotWorld implements AsyncDisposable {
  /** The server that is the primary now. */
  cluster: Cluster;
  readonly proxy: Proxy;
  readonly shadow: TestDatabase;
  readonly directory: string;
  readonly log: Line[] = [];
  /** Credentials and parameters of the primary's URL. */
  url: string;
  readonly #replaced: Cluster[] = [];
  #running: { system: LocalSystem; stop: AbortController; ended: Promise<unknown> } | null = null;

  /** Starts the server with these settings. */
  static async create(template: Cluster, settings: Readonly<Record<string, string>> = {}): Promise<SlotWorld> {
    const cluster = await template.copy();
    await cluster.start(settings);
    const [proxy, shadow] = await Promise.all([Proxy.to(cluster.port), createDatabase()]);
    return new SlotWorld(cluster, proxy, shadow, await mkdtemp(join(tmpdir(), 'foreshadow-slots-')));
  }

  private constructor(cluster: Cluster, proxy: Proxy, shadow: TestDatabase, directory: string) {
    this.cluster = cluster;
    this.proxy = proxy;
    this.shadow = shadow;
    this.directory = directory;
    this.url = cluster.urlThrough(proxy.port);
  }

  config(options: { directory?: string; shadow?: string } = {}): ReturnType<typeof parseConfig> {
    const text = `dataSet: shop\nprimary: "${this.url}"\nshadow: "${options.shadow ?? this.shadow.url}"\ntables: ["public.*"]\n`;
    return parseConfig(text, join(options.directory ?? this.directory, 'foreshadow.yaml'), {});
  }

  openSystem(options?: { directory?: string; shadow?: string }): Promise<LocalSystem> {
    const log = (level: string, message: string, fields = {}): void => void this.log.push({ level, message, fields });
    return openSystem(this.config(options), { log });
  }

  /** Begins to run. Ends by `stop`, or by itself when something fails for good: then `failure` gives it. */
  async run(): Promise<LocalSystem> {
    const system = await this.openSystem();
    const stop = new AbortController();
    const ended = system.run(stop.signal).then(
      () => null,
      (error: unknown) => error,
    );
    this.#running = { system, stop, ended };
    return system;
  }

  get system(): LocalSystem {
    if (this.#running === null) throw new Error('nothing runs');
    return this.#running.system;
  }

  /** What ended the running one by itself. */
  failure(): Promise<unknown> {
    return this.#running?.ended ?? Promise.resolve(null);
  }

  /** Ends tidily, and waits until the server has noticed. */
  async stop(): Promise<void> {
    const running = this.#running;
    this.#running = null;
    running?.stop.abort();
    await running?.ended;
    await running?.system[Symbol.asyncDispose]();
  }

  capture(): ReturnType<LocalSystem['capture']> {
    return this.system.capture(quiet, AbortSignal.timeout(PATIENCE_MS));
  }

  status(): Promise<StatusReport> {
    return this.system.status(AbortSignal.timeout(PATIENCE_MS));
  }

  async doctor(): Promise<readonly Finding[]> {
    return (await doctor(this.config(), AbortSignal.timeout(PATIENCE_MS))).findings;
  }

  /** Another server takes the primary's place; whoever made it disposes of it. */
  standsFor(server: Cluster): void {
    this.#replaced.push(this.cluster);
    this.cluster = server;
  }

  /** Ten rows more, others changed and deleted, in several transactions. */
  async write(round: number): Promise<void> {
    await this.cluster.sql(`INSERT INTO item (note) SELECT 'round ${round}' FROM generate_series(1, 10)`);
    await this.cluster.sql(`UPDATE item SET note = 'changed in ${round}' WHERE id % 7 = ${round % 7}`);
    await this.cluster.sql(
      `DELETE FROM item WHERE id % 11 = ${round % 11}; INSERT INTO other SELECT coalesce(max(id), 0) + 1, 'x' FROM other`,
    );
  }

  /** Proves that what is shadowed is what the primary holds: a VALID capture, a VALID comparison, an equal restore. */
  async proves(): Promise<void> {
    const report = await this.valid();
    expect(await this.system.validate(null, quiet, AbortSignal.timeout(PATIENCE_MS))).toMatchObject({ verdict: 'VALID', differences: [] });
    const name = `${this.shadow.name}_restored`;
    const to = Object.assign(new URL(this.shadow.url), { pathname: `/${name}` }).href;
    const restored = await this.system.restore({ capture: report, to, table: null }, quiet, AbortSignal.timeout(PATIENCE_MS));
    expect(restored).toMatchObject({ proved: true });
    for (const table of ['item', 'other']) {
      const all = `SELECT * FROM public.${table} ORDER BY id`;
      expect(await this.cluster.sql(all, to)).toEqual(await this.cluster.sql(all));
    }
    await this.shadow.run(`DROP DATABASE ${name}`);
  }

  /** The number of a VALID capture. While tables are resynced by comparison, captures leave them out: then it is tried again. */
  async valid(): Promise<number> {
    for (const deadline = Date.now() + PATIENCE_MS; ; ) {
      const report = await this.capture();
      if (report.verdict === 'VALID') return report.number;
      expect({ ...report, tries: Date.now() < deadline }).toMatchObject({ verdict: 'INCONCLUSIVE', differences: [], tries: true });
      await pause(200);
    }
  }

  /** Waits for a line of the log, and gives it. `since`: lines before are not looked at. */
  async logged(pattern: RegExp, since = 0): Promise<Line> {
    const deadline = Date.now() + PATIENCE_MS;
    for (;;) {
      const line = this.log.slice(since).find(({ message, fields }) => pattern.test(`${message} ${Object.values(fields).join(' ')}`));
      if (line !== undefined) return line;
      if (Date.now() > deadline) throw new Error(`not logged: ${pattern}; but ${JSON.stringify(this.log.slice(since))}`);
      await pause(20);
    }
  }

  resyncs(): readonly string[] {
    return this.log.filter(({ message }) => /resynced/.test(message)).map(({ fields }) => String(fields['reason']));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    const clusters = [this.cluster, ...this.#replaced];
    await Promise.all([this.proxy, this.shadow, ...clusters].map((each) => each[Symbol.asyncDispose]()));
    await rm(this.directory, { recursive: true, force: true });
  }
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

/** A stopped server with the shop's tables, to be copied for each test. */
export async function shopTemplate(): Promise<Cluster> {
  const cluster = await Cluster.create();
  await cluster.start();
  await cluster.sql(`
    CREATE TABLE item (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text);
    CREATE TABLE other (id int PRIMARY KEY, note text);
    INSERT INTO item (note) SELECT 'first' FROM generate_series(1, 200);
    CREATE ROLE tracker LOGIN REPLICATION PASSWORD 'right'; GRANT CREATE ON DATABASE postgres TO tracker;
    ALTER TABLE item OWNER TO tracker; ALTER TABLE other OWNER TO tracker`);
  await cluster.stop();
  return cluster;
}
