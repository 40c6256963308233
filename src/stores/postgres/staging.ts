import type { KeyTuple, Tuple } from '../../model/tuple.ts';
import type { Layout } from './layout.ts';
import type { Wire } from './wire.ts';

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
