import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { percentile, randomIntegers } from './measuring.ts';

/**
 * A load like TPC-B's: each transaction moves an amount on one account, its teller and its branch, and writes it into the history.
 * So in every state of the database the balances of accounts, tellers and branches and the deltas of the history have one sum.
 */
export interface TpcbScale {
  readonly branches: number;
  readonly accountsPerBranch: number;
}

export interface TpcbLoadRequest {
  readonly url: string;
  readonly scale: TpcbScale;
  readonly connections: number;
  /** At most this many transactions a second, all connections together; null: as many as go. */
  readonly ratePerSecond: number | null;
  readonly seed: number;
}

export interface TpcbFigures {
  readonly transactions: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export const TPCB_TABLES = ['public.accounts', 'public.branches', 'public.history', 'public.tellers'] as const;

const TELLERS_PER_BRANCH = 10;

const SCHEMA = `
CREATE TABLE branches (bid int PRIMARY KEY, balance bigint NOT NULL, filler char(88));
CREATE TABLE tellers (tid int PRIMARY KEY, bid int NOT NULL REFERENCES branches, balance bigint NOT NULL, filler char(84));
CREATE TABLE accounts (aid int PRIMARY KEY, bid int NOT NULL REFERENCES branches, balance bigint NOT NULL, filler char(84));
CREATE TABLE history (
  hid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tid int NOT NULL, bid int NOT NULL, aid int NOT NULL,
  delta bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(), filler char(22)
);`;

/** The four sums, and whether they are one: the question every capture is asked. Sums as text, so that none is rounded. */
export const TPCB_SUMS = `
SELECT (SELECT coalesce(sum(balance), 0)::text FROM accounts), (SELECT coalesce(sum(balance), 0)::text FROM tellers),
  (SELECT coalesce(sum(balance), 0)::text FROM branches), (SELECT coalesce(sum(delta), 0)::text FROM history),
  (SELECT count(*)::text FROM history)`;

export async function createTpcb(url: string, scale: TpcbScale): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { branches, accountsPerBranch } = scale;
    await client.query(SCHEMA);
    await client.query(`INSERT INTO branches SELECT b, 0, '' FROM generate_series(1, ${branches}) b`);
    await client.query(
      `INSERT INTO tellers SELECT t, (t - 1) / ${TELLERS_PER_BRANCH} + 1, 0, '' FROM generate_series(1, ${branches * TELLERS_PER_BRANCH}) t`,
    );
    await client.query(
      `INSERT INTO accounts SELECT a, (a - 1) / ${accountsPerBranch} + 1, 0, '' FROM generate_series(1, ${branches * accountsPerBranch}) a`,
    );
    await client.query('VACUUM ANALYZE');
  } finally {
    await client.end();
  }
}

/** The load in another process. Its figures so far, and its end with the figures of all of it. */
export interface RunningLoad {
  figures(): Promise<TpcbFigures>;
  stop(): Promise<TpcbFigures>;
}

export function startTpcbLoad(request: TpcbLoadRequest): RunningLoad {
  const child = fork(join(import.meta.dirname, 'tpcb-load-process.ts'), [JSON.stringify(request)]);
  let stopped: Promise<TpcbFigures> | null = null;
  return {
    figures: () => ask(child, 'figures'),
    stop: () => (stopped ??= ask(child, 'stop')),
  };
}

async function ask(child: ChildProcess, message: 'figures' | 'stop'): Promise<TpcbFigures> {
  return new Promise((resolve, reject) => {
    const ended = (code: number | null): void => reject(new Error(`the load ended by itself with ${code}`));
    child.once('exit', ended);
    child.once('message', (figures: TpcbFigures) => {
      child.off('exit', ended);
      resolve(figures);
    });
    child.send(message);
  });
}

/** Writers on connections of their own, from construction until they are stopped. A failure of one ends all, and `stop` throws it. */
export class TpcbLoad {
  readonly #stopping = new AbortController();
  readonly #writers: Promise<unknown>;
  readonly #begunMs = performance.now();
  readonly #latenciesMs: number[] = [];

  constructor(request: TpcbLoadRequest) {
    const writers = Array.from({ length: request.connections }, (_, index) => this.#write(request, randomIntegers(request.seed + index)));
    this.#writers = Promise.all(writers).catch((error: unknown) => {
      this.#stopping.abort();
      return error;
    });
  }

  /** Of what was committed so far. */
  get figures(): TpcbFigures {
    const each = this.#latenciesMs;
    const perSecond = (each.length * 1000) / (performance.now() - this.#begunMs);
    if (each.length === 0) return { transactions: 0, perSecond, p50Ms: 0, p99Ms: 0 };
    return { transactions: each.length, perSecond, p50Ms: percentile(each, 0.5), p99Ms: percentile(each, 0.99) };
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    const failure = await this.#writers;
    if (failure instanceof Error) throw failure;
  }

  async #write(request: TpcbLoadRequest, random: (below: number) => number): Promise<void> {
    const { url, scale, connections, ratePerSecond } = request;
    const pauseMs = ratePerSecond === null ? 0 : (1000 * connections) / ratePerSecond;
    const client = new Client({ connectionString: url, application_name: 'tpcb' });
    await client.connect();
    try {
      let dueMs = performance.now() + random(100) * (pauseMs / 100);
      while (!this.#stopping.signal.aborted) {
        const waitMs = dueMs - performance.now();
        if (waitMs > 0) await sleep(waitMs);
        dueMs = Math.max(dueMs + pauseMs, performance.now() - 1000);
        const begunMs = performance.now();
        await transact(client, scale, random);
        this.#latenciesMs.push(performance.now() - begunMs);
      }
    } finally {
      await client.end();
    }
  }
}

async function transact(client: Client, scale: TpcbScale, random: (below: number) => number): Promise<void> {
  const aid = 1 + random(scale.branches * scale.accountsPerBranch);
  const tid = 1 + random(scale.branches * TELLERS_PER_BRANCH);
  const bid = Math.floor((tid - 1) / TELLERS_PER_BRANCH) + 1;
  const delta = random(10_001) - 5000;
  await client.query('BEGIN');
  await client.query({ name: 'account', text: 'UPDATE accounts SET balance = balance + $1 WHERE aid = $2', values: [delta, aid] });
  await client.query({ name: 'look', text: 'SELECT balance FROM accounts WHERE aid = $1', values: [aid] });
  await client.query({ name: 'teller', text: 'UPDATE tellers SET balance = balance + $1 WHERE tid = $2', values: [delta, tid] });
  await client.query({ name: 'branch', text: 'UPDATE branches SET balance = balance + $1 WHERE bid = $2', values: [delta, bid] });
  const text = 'INSERT INTO history (tid, bid, aid, delta) VALUES ($1, $2, $3, $4)';
  await client.query({ name: 'history', text, values: [tid, bid, aid, delta] });
  await client.query('COMMIT');
}
