import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

const quiet = (): void => {};
const { signal } = new AbortController();

/** The whole product over one PostgreSQL database: what is written into `primary` is to be found in captures, and restored. */
export interface ShapedSystem extends AsyncDisposable {
  readonly primary: TestDatabase;
  readonly shadow: TestDatabase;
  readonly system: LocalSystem;
  /** Closes the system and opens it anew, as after a restart; with other settings, if any are given. */
  reopen(settings?: string): Promise<void>;
  /** Takes a capture and says its verdict, and what the primary held then. Nothing may write meanwhile. */
  capture(): Promise<{ readonly number: number; readonly verdict: string | null; readonly differences: unknown; readonly held: Dump }>;
  /** Restores a capture into a database of its own, and says what it holds. */
  restored(capture: number): Promise<Dump>;
}

/** Rows of each table as text, in an order that is the same everywhere. */
export type Dump = Readonly<Record<string, readonly string[]>>;

export async function openShaped(setup: string, settings = ''): Promise<ShapedSystem> {
  await using opening = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'foreshadow-shapes-'));
  opening.defer(() => rm(directory, { recursive: true, force: true }));
  const primary = opening.use(await createDatabase());
  const shadow = opening.use(await createDatabase());
  await primary.run(setup);
  const text = `dataSet: ${primary.name}\nprimary: "${primary.url}"\nshadow: "${shadow.url}"\ntables: ["*"]\n`;
  const open = (more: string): Promise<LocalSystem> =>
    openSystem(parseConfig(text + more, join(directory, 'foreshadow.yaml'), {}), { log: quiet });
  let system = await open(settings);
  opening.defer(() => system[Symbol.asyncDispose]());
  const stack = opening.move();
  return {
    primary,
    shadow,
    get system() {
      return system;
    },
    reopen: async (others = settings) => {
      await system[Symbol.asyncDispose]();
      system = await open(others);
    },
    capture: async () => {
      const { number, verdict, differences } = await system.capture(quiet, signal);
      return { number, verdict, differences, held: await dump(primary.url) };
    },
    restored: async (capture) => {
      const name = `${shadow.name}_restored`;
      const to = Object.assign(new URL(shadow.url), { pathname: `/${name}` }).href;
      try {
        await system.restore({ capture, to, table: null }, quiet, signal);
        return await dump(to);
      } finally {
        await shadow.run(`DROP DATABASE IF EXISTS ${name}`);
      }
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** Rows of one query of a capture. */
export async function queried(shaped: ShapedSystem, capture: number, sql: string): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const slice of shaped.system.query(capture, sql, signal)) rows.push(...slice.rows);
  return rows;
}

async function dump(url: string): Promise<Dump> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    const { rows: tables } = await client.query<{ name: string }>(
      `SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`,
    );
    const found: Record<string, string[]> = {};
    // Alone, and with the rows of the tables that inherit from it.
    for (const from of tables.flatMap(({ name }) => [`ONLY ${name}`, name])) {
      const { rows } = await client.query<{ row: string }>(`SELECT (t.*)::text COLLATE "C" AS row FROM ${from} t ORDER BY 1`);
      found[from] = rows.map(({ row }) => row);
    }
    return found;
  } finally {
    await client.end();
  }
}
