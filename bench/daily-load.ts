import { Client } from 'pg';
import type { Cluster } from './postgres-servers.ts';
import { randomIntegers } from './measuring.ts';

/**
 * An application with a day: busy hours and quiet ones, hot rows, sessions that come and go in bursts, and a long cold tail. Its statements are the
 * same for every side, made once and run against each at the same time; only the order in which sides are asked goes round.
 */

const ACCOUNTS = 20_000;
const SESSIONS = 2_000;
const HOT = 20;
const TICK_MS = 50;
/** Connections to each side: a statement that takes long holds up those of one of them. */
const CONNECTIONS = 4;
/** Of statements: those to sessions, and to hot rows; the others go to accounts. */
const SESSION_SHARE = 0.35;
const HOT_SHARE = 0.2;
/** A busier hour than this, beside the busiest, is a peak. */
export const PEAK_SHARE = 0.75;

export const TABLES = ['public.accounts', 'public.sessions', 'public.counters'];

export const SCHEMA = `
  CREATE TABLE accounts (id integer PRIMARY KEY, balance bigint NOT NULL, note text NOT NULL);
  CREATE TABLE sessions (id integer PRIMARY KEY, pages integer NOT NULL, last text NOT NULL);
  CREATE TABLE counters (id integer PRIMARY KEY, hits bigint NOT NULL);
  INSERT INTO accounts SELECT id, 0, repeat('n', 80) FROM generate_series(1, ${ACCOUNTS}) id;
  INSERT INTO sessions SELECT id, 0, repeat('s', 40) FROM generate_series(1, ${SESSIONS}) id;
  INSERT INTO counters SELECT id, 0 FROM generate_series(1, ${HOT}) id;
  ANALYZE`;

const STATEMENTS = {
  accounts: 'UPDATE accounts SET balance = balance + 1 WHERE id = $1',
  sessions: 'UPDATE sessions SET pages = pages + 1 WHERE id = $1',
  counters: 'UPDATE counters SET hits = hits + 1 WHERE id = $1',
} as const;

interface Session {
  readonly id: number;
  readonly untilMs: number;
}

interface Side {
  readonly name: string;
  readonly clients: readonly Client[];
  readonly busy: Promise<unknown>[];
}

interface Change {
  readonly table: keyof typeof STATEMENTS;
  readonly id: number;
}

/** How busy a moment of the day is, 0.2 to 1: one broad peak, at noon. */
function busyAt(atMs: number, dayMs: number): number {
  const share = (atMs % dayMs) / dayMs;
  return 0.2 + 0.8 * (0.5 - 0.5 * Math.cos(2 * Math.PI * share)) ** 2;
}

/** What was done while a capture was ahead. */
export interface LoadCycle {
  /** When it was due. */
  readonly dueMs: number;
  readonly changes: number;
  readonly distinctRows: number;
  /** Per side: milliseconds of each statement in hours of peak. */
  readonly peakMs: ReadonlyMap<string, number[]>;
}

interface Open {
  changes: number;
  readonly rows: Set<string>;
  readonly peakMs: Map<string, number[]>;
}

export interface DailyLoadOptions {
  readonly dayMs: number;
  readonly cycleMs: number;
  /** Statements a second at the peak. */
  readonly peakRate: number;
}

/** Changes until it is stopped, or a statement fails. */
export class DailyLoad implements AsyncDisposable {
  readonly cycles: LoadCycle[] = [];
  readonly #options: DailyLoadOptions;
  readonly #sides: readonly Side[];
  readonly #next = randomIntegers(7);
  /** Sessions under way, with when they end. */
  readonly #sessions: Session[] = [];
  #open: Open = newOpen();
  #dueMs: number;
  #owed = 0;
  #turn = 0;
  #stopped = false;
  #failure: unknown = null;
  readonly #running: Promise<void>;

  private constructor(options: DailyLoadOptions, sides: readonly Side[]) {
    this.#options = options;
    this.#sides = sides;
    this.#dueMs = nextDue(Date.now(), options.cycleMs);
    this.#running = this.#run();
  }

