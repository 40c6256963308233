import { setTimeout as delay } from 'node:timers/promises';
import type { RestoreTarget } from '../../capture/restore-target.ts';
import { copiesOf, isKeyless } from '../../model/copies.ts';
import { ForeshadowError } from '../../model/errors.ts';
import type { DdlStatement, TableName, TableSchema } from '../../model/schema.ts';
import { projectTuple, type Tuple } from '../../model/tuple.ts';
import { codeOf, connect, identifier, literal, placeOf } from './connection.ts';
import { qualified, splitName } from './layout.ts';
import { exchangeOids, type OidShapes, readOidShapes } from './type-oids.ts';
import { Wire } from './wire.ts';

/** Made already, by an extension, by the template, or beside other tables: schema, type, extension, function. */
const EXISTS_STATES = new Set(['42P06', '42710', '42723']);

/** The binary COPY format's header (signature, no flags, no extension) and trailer. */
const COPY_HEADER = Buffer.from('PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0', 'latin1');
const COPY_TRAILER = Buffer.from([0xff, 0xff]);

/** Names the database in the URL; it is made if it does not exist. Nothing happens before `begin`. */
export function openPostgresRestoreTarget(url: string): Promise<RestoreTarget> {
  return Promise.resolve(new PostgresRestoreTarget(url));
}

/** One transaction from `begin` to `finish`: whatever fails, the target is as it was, and gone if it was made for this. */
class PostgresRestoreTarget implements RestoreTarget {
  readonly kind = 'postgres';
  readonly #url: string;
  #wire: Wire | null = null;
  #created = false;
  #finished = false;

  constructor(url: string) {
    this.#url = url;
  }

  async begin(tables: readonly TableSchema[], into: 'empty' | 'beside', signal: AbortSignal): Promise<void> {
    const wire = await this.#open(signal);
    try {
      // As pg_dump's scripts do: a function may speak of tables that come later.
      await wire.query('BEGIN; SET LOCAL check_function_bodies = off; SET LOCAL client_min_messages = warning', signal);
      const names = tables.map((each) => each.table);
      const found = into === 'empty' ? await anything(wire, signal) : await those(wire, names, signal);
      if (found.length === 0) return;
      const shown = found.length > 5 ? `${found.slice(0, 5).join(', ')} and more` : found.join(', ');
      throw new ForeshadowError('TARGET_OCCUPIED', `The database ${placeOf(this.#url)} already holds ${shown}`, {
        remedy:
          into === 'empty'
            ? 'Restore into an empty database, or name one that does not exist: it will be made.'
            : 'Drop or rename it, or restore into another database.',
      });
    } catch (error) {
      throw this.#failure(wire, error, signal);
    }
  }

  async run(statements: readonly DdlStatement[], signal: AbortSignal): Promise<readonly { object: string; reason: string }[]> {
    const wire = this.#begun();
    const skipped: { object: string; reason: string }[] = [];
    for (const { object, sql, mayFail } of statements) {
      signal.throwIfAborted();
      try {
        await wire.query('SAVEPOINT statement');
        await wire.query(sql, signal);
        await wire.query('RELEASE statement');
      } catch (error) {
        if (wire.broken || signal.aborted) throw this.#failure(wire, error, signal);
        await wire.query('ROLLBACK TO statement');
        if (EXISTS_STATES.has(codeOf(error)) && /^\s*CREATE\s/i.test(sql)) continue;
        if (!mayFail) throw this.#failureOf(wire, object, error);
        skipped.push({ object, reason: (error as Error).message });
      }
    }
    return skipped;
  }

