import { OWN_PREFIX, type ColumnSchema, type TableSchema } from './schema.ts';
import type { Tuple } from './tuple.ts';

/**
 * A table without a key is a multiset of rows. Each distinct row is kept once, with two hidden columns at its end: what tells it from
 * others (its key: a hash of its bytes, made by the primary's store), and how many copies of it the table holds. So all that goes by
 * keys goes by it unchanged, and only what hands rows to people unfolds the copies.
 */
export const ROW_COLUMN = `${OWN_PREFIX}_row`;
export const COPIES_COLUMN = `${OWN_PREFIX}_copies`;

export function isKeyless(schema: Pick<TableSchema, 'columns'>): boolean {
  const last = schema.columns.at(-1);
  return last !== undefined && last.hidden && last.name === COPIES_COLUMN;
}

/** The two columns, in the types of a store. */
export function keylessColumns(rowType: string, copiesType: string): ColumnSchema[] {
  const column = { nullable: false, generated: false, hidden: true };
  return [
    { ...column, name: ROW_COLUMN, type: rowType },
    { ...column, name: COPIES_COLUMN, type: copiesType },
  ];
}

/** How many rows of the table a tuple stands for: 1, but for tables without a key. */
export function copiesOf(schema: Pick<TableSchema, 'columns'> | null, row: Tuple): bigint {
  return schema !== null && isKeyless(schema) ? copiesIn(row) : 1n;
}

function copiesIn(row: Tuple): bigint {
  return row.readBigInt64BE(row.length - 8);
}

/** The same row, in so many copies: a copy of the tuple. */
export function withCopies(row: Tuple, copies: bigint): Tuple {
  const changed = Buffer.from(row) as Buffer as Tuple;
  changed.writeBigInt64BE(copies, changed.length - 8);
  return changed;
}

/**
 * The row with so many copies more than `standing` has; null: none are left. `row` is any image of it, and may be null if `standing` is
 * one. Undefined: it cannot be, as there would be fewer than none.
 */
export function recounted(row: Tuple | null, standing: Tuple | null, more: bigint): Tuple | null | undefined {
  const copies = (standing === null ? 0n : copiesIn(standing)) + more;
  const image = standing ?? row;
  if (copies === 0n) return null;
  return copies < 0n || image === null ? undefined : withCopies(image, copies);
}

/** Adds the hidden cells to a row as its store gave it. */
export function keylessRow(row: Tuple, hash: Buffer, copies: bigint): Tuple {
  const longer = Buffer.allocUnsafe(row.length + 4 + hash.length + 12) as Buffer as Tuple;
  let at = row.copy(longer, 0);
  longer.writeInt16BE(row.readInt16BE(0) + 2, 0);
  at = longer.writeInt32BE(hash.length, at);
  at += hash.copy(longer, at);
  at = longer.writeInt32BE(8, at);
  longer.writeBigInt64BE(copies, at);
  return longer;
}

/** The schemas a table has at two captures. */
export interface BothSchemas {
  readonly before: TableSchema | null;
  readonly after: TableSchema | null;
}

/**
 * What a person calls the difference of one tuple between two captures, and of how many rows it speaks. More or fewer copies are rows
 * inserted or deleted: a table without a key knows no update.
 */
export function changeOf(
  schemas: BothSchemas,
  before: Tuple | null,
  after: Tuple | null,
): { readonly kind: 'inserted' | 'updated' | 'deleted'; readonly rows: bigint } {
  const had = before === null ? 0n : copiesOf(schemas.before, before);
  const has = after === null ? 0n : copiesOf(schemas.after, after);
  if (had === has) return { kind: 'updated', rows: 1n };
  return has > had ? { kind: 'inserted', rows: has - had } : { kind: 'deleted', rows: had - has };
}