  static async start(options: DailyLoadOptions, clusters: ReadonlyMap<string, Cluster>): Promise<DailyLoad> {
    const sides = await Promise.all(
      Array.from(clusters, async ([name, cluster]) => {
        const clients = Array.from(
          { length: CONNECTIONS },
          () => new Client({ connectionString: cluster.url('app'), application_name: 'shop' }),
        );
        await Promise.all(clients.map((client) => client.connect()));
        return { name, clients, busy: clients.map(() => Promise.resolve<unknown>(null)) };
      }),
    );
    return new DailyLoad(options, sides);
  }

  /** Throws where a statement failed. */
  check(): void {
    if (this.#failure !== null) throw this.#failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    await this.#running;
    await Promise.all(this.#sides.flatMap(({ clients }) => clients.map((client) => client.end())));
  }

  async #run(): Promise<void> {
    let lastMs = Date.now();
    while (!this.#stopped && this.#failure === null) {
      await new Promise((resolve) => {
        setTimeout(resolve, TICK_MS);
      });
      const nowMs = Date.now();
      if (nowMs >= this.#dueMs) this.#closeCycle();
      const busy = busyAt(nowMs, this.#options.dayMs);
      this.#owed += (this.#options.peakRate * busy * (nowMs - lastMs)) / 1000;
      lastMs = nowMs;
      for (; this.#owed >= 1; this.#owed--) this.#issue(this.#change(nowMs, busy), busy >= PEAK_SHARE);
    }
    await Promise.allSettled(this.#sides.flatMap(({ busy }) => busy));
  }

  #closeCycle(): void {
    const { changes, rows, peakMs } = this.#open;
    this.cycles.push({ dueMs: this.#dueMs, changes, distinctRows: rows.size, peakMs });
    this.#open = newOpen();
    this.#dueMs = nextDue(Date.now(), this.#options.cycleMs);
  }

  /** The same statement on every side, who is asked first going round. */
  #issue({ table, id }: Change, isPeak: boolean): void {
    const { changes, rows, peakMs } = this.#open;
    this.#open.changes = changes + 1;
    rows.add(`${table} ${id}`);
    this.#turn++;
    for (let place = 0; place < this.#sides.length; place++) {
      const side = this.#sides[(this.#turn + place) % this.#sides.length] as Side;
      const at = this.#turn % CONNECTIONS;
      const run = async (): Promise<void> => {
        const begunMs = performance.now();
        await (side.clients[at] as Client).query({ name: table, text: STATEMENTS[table], values: [id] });
        if (!isPeak) return;
        const known = peakMs.get(side.name) ?? [];
        peakMs.set(side.name, known);
        known.push(performance.now() - begunMs);
      };
      side.busy[at] = (side.busy[at] as Promise<unknown>).then(run).catch((error: unknown) => {
        this.#failure ??= error;
      });
    }
  }

  #change(nowMs: number, busy: number): Change {
    const { dayMs } = this.#options;
    const kind = this.#next(1000) / 1000;
    if (kind < HOT_SHARE) return { table: 'counters', id: 1 + this.#next(HOT) };
    if (kind >= HOT_SHARE + SESSION_SHARE) return { table: 'accounts', id: this.#skewed(ACCOUNTS) };
    // Some come, for a few minutes of the day up to an hour; the more the busier it is.
    while (this.#sessions.length < 5 + 40 * busy) {
      const lengthMs = (dayMs / 1440) * (2 + this.#next(10) ** 2 * 0.7);
      this.#sessions.push({ id: 1 + this.#next(SESSIONS), untilMs: nowMs + lengthMs });
    }
    const place = this.#next(this.#sessions.length);
    const { id, untilMs } = this.#sessions[place] as Session;
    if (untilMs < nowMs) this.#sessions.splice(place, 1);
    return { table: 'sessions', id };
  }

  /** As in the law of Zipf: a hundredth of them have half of the changes. */
  #skewed(of: number): number {
    return Math.min(of, Math.floor(of ** (this.#next(1 << 20) / (1 << 20))) + 1);
  }
}

function newOpen(): Open {
  return { changes: 0, rows: new Set(), peakMs: new Map() };
}

function nextDue(nowMs: number, cycleMs: number): number {
  return (Math.floor(nowMs / cycleMs) + 1) * cycleMs;
}
