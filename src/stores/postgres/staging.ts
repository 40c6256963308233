import { eachRow, RowList, type Rows } from '../../model/rows.ts';
import { ABSENT, cellsOf, type KeyTuple } from '../../model/tuple.ts';
import type { Layout } from './layout.ts';
import { storedAsTheyCome } from './storage.ts';
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

/** The temporary tables of one session, and which were filled in the present transaction. */
interface Staging {
  /** Which are there, the longest unused first, and what each was made like. */
  readonly made: Map<string, string>;
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

/** Whole rows, or patches with NULL for absent columns. Valid until more is staged of the table. */
export async function sourceOfRows(
  wire: Wire,
  layout: Layout,
  kind: 'rows' | 'patches',
  rows: Rows,
  signal?: AbortSignal,
): Promise<RowSource> {
  const columns = layout.columns.map((_, index) => index);
  if (isInline(rows, columns)) return inline(layout, columns, rows);
  await fill(wire, layout.stage, `SELECT ${layout.columns.join(', ')} FROM ${layout.history}`, kind, rows, signal);
  return { from: layout.stage, parameters: [] };
}

/** Keys. Valid until more is staged of the table. */
export async function sourceOfKeys(wire: Wire, layout: Layout, keys: Rows<KeyTuple>, signal?: AbortSignal): Promise<RowSource> {
  const columns = layout.segment.schema.key;
  if (isInline(keys, columns)) return inline(layout, columns, keys);
  await stageKeys(wire, layout, keys, signal);
  return { from: layout.gone, parameters: [] };
}

function isInline(rows: Rows, columns: readonly number[]): boolean {
  return rows.length > 0 && rows.length * columns.length <= INLINE_CELLS_MAX;
}

function inline(layout: Layout, columns: readonly number[], rows: Rows): RowSource {
  let next = 0;
  const list = Array.from(rows, () => `(${columns.map((column) => layout.columnCast(column, next++)).join(', ')})`);
  const names = columns.map((column) => layout.columns[column]);
  const parameters = Array.from(rows, (row) => cellsOf(row).map((cell) => ({ type: 0, value: cell ?? null }))).flat();
  return { from: `(VALUES ${list.join(', ')}) v (${names.join(', ')})`, parameters };
}

/** Puts keys into `layout.gone`, in place of what it held. */
export async function stageKeys(wire: Wire, layout: Layout, keys: Rows<KeyTuple>, signal?: AbortSignal): Promise<void> {
  await fill(wire, layout.gone, `SELECT ${layout.key.join(', ')} FROM ${layout.history}`, 'rows', keys, signal);
}

async function fill(wire: Wire, table: string, like: string, kind: 'rows' | 'patches', rows: Rows, signal?: AbortSignal): Promise<void> {
  const staging = stagings.get(wire) ?? { made: new Map(), filled: new Set() };
  stagings.set(wire, staging);
  // Each statement is sent on its own only where it is needed: a small apply is made of round trips.
  if (staging.made.get(table) !== like) {
    const name = table.slice('pg_temp.'.length);
    const spare = staging.made.size < STAGES_MAX ? undefined : [...staging.made.keys()].find((each) => !staging.filled.has(each));
    // One that is there may be from before a transaction that was rolled back, or have the names that columns had.
    const drop = [table, spare].filter((each) => each !== undefined).join(', ');
    await wire.query(
      `DROP TABLE IF EXISTS ${drop}; CREATE TEMP TABLE ${name} ON COMMIT DELETE ROWS AS ${like} WITH NO DATA; ${storedAsTheyCome(table)}`,
    );
    if (spare !== undefined) staging.made.delete(spare);
  }
  staging.made.delete(table);
  staging.made.set(table, like);
  if (staging.filled.has(table)) await wire.query(`TRUNCATE ${table}`);
  staging.filled.add(table);
  await wire.copyRowsIn(`COPY ${table} FROM STDIN (FORMAT binary)`, kind, rows, signal);
}

/** Rows by which columns are absent. */
export function byAbsentColumns(rows: Rows): Iterable<readonly [ReadonlySet<number>, RowList]> {
  const groups = new Map<string, readonly [ReadonlySet<number>, RowList]>();
  eachRow(rows, (bytes, start, end) => {
    const absent = absentColumns(bytes, start);
    const name = absent.join(' ');
    let group = groups.get(name);
    if (group === undefined) {
      group = [new Set(absent), new RowList()];
      groups.set(name, group);
    }
    group[1].add(bytes, start, end);
  });
  return groups.values();
}

function absentColumns(bytes: Buffer, start: number): number[] {
  const absent: number[] = [];
  let at = start + 2;
  for (let column = 0, columns = bytes.readInt16BE(start); column < columns; column++) {
    const length = bytes.readInt32BE(at);
    if (length === ABSENT) absent.push(column);
    at += 4 + Math.max(length, 0);
  }
  return absent;
}
