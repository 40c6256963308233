import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import type { TailLine } from '../src/app/operations.ts';
import { startEmbeddedServer } from '../src/stores/postgres/embedded.ts';
import { percentile } from './measuring.ts';
import { type Check, check, record, say, shown, temporaryDirectory } from './recording.ts';
import { type SystemPlaces, configText, measureCapture, openBenchSystem } from './systems.ts';

/** How long a committed change takes until `tail` shows it, on an idle machine. */

const LIMIT_MS = 100;
/** Beyond this an idle primary may be asked less often: such changes are measured apart. */
const IDLE_MS = 11_000;
const GIVE_UP_MS = 10_000;

interface Application {
  /** Commits one change of the row; resolves when the commit has returned. */
  change(value: number): Promise<void>;
}

interface Latencies {
  readonly store: string;
  readonly where: string;
  /** From before the statement, so that no part of the commit is left out, to the line. */
  readonly steadyMs: readonly number[];
  readonly afterIdleMs: readonly number[];
}

interface Settings {
  readonly changes: number;
  readonly afterIdle: number;
}

/** Lines as they come, and who waits for one. */
class Arrivals {
  readonly #waiting = new Map<number, (atMs: number) => void>();

  arrived(value: number): void {
    this.#waiting.get(value)?.(performance.now());
    this.#waiting.delete(value);
  }