  async load(table: TableSchema, rows: AsyncIterable<readonly Tuple[]>, signal: AbortSignal): Promise<number> {
    const wire = this.#begun();
    const written = table.columns.flatMap((column, index) => (column.hidden || column.generated ? [] : [index]));
    const columns = written.map((index) => identifier(table.columns[index]?.name ?? ''));
    try {
      // Types of users have other OIDs in this database, and arrays of them name those.
      const oids = await readOidShapes(
        wire,
        written.map((index) => table.columns[index]?.type ?? ''),
      );
      const source = rowsWritten(table, rows, written.length === table.columns.length ? null : written, oids);
      const textual = await columnsWithoutBinary(wire, table.table, signal);
      if (textual.size === 0) return await copyRows(wire, qualified(table.table), columns, source, signal);
      // Their text is staged as such, then read by the types' own input functions.
      const mirrored = written.map((index, at) => `${columns[at]} ${table.columns[index]?.type ?? ''}`);
      await wire.query(`CREATE TEMP TABLE ${STAGED} (${mirrored.join(', ')}) ON COMMIT DROP`, signal);
      const rowsIn = await copyRows(wire, STAGED, columns, source, signal);
      const values = columns.map((name) => (textual.has(name) ? `${name}::${textual.get(name)}` : name));
      const into = `INSERT INTO ${qualified(table.table)} (${columns.join(', ')}) OVERRIDING SYSTEM VALUE`;
      await wire.query(`${into} SELECT ${values.join(', ')} FROM ${STAGED}; DROP TABLE ${STAGED}`, signal);
      return rowsIn;
    } catch (error) {
      throw this.#failure(wire, error, signal);
    }
  }

  async finish(signal: AbortSignal): Promise<void> {
    const wire = this.#begun();
    try {
      // Foreign keys were checked as they were made; this meets those that are deferred.
      await wire.query('SET CONSTRAINTS ALL IMMEDIATE', signal);
      const [committed] = await wire.query('COMMIT');
      if (committed?.tag !== 'COMMIT') throw new Error(`the transaction was not committed: ${committed?.tag ?? 'no answer'}`);
      this.#finished = true;
    } catch (error) {
      throw this.#failure(wire, error, signal);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#wire?.close();
    if (!this.#created || this.#finished) return;
    const client = await this.#maintenance();
    try {
      await client.query(`DROP DATABASE IF EXISTS ${identifier(databaseOf(this.#url))} WITH (FORCE)`);
    } finally {
      await client.end();
    }
  }

  #begun(): Wire {
    if (this.#wire === null) throw new Error('the restore was not begun');
    return this.#wire;
  }

  async #open(signal: AbortSignal): Promise<Wire> {
    const options = { side: 'shadow', purpose: 'restore' } as const;
    try {
      this.#wire = await Wire.open(this.#url, options, signal);
    } catch (error) {
      if (codeOf((error as { cause?: unknown }).cause) !== '3D000') throw this.#asTarget(error);
      await this.#create();
      this.#wire = await Wire.open(this.#url, options, signal);
    }
    return this.#wire;
  }

  async #create(): Promise<void> {
    const client = await this.#maintenance();
    try {
      const sql = `CREATE DATABASE ${identifier(databaseOf(this.#url))}`;
      for (let attempt = 1; ; attempt++) {
        try {
          await client.query(sql);
          this.#created = true;
          return;
        } catch (error) {
          // Somebody is connected to the template: it takes a moment for such a session to go.
          if (codeOf(error) !== '55006' || attempt === 5) throw error;
          await delay(200);
        }
      }
    } catch (error) {
      throw new ForeshadowError('SHADOW_ACCESS', `The database ${placeOf(this.#url)} cannot be made: ${(error as Error).message}`, {
        remedy: 'Create it by hand and restore again, or use a user who may create databases.',
        cause: error,
      });
    } finally {
      await client.end();
    }
  }

  async #maintenance(): ReturnType<typeof connect> {
    try {
      return await connect(this.#url, { side: 'shadow', purpose: 'restore', database: 'postgres' });
    } catch {
      return connect(this.#url, { side: 'shadow', purpose: 'restore', database: 'template1' });
    }
  }

  #failure(wire: Wire, error: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (!wire.broken && codeOf(error) === '') return error; // the source of the rows failed
    return this.#asTarget(wire.failure(error));
  }

