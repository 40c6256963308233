import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import type { Client } from 'pg';
import { expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { type TestDatabase, createDatabase } from './postgres.ts';

/**
 * The model: for each capture, what the primary held when it was taken, table by table, as text. Whatever statements change shapes and
 * rows in between, every capture goes on reading as it was, in the shape it had.
 */
interface Act {
  readonly kind: (typeof KINDS)[number];
  readonly table: number;
  readonly column: number;
  readonly value: number;
}
type Step =
  | { readonly kind: 'transaction'; readonly acts: readonly Act[]; readonly end: 'COMMIT' | 'ROLLBACK' }
  | { readonly kind: 'each'; readonly acts: readonly Act[] }
  | { readonly kind: 'capture' }
  | { readonly kind: 'restart'; readonly acts: readonly Act[] };

const KINDS = [
  'insert',
  'insert',
  'update',
  'update',
  'update key',
  'delete',
  'truncate',
  'add',
  'add default',
  'add volatile',
  'drop',
  'rename',
  'swap',
  'widen',
  'retype',
  'rewrite',
  'rename table',
  'create table',
  'drop table',
  'vacuum',
  'key',
  'identity',
  'set default',
] as const;

const act = fc.record({ kind: fc.constantFrom(...KINDS), table: fc.nat(5), column: fc.nat(7), value: fc.nat(99) });
const acts = fc.array(act, { minLength: 1, maxLength: 6 });
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('each' as const), acts }) },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('transaction' as const),
        acts,
        end: fc.constantFrom('COMMIT' as const, 'COMMIT' as const, 'ROLLBACK' as const),
      }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('capture' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const), acts }) },
  ),
  { minLength: 4, maxLength: 10 },
);

const quiet = (): void => {};
const { signal } = new AbortController();
const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;

class Run {
  readonly directory: string;
  readonly primary: TestDatabase;
  readonly shadow: TestDatabase;
  readonly client: Client;
  readonly captured = new Map<number, Map<string, unknown>>();
  readonly said: string[] = [];
  system: LocalSystem | null = null;
  #count = 0;

  constructor(directory: string, primary: TestDatabase, shadow: TestDatabase, client: Client) {
    this.directory = directory;
    this.primary = primary;
    this.shadow = shadow;
    this.client = client;
  }

  static async open(): Promise<Run> {
    const primary = await createDatabase();
    const run = new Run(await mkdtemp(join(tmpdir(), 'foreshadow-ddl-')), primary, await createDatabase(), await primary.client());
    await run.client.query("SET TimeZone = 'UTC'");
    for (const table of ['a', 'b']) {
      await run.client.query(`CREATE TABLE ${table} (id int PRIMARY KEY, t varchar(20), n int);
        INSERT INTO ${table} SELECT n, 'row ' || n, n FROM generate_series(1, 20) n`);
    }
    await run.start();
    return run;
  }

  async start(): Promise<void> {
    const text = `dataSet: ${this.primary.name}\nprimary: "${this.primary.url}"\nshadow: "${this.shadow.url}"\ntables: ["public.*"]\n`;
    const log = (_level: string, message: string, fields: unknown): void => void this.said.push(`-- ${message} ${JSON.stringify(fields)}`);
    this.system = await openSystem(parseConfig(text, join(this.directory, 'foreshadow.yaml'), {}), { log });
  }

  async stop(): Promise<void> {
    await this.system?.[Symbol.asyncDispose]();
    this.system = null;
  }

  async step(step: Step): Promise<void> {
    switch (step.kind) {
      case 'each':
        for (const each of step.acts) await this.#act(each, false);
        return;
      case 'transaction':
        await this.#send('BEGIN');
        for (const each of step.acts) await this.#act(each, true);
        await this.#send(step.end);
        return;
      case 'restart':
        await this.stop();
        for (const each of step.acts) await this.#act(each, false);
        await this.start();
        return;
      case 'capture':
        await this.capture();
    }
  }