  async latency(value: number, application: Application): Promise<number> {
    const arrived = new Promise<number>((done) => this.#waiting.set(value, done));
    const begunMs = performance.now();
    await application.change(value);
    const stop = new AbortController();
    const atMs = await Promise.race([arrived, sleep(GIVE_UP_MS, null, { signal: stop.signal })]);
    if (atMs === null) throw new Error(`change ${value} was not seen in ${GIVE_UP_MS} ms`);
    stop.abort();
    return atMs - begunMs;
  }
}

async function measure(
  arrivals: Arrivals,
  application: Application,
  settings: Settings,
): Promise<Pick<Latencies, 'steadyMs' | 'afterIdleMs'>> {
  let value = 1;
  // What is asked first makes connections and plans: not what a change costs.
  for (; value <= 3; value++) await arrivals.latency(value, application);
  const steadyMs: number[] = [];
  const afterIdleMs: number[] = [];
  for (let index = 0; index < settings.changes; index++) {
    // Uneven pauses, so that no timer of the system's keeps step with the changes.
    await sleep(40 + ((index * 61) % 173));
    steadyMs.push(await arrivals.latency(value++, application));
  }
  for (let index = 0; index < settings.afterIdle; index++) {
    await sleep(IDLE_MS + ((index * 61) % 173));
    afterIdleMs.push(await arrivals.latency(value++, application));
  }
  return { steadyMs, afterIdleMs };
}

/** Through `Operations.tail` of a system in this process. */
async function inProcess(store: string, places: SystemPlaces, application: Application, settings: Settings): Promise<Latencies> {
  await using system = await openBenchSystem(places);
  await measureCapture(system);
  const stop = new AbortController();
  const arrivals = new Arrivals();
  const reading = (async () => {
    for await (const line of system.tail(stop.signal)) arrivals.arrived(valueOf(line));
  })();
  await sleep(200);
  try {
    return { store, where: 'in one process', ...(await measure(arrivals, application, settings)) };
  } finally {
    stop.abort();
    await reading;
  }
}

/** Through the commands: a running `foreshadow start`, and `foreshadow tail --json` in a process of its own. */
async function throughCommands(store: string, places: SystemPlaces, application: Application, settings: Settings): Promise<Latencies> {
  const config = join(places.directory, 'foreshadow.yaml');
  writeFileSync(config, configText(places));
  const command = (...args: string[]): ChildProcess =>
    spawn(process.execPath, [resolve(import.meta.dirname, '../bin/foreshadow.js'), ...args, '--config', config], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
  const start = command('start');
  const arrivals = new Arrivals();
  let tail: ChildProcess | null = null;
  try {
    // `start` says nothing that could be waited for here; a tail before it is up would do the work itself, and be refused.
    await sleep(3000);
    tail = command('tail', '--json');
    if (tail.stdout === null) throw new Error('tail has no output');
    createInterface({ input: tail.stdout }).on('line', (line) => arrivals.arrived(valueOf(JSON.parse(line) as TailLine)));
    await sleep(2000);
    return { store, where: '`foreshadow tail` of a running `start`', ...(await measure(arrivals, application, settings)) };
  } finally {
    await ended(tail);
    await ended(start);
  }
}

async function ended(child: ChildProcess | null): Promise<void> {
  if (child === null || child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise<void>((done) => child.once('exit', () => done()));
  child.kill('SIGTERM');
  await exit;
}

function valueOf({ row }: TailLine): number {
  return Number(row?.['value']);
}

const TABLE = 'CREATE TABLE item (id INTEGER PRIMARY KEY, value INTEGER NOT NULL, note TEXT)';
const ROWS = Array.from({ length: 1000 }, (_, index) => `(${index + 1}, 0, 'note ${index}')`).join(', ');

async function sqlite(settings: Settings): Promise<Latencies[]> {
  await using directory = await temporaryDirectory();
  const db = new DatabaseSync(join(directory.path, 'primary.db'));
  try {
    db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; ${TABLE}; INSERT INTO item VALUES ${ROWS}`);
    const update = db.prepare('UPDATE item SET value = ? WHERE id = ?');
    const application: Application = {
      change: async (value) => {
        update.run(value, 1 + (value % 1000));
        await Promise.resolve();
      },
    };
    const places = { directory: directory.path, primary: 'sqlite:primary.db', shadow: 'sqlite:shadow.db', tables: ['*'] };
    return [await inProcess('SQLite', places, application, settings), await throughCommands('SQLite', places, application, settings)];
  } finally {
    db.close();
  }
}

async function postgres(settings: Settings): Promise<Latencies[]> {
  await using directory = await temporaryDirectory();
  await using primary = await startEmbeddedServer({ durable: true });
  await using shadow = await startEmbeddedServer({ durable: true });
  const client = new Client({ connectionString: primary.url });
  await client.connect();
  try {
    await client.query(`${TABLE}; INSERT INTO item VALUES ${ROWS}`);
    const application: Application = {
      change: async (value) => {
        await client.query('UPDATE item SET value = $1 WHERE id = $2', [value, 1 + (value % 1000)]);
      },
    };
    const places = { directory: directory.path, primary: primary.url, shadow: shadow.url, tables: ['public.*'] };
    return [
      await inProcess('PostgreSQL', places, application, settings),
      await throughCommands('PostgreSQL', places, application, settings),
    ];
  } finally {
    await client.end();
  }
}

function latencyRow({ store, where }: Latencies, kind: string, values: readonly number[]): (string | number)[] {
  return [store, where, kind, values.length, ...[0.5, 0.99, 1].map((share) => shown(percentile(values, share)))];
}

function checkOf({ store, where, steadyMs, afterIdleMs }: Latencies): Check {
  const worst = percentile([...steadyMs, ...afterIdleMs], 1);
  return check(`${store}, ${where}: every change visible within ${LIMIT_MS} ms`, worst <= LIMIT_MS, `${shown(worst)} ms at most`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { quick: { type: 'boolean' }, changes: { type: 'string' } } });
  const quick = values.quick === true;
  const settings: Settings = { changes: Number(values.changes ?? (quick ? 10 : 60)), afterIdle: quick ? 1 : 5 };
  say('SQLite');
  const results = await sqlite(settings);
  say('PostgreSQL');
  results.push(...(await postgres(settings)));
  await record({
    name: quick ? 'tail-latency-quick' : 'tail-latency',
    title: 'From a change on the primary to its line in `tail`',
    method: [
      'Single-row updates, one transaction each, with uneven pauses between them; the clock runs from before the statement to the line being read,',
      'in the process that wrote it. Both ends, the journal and all processes are on one machine that does nothing else; the journal is flushed',
      'to disk before a line is shown.',
      `“After idle”: nobody had written for ${IDLE_MS / 1000} s.`,
    ],
    settings: { ...settings, quick },
    tables: [
      {
        title: 'Latency',
        columns: ['primary', 'read', 'changes', 'n', 'p50 ms', 'p99 ms', 'max ms'],
        rows: results.flatMap((each) => [latencyRow(each, 'steady', each.steadyMs), latencyRow(each, 'after idle', each.afterIdleMs)]),
      },
    ],
    checks: results.map(checkOf),
    measurements: results,
  });
}

await main();