  #failureOf(wire: Wire, object: string, error: unknown): ForeshadowError {
    const failure = wire.failure(error);
    return new ForeshadowError(failure.code, `The restore cannot make ${object}: ${(error as Error).message}`, {
      remedy: 'Nothing was restored. Correct what the message names in the target, or restore elsewhere.',
      retry: failure.retry,
      cause: error,
    });
  }

  /** Connections know two sides; to a restore the server is neither. */
  #asTarget(error: unknown): unknown {
    if (!(error instanceof ForeshadowError)) return error;
    return new ForeshadowError(error.code, error.message.replace('The shadow at', 'The target at'), {
      remedy: error.remedy,
      retry: error.retry,
      cause: error.cause,
    });
  }
}

function databaseOf(url: string): string {
  return decodeURIComponent(new URL(url).pathname.slice(1));
}

/** Tables, views and sequences of any schema but the system's; what belongs to an extension does not count. */
async function anything(wire: Wire, signal: AbortSignal): Promise<string[]> {
  const [found] = await wire.query(
    `SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
     ORDER BY c.relkind, 1 LIMIT 6`,
    signal,
  );
  return (found?.rows ?? []).map((row) => row[0] as string);
}

async function those(wire: Wire, tables: readonly TableName[], signal: AbortSignal): Promise<string[]> {
  const names = tables.map((table) => {
    const { schema, name } = splitName(table);
    return `(${literal(schema)}, ${literal(name)})`;
  });
  const [found] = await wire.query(
    `SELECT n.nspname || '.' || c.relname FROM (VALUES ${names.join(', ')}) v (nspname, relname)
     JOIN pg_namespace n ON n.nspname = v.nspname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = v.relname ORDER BY 1`,
    signal,
  );
  return (found?.rows ?? []).map((row) => row[0] as string);
}

const STAGED = 'pg_temp._foreshadow_rows';

function copyRows(
  wire: Wire,
  table: string,
  columns: readonly string[],
  rows: AsyncIterable<readonly Tuple[]>,
  signal: AbortSignal,
): Promise<number> {
  // A table may consist of computed columns alone, or of none: each row of it is a row of no columns.
  const list = columns.length === 0 ? '' : ` (${columns.join(', ')})`;
  return wire.copyIn(`COPY ${table}${list} FROM STDIN (FORMAT binary)`, copyChunks(rows), signal);
}

/** Quoted names of the columns whose types have no binary form, with these types. */
async function columnsWithoutBinary(wire: Wire, table: TableName, signal: AbortSignal): Promise<ReadonlyMap<string, string>> {
  const [found] = await wire.query(
    `SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
     WHERE a.attrelid = ${literal(qualified(table))}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND t.typsend = 0`,
    signal,
  );
  return new Map((found?.rows ?? []).map(([name, type]) => [identifier(name as string), type as string]));
}

async function* rowsWritten(
  table: TableSchema,
  rows: AsyncIterable<readonly Tuple[]>,
  columns: readonly number[] | null,
  oids: OidShapes,
): AsyncIterable<readonly Tuple[]> {
  const written = (row: Tuple): Tuple => {
    const projected = columns === null ? row : projectTuple(row, columns);
    return oids.length === 0 ? projected : exchangeOids(projected, oids, (here) => here);
  };
  for await (const some of rows) {
    if (isKeyless(table)) yield* unfolded(table, some, written);
    else yield some.map(written);
  }
}

const ROWS_AT_ONCE = 1000;

/** Each row as often as the table holds it. */
function* unfolded(table: TableSchema, rows: readonly Tuple[], written: (row: Tuple) => Tuple): Iterable<readonly Tuple[]> {
  let some: Tuple[] = [];
  for (const row of rows) {
    const one = written(row);
    for (let left = copiesOf(table, row); left > 0n; left--) {
      some.push(one);
      if (some.length < ROWS_AT_ONCE) continue;
      yield some;
      some = [];
    }
  }
  if (some.length > 0) yield some;
}

async function* copyChunks(rows: AsyncIterable<readonly Tuple[]>): AsyncIterable<Buffer> {
  yield COPY_HEADER;
  for await (const some of rows) yield Buffer.concat(some);
  yield COPY_TRAILER;
}