  async capture(): Promise<void> {
    const report = await (this.system as LocalSystem).capture(quiet, signal);
    this.said.push(`-- capture ${report.number}`);
    this.captured.set(report.number, await this.#contents());
    expect(report.differences).toEqual([]);
    expect([report.verdict, report.coverage?.skipped]).toEqual(['VALID', []]);
  }

  async check(): Promise<void> {
    const system = this.system as LocalSystem;
    for (const [number, tables] of this.captured) {
      for (const [table, expected] of tables) {
        const sql = contentsSql(table, (expected as { columns: string[] }).columns);
        const rows: unknown[] = [];
        for await (const slice of system.query(number, sql, signal)) rows.push(...slice.rows.map(([text]) => text));
        expect(rows, `${table} in capture ${number}`).toEqual((expected as { rows: unknown[] }).rows);
      }
      expect((await system.validate(number, quiet, signal)).verdict, `capture ${number}`).toBe('VALID');
    }
  }

  async close(): Promise<void> {
    await this.stop();
    await this.primary[Symbol.asyncDispose]();
    await this.shadow[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true, force: true });
  }

  async #tables(): Promise<{ name: string; columns: { name: string; type: string; key: boolean }[] }[]> {
    const found = await this.client.query<{ name: string; columns: { name: string; type: string; key: boolean }[] }>(`
      SELECT relname AS name, (SELECT json_agg(json_build_object('name', attname, 'type', format_type(atttypid, atttypmod), 'key',
          EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary AND attnum = ANY (indkey))) ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns
      FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1`);
    return found.rows;
  }

  async #contents(): Promise<Map<string, unknown>> {
    const contents = new Map<string, unknown>();
    for (const { name, columns } of await this.#tables()) {
      const names = columns.map((column) => column.name);
      const { rows } = await this.client.query<{ row: string }>(contentsSql(name, names));
      contents.set(name, { columns: names, rows: rows.map(({ row }) => row) });
    }
    return contents;
  }

  /** What a statement refuses, as it depends on what came before, is let go. */
  async #act(each: Act, within: boolean): Promise<void> {
    const sql = await this.#statement(each);
    if (sql === null || (within && sql.startsWith('VACUUM'))) return;
    if (within) await this.client.query('SAVEPOINT act');
    try {
      await this.#send(sql);
    } catch {
      this.said.push('-- refused');
      if (within) await this.client.query('ROLLBACK TO act');
    }
  }

  async #send(sql: string): Promise<void> {
    this.said.push(sql);
    await this.client.query(sql);
  }

  async #statement({ kind, table: which, column: at, value }: Act): Promise<string | null> {
    const tables = await this.#tables();
    const name = `x${this.#count++}`;
    if (kind === 'create table') {
      return tables.length > 4 ? null : `CREATE TABLE ${name} (id int PRIMARY KEY, t text); INSERT INTO ${name} VALUES (${value}, 'new')`;
    }
    const table = tables[which % Math.max(1, tables.length)];
    if (table === undefined) return null;
    const key = table.columns.find((column) => column.key);
    const plain = table.columns.filter((column) => !column.key);
    const column = plain[at % Math.max(1, plain.length)];
    const other = plain[(at + 1) % Math.max(1, plain.length)];
    const [t, c] = [quoted(table.name), column === undefined ? null : quoted(column.name)];
    const k = key === undefined ? null : quoted(key.name);
    const literal = column?.type.includes('int') || /numeric|double/.test(column?.type ?? '') ? String(value) : `'v${value}'`;
    switch (kind) {
      case 'insert':
        return k === null || c === null ? null : `INSERT INTO ${t} (${k}, ${c}) VALUES ('${1000 + this.#count}', ${literal})`;
      case 'update':
        return c === null ? null : `UPDATE ${t} SET ${c} = ${literal} WHERE ${k === null ? 'true' : `${k}::text LIKE '%${value % 10}'`}`;
      case 'update key':
        return k === null ? null : `UPDATE ${t} SET ${k} = '${2000 + this.#count}' WHERE ${k}::text = '${1 + (value % 20)}'`;
      case 'delete':
        return `DELETE FROM ${t} WHERE ${k === null ? 'true' : `${k}::text LIKE '${1 + (value % 9)}%'`}`;
      case 'truncate':
        return value % 3 === 0 ? `TRUNCATE ${t}` : null;
      case 'add':
        return `ALTER TABLE ${t} ADD COLUMN ${name} ${['text', 'int', 'numeric(8,2)', 'timestamptz'][value % 4]}`;
      case 'add default':
        return `ALTER TABLE ${t} ADD COLUMN ${name} ${["text DEFAULT 'it''s', x'", 'int DEFAULT 7', "jsonb DEFAULT '[1]'", "bytea DEFAULT '\\x00ff'", "int[] DEFAULT '{1,2}'", 'timestamptz DEFAULT now()'][value % 6]}`;
      case 'add volatile':
        return `ALTER TABLE ${t} ADD COLUMN ${name} int DEFAULT (random() * 1000)::int`;
      case 'drop':
        return c === null ? null : `ALTER TABLE ${t} DROP COLUMN ${c}${value % 2 === 0 ? '' : `, ADD COLUMN ${c} int DEFAULT ${value}`}`;
      case 'rename':
        return c === null ? null : `ALTER TABLE ${t} RENAME COLUMN ${c} TO ${name}`;
      case 'swap':
        if (c === null || other === undefined || other === column) return null;
        return `DO $$ BEGIN ALTER TABLE ${t} RENAME COLUMN ${c} TO ${name}; ALTER TABLE ${t} RENAME COLUMN ${quoted(other.name)} TO ${c};
          ALTER TABLE ${t} RENAME COLUMN ${name} TO ${quoted(other.name)}; END $$`;
      case 'widen':
        return c === null
          ? null
          : `ALTER TABLE ${t} ALTER COLUMN ${c} TYPE ${column?.type.startsWith('numeric') ? 'numeric(20,2)' : 'text'}`;
      case 'retype':
        return c === null ? null : `ALTER TABLE ${t} ALTER COLUMN ${c} TYPE text USING 'was ' || ${c}::text`;
      case 'rewrite':
        return c === null || !column?.type.includes('int') ? null : `ALTER TABLE ${t} ALTER COLUMN ${c} TYPE ${column.type} USING ${c} + 1`;
      case 'rename table':
        return `ALTER TABLE ${t} RENAME TO ${value % 3 === 0 ? 'a' : name}`;
      case 'drop table':
        return tables.length < 3 ? null : `DROP TABLE ${t}`;
      case 'vacuum':
        return `VACUUM FULL ${t}`;
      case 'key':
        return k === null ? null : `ALTER TABLE ${t} ALTER COLUMN ${k} TYPE ${value % 2 === 0 ? 'bigint' : 'text'}`;
      case 'identity':
        return `ALTER TABLE ${t} REPLICA IDENTITY ${value % 2 === 0 ? 'FULL' : 'DEFAULT'}`;
      case 'set default':
        return c === null ? null : `ALTER TABLE ${t} ALTER COLUMN ${c} SET DEFAULT ${literal}`;
    }
  }
}

/** Rows as text that any two servers agree on; timestamps and numbers are written in one way by the settings of each connection. */
function contentsSql(table: string, columns: readonly string[]): string {
  const row = columns.map((column) => `to_jsonb(${quoted(column)})`).join(', ');
  return `SELECT row FROM (SELECT jsonb_build_array(${row})::text AS row FROM ${quoted(table)}) r ORDER BY row COLLATE "C"`;
}

/** `DDL_RUNS=200 npx vitest run test/ddl-model.postgres.test.ts` for a long run, DDL_SEED for a certain one. */
const RUNS = Number(process.env['DDL_RUNS'] ?? 4);
const SEED = process.env['DDL_SEED'];

test('every capture reads as the primary was, whatever statements changed its shape', { timeout: 120_000 + RUNS * 60_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const run = await Run.open();
      try {
        for (const step of all) await run.step(step);
        await run.capture();
        await run.check();
      } catch (error) {
        throw new Error(`after:\n${run.said.join('\n')}`, { cause: error });
      } finally {
        await run.close();
      }
    }),
    { numRuns: RUNS, ...(SEED === undefined ? {} : { seed: Number(SEED) }), endOnFailure: true },
  );
});
