import { cellsOf, type KeyTuple, type Tuple } from '../../model/tuple.ts';
import type { Layout } from './layout.ts';
import type { Parameter, Wire } from './wire.ts';

/** Rows to select from, by the columns' names in the live table. The parameters go with each statement that does. */
export interface RowSource {
  readonly from: string;
  readonly parameters: readonly Parameter[];
}

/**
 * Up to so many cells go with the statements themselves. Staging them takes two round trips more, and a temporary table for each of many
 * tables: of the 25 ms that an apply of one row took the server and us, 20 (18.4, 300 tables).
 */
const INLINE_CELLS_MAX = 600;

/** The temporary tables of one session: which are there, the longest unused first, and which were filled in the present transaction. */
interface Staging {
  readonly made: Set<string>;
  readonly filled: Set<string>;
}

/** Every commit truncates all of them, filled or not: with one for each of many tables that costs far more than making some anew. */
const STAGES_MAX = 16;

const stagings = new WeakMap<Wire, Staging>();

/** A transaction ended: its temporary tables are empty again, and if it was rolled back those it made are gone. */
export function endStaging(wire: Wire, committed: boolean): void {
  if (committed) stagings.get(wire)?.filled.clear();
  else stagings.delete(wire);
}

/** Whole rows, with NULL for absent columns. Valid until more is staged of the table. */
export async function sourceOfRows(wire: Wire, layout: Layout, rows: readonly Tuple[], signal?: AbortSignal): Promise<RowSource> {
  const columns = layout.columns.map((_, index) => index);
  if (isInline(rows, columns)) return inline(layout, columns, rows);
  await stageRows(wire, layout, rows, signal);
  return { from: layout.stage, parameters: [] };
}

/** Keys. Valid until more is staged of the table. */
export async function sourceOfKeys(wire: Wire, layout: Layout, keys: readonly KeyTuple[], signal?: AbortSignal): Promise<RowSource> {
  const columns = layout.segment.schema.key;
  if (isInline(keys, columns)) return inline(layout, columns, keys);
  await stageKeys(wire, layout, keys, signal);
  return { from: layout.gone, parameters: [] };
}

function isInline(rows: readonly Tuple[], columns: readonly number[]): boolean {
  return rows.length > 0 && rows.length * columns.length <= INLINE_CELLS_MAX;
}

function inline(layout: Layout, columns: readonly number[], rows: readonly Tuple[]): RowSource {
  let next = 0;
  const list = rows.map(() => `(${columns.map((column) => layout.columnCast(column, next++)).join(', ')})`);
  const names = columns.map((column) => layout.columns[column]);
  const parameters = rows.flatMap((row) => cellsOf(row).map((cell) => ({ type: 0, value: cell ?? null })));
  return { from: `(VALUES ${list.join(', ')}) v (${names.join(', ')})`, parameters };
}

/** Puts whole rows into `layout.stage`, in place of what it held. */
export async function stageRows(wire: Wire, layout: Layout, rows: Iterable<Tuple>, signal?: AbortSignal): Promise<void> {
  await fill(wire, layout.stage, `SELECT ${layout.columns.join(', ')} FROM ${layout.history}`, rows, signal);
}

/** Puts keys into `layout.gone`, in place of what it held. */
export async function stageKeys(wire: Wire, layout: Layout, keys: Iterable<KeyTuple>, signal?: AbortSignal): Promise<void> {
  await fill(wire, layout.gone, `SELECT ${layout.key.join(', ')} FROM ${layout.history}`, keys, signal);
}

async function fill(wire: Wire, table: string, like: string, rows: Iterable<Tuple>, signal?: AbortSignal): Promise<void> {
  const staging = stagings.get(wire) ?? { made: new Set(), filled: new Set() };
  stagings.set(wire, staging);
  // Each statement is sent on its own only where it is needed: a small apply is made of round trips.
  if (!staging.made.has(table)) {
    const name = table.slice('pg_temp.'.length);
    const spare = staging.made.size < STAGES_MAX ? undefined : [...staging.made].find((each) => !staging.filled.has(each));
    const drop = spare === undefined ? '' : `DROP TABLE IF EXISTS ${spare}; `;
    await wire.query(`${drop}CREATE TEMP TABLE IF NOT EXISTS ${name} ON COMMIT DELETE ROWS AS ${like} WITH NO DATA`);
    if (spare !== undefined) staging.made.delete(spare);
  }
  staging.made.delete(table);
  staging.made.add(table);
  if (staging.filled.has(table)) await wire.query(`TRUNCATE ${table}`);
  staging.filled.add(table);
  await wire.copyRowsIn(`COPY ${table} FROM STDIN (FORMAT binary)`, rows, signal);
}
