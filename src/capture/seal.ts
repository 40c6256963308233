import { hash } from 'node:crypto';
import { setImmediate as otherWork } from 'node:timers/promises';
import type { CaptureNumber, RowCounts, RowDifference, Seal } from '../model/capture.ts';
import { type BothSchemas, changeOf, copiesOf } from '../model/copies.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import type { KeyTuple, Tuple } from '../model/tuple.ts';
import { GaveWay, type Shadow } from '../shadowing/shadow.ts';
import type { RowLimit } from '../tracking/primary.ts';

const LANES = 8;
export const PAGE: RowLimit = { rows: 20_000, bytes: 8 << 20 };

/**
 * The sums of a set of rows: each row's SHA-256, split into eight 32-bit lanes and added modulo 2^32. Addition commutes, so the sums of
 * a capture follow from those of the one before and from what changed between them (AdHash, Bellare and Micciancio 1997). A tuple's
 * cells carry their lengths, so no two different rows have the same bytes.
 */
export class Sums {
  rows: bigint;
  readonly #lanes = new Uint32Array(LANES);

  constructor(from?: Seal) {
    this.rows = from?.rows ?? 0n;
    for (let lane = 0; lane < LANES; lane++) this.#lanes[lane] = from?.sums.readUInt32BE(lane * 4) ?? 0;
  }

  /** `copies`: how many rows the tuple stands for (`copiesOf`). */
  add(row: Tuple, copies = 1n): void {
    const digest = hash('sha256', row, 'buffer');
    for (let lane = 0; lane < LANES; lane++) this.#lanes[lane] = (this.#lanes[lane] as number) + digest.readUInt32BE(lane * 4);
    this.rows += copies;
  }

  subtract(row: Tuple, copies = 1n): void {
    const digest = hash('sha256', row, 'buffer');
    for (let lane = 0; lane < LANES; lane++) this.#lanes[lane] = (this.#lanes[lane] as number) - digest.readUInt32BE(lane * 4);
    this.rows -= copies;
  }

  seal(table: TableName): Seal {
    const sums = Buffer.alloc(LANES * 4);
    for (let lane = 0; lane < LANES; lane++) sums.writeUInt32BE(this.#lanes[lane] as number, lane * 4);
    return { table, rows: this.rows, sums };
  }
}

export function sealsEqual(a: Seal, b: Seal): boolean {
  return a.rows === b.rows && a.sums.equals(b.sums);
}

/** What `a` has beyond `b`, lane by lane. */
export function difference(a: Seal, b: Seal): Seal {
  const sums = Buffer.alloc(LANES * 4);
  for (let at = 0; at < LANES * 4; at += 4) sums.writeUInt32BE((a.sums.readUInt32BE(at) - b.sums.readUInt32BE(at)) >>> 0, at);
  return { table: a.table, rows: a.rows - b.rows, sums };
}

/** Every row of a table as of a capture, page by page. */
export async function* rowsAt(shadow: Shadow, table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncGenerator<readonly Tuple[]> {
  let after: KeyTuple | null = null;
  do {
    const page = await shadow.rows(table, at, after, PAGE, signal);
    if (page.rows.length > 0) yield page.rows;
    // An embedded store answers without ever letting timers, sockets and signals have their turn.
    await otherWork(undefined, { signal });
    after = page.through;
  } while (after !== null);
}

/**
 * The sums of a table as it reads at a capture: O(rows). No order counts in them, so the rows come as they lie where the store can.
 * `known`: its schema, if at hand.
 */
export async function sumsByReading(
  shadow: Shadow,
  table: TableName,
  at: CaptureNumber,
  signal: AbortSignal,
  known?: TableSchema,
): Promise<Seal> {
  const schema = known ?? (await shadow.schemaAt(table, at));
  const sumsOf = async (slices: AsyncIterable<readonly Tuple[]>): Promise<Seal> => {
    const sums = new Sums();
    for await (const rows of slices) for (const row of rows) sums.add(row, copiesOf(schema, row));
    return sums.seal(table);
  };
  try {
    if (shadow.everyRow !== undefined) return await sumsOf(shadow.everyRow(table, at, signal));
  } catch (error) {
    if (!(error instanceof GaveWay)) throw error;
  }
  // Nobody waits for it page by page, so that it comes to an end however often tables are changed.
  return sumsOf(rowsAt(shadow, table, at, signal));
}

/** The sums of a table at `to` from those at an earlier capture and the versions between: O(distinct rows changed). */
async function sumsByDifference(
  differences: AsyncIterable<readonly RowDifference[]>,
  schemas: BothSchemas,
  from: Seal,
): Promise<{ seal: Seal; counts: RowCounts }> {
  const sums = new Sums(from);
  const counts = { inserted: 0, updated: 0, deleted: 0 };
  for await (const slice of differences) {
    for (const { before, after } of slice) {
      if (before !== null) sums.subtract(before, copiesOf(schemas.before, before));
      if (after !== null) sums.add(after, copiesOf(schemas.after, after));
      const { kind, rows } = changeOf(schemas, before, after);
      counts[kind] += Number(rows);
    }
  }
  return { seal: sums.seal(from.table), counts };
}

/** The sums of a table at `to` from its seal at `from`: by reading it where its shape changed in between. `known`: its schemas, if at hand. */
export async function sumsBetween(
  shadow: Shadow,
  seal: Seal,
  from: CaptureNumber,
  to: CaptureNumber,
  signal: AbortSignal,
  known?: BothSchemas,
): Promise<{ seal: Seal; counts: RowCounts }> {
  const schemas = known ?? { before: await shadow.schemaAt(seal.table, from), after: await shadow.schemaAt(seal.table, to) };
  const found = await sumsByDifference(shadow.diff(seal.table, from, to, signal), schemas, seal);
  // In another shape every row has other bytes, also those that do not differ.
  if (schemas.before?.shape === schemas.after?.shape) return found;
  return { ...found, seal: await sumsByReading(shadow, seal.table, to, signal) };
}

/**
 * The sums of a table as it reads at each of several captures, oldest first: one reading, then what differs from one to the next.
 */
export async function* sumsAlong(
  shadow: Shadow,
  table: TableName,
  captures: readonly CaptureNumber[],
  signal: AbortSignal,
): AsyncGenerator<{ readonly number: CaptureNumber; readonly seal: Seal }> {
  let last: { readonly number: CaptureNumber; readonly seal: Seal } | null = null;
  for (const number of captures) {
    const seal: Seal =
      last === null
        ? await sumsByReading(shadow, table, number, signal)
        : (await sumsBetween(shadow, last.seal, last.number, number, signal)).seal;
    last = { number, seal };
    yield last;
  }
}
