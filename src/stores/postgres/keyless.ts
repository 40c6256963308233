import { hash } from 'node:crypto';
import { COPIES_COLUMN, ROW_COLUMN, copiesOf, keylessRow, withCopies } from '../../model/copies.ts';
import type { TableSchema } from '../../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, cellAt, identityOfRow, keyTuple } from '../../model/tuple.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { binaryArray } from './array-format.ts';
import { identifier } from './connection.ts';
import type { Parameter, Wire } from './wire.ts';

/**
 * Rows of a table without a key are told apart by a hash of their bytes, made in two places that must agree: by the server, where rows
 * are read, and here, where they arrive in the log. Both hash what `record_send` writes (the number of columns; for each the OID of its
 * type, its length, its binary form), which is what the log brings with other framing. SHA-256, of which 16 bytes are kept: as likely to
 * meet by chance as two random uuids, and no weaker against whoever would look for two rows that meet.
 */
const HASH_BYTES = 16;

const SLICE_ROWS = 2000;
/** For sorting one page on the primary: beyond it the server would sort the whole table on disk. */
const SORT_MEMORY = '64MB';

/** The hash of `source`'s row as an expression. Columns are those that the log brings, in the table's order. */
function hashExpression(table: TableSchema): string {
  const row = `ROW(${visibleValues(table).join(', ')})`;
  return `substr(sha256(record_send(${row})), 1, ${HASH_BYTES})`;
}

/** What is mirrored as text may have another type here: see `mirroredType`. */
function visibleValues(table: TableSchema): string[] {
  const visible = table.columns.filter(({ hidden }) => !hidden);
  return visible.map(({ name, type }) => `source.${identifier(name)}${type === 'text' ? '::text' : ''}`);
}

/** Rows as tuples of a table without a key, each as one copy; `where` and `order` speak of `hash`. */
function keylessSelect(table: TableSchema, from: string, where: string, rest: string): string {
  const list = [...visibleValues(table), `hashed.hash AS ${identifier(ROW_COLUMN)}`, '1::int8'];
  const hashed = `LATERAL (SELECT ${hashExpression(table)} AS hash OFFSET 0) hashed`;
  return `SELECT ${list.join(', ')} AS ${identifier(COPIES_COLUMN)} FROM ${from}, ${hashed} WHERE ${where} ${rest}`;
}

/**
 * Rows above a hash, in the order of hashes, copies counted. The primary has no index by hash: each page reads the whole table, and sorts
 * no more of it than the page. The copies of a row are never torn: a page ends before a row of which it may not have all, unless it is
 * the only one, whose copies are then counted by the server.
 */
export async function readKeylessRows(
  wire: Wire,
  table: TableSchema,
  from: string,
  after: KeyTuple | null,
  limit: RowLimit,
  signal: AbortSignal,
): Promise<RowChunk> {
  const where = after === null ? 'true' : 'hashed.hash > $1';
  const sql = keylessSelect(table, from, where, `ORDER BY hashed.hash LIMIT ${limit.rows}`);
  await wire.query(`SET LOCAL work_mem = '${SORT_MEMORY}'`, signal);
  const rows: Tuple[] = [];
  const copies: bigint[] = [];
  let read = 0;
  let bytes = 0;
  let full = false;
  let lastIdentity: Identity | null = null;
  for await (const row of eachRow(wire, sql, after === null ? [] : [hashParameter(after)], signal)) {
    const last = rows.length - 1;
    const identity = identityOfRow(row, table.key);
    if (identity === lastIdentity) {
      (copies[last] as bigint)++;
    } else {
      full = last >= 0 && bytes + row.length > limit.bytes;
      if (full) break;
      rows.push(row);
      copies.push(1n);
      lastIdentity = identity;
      bytes += row.length;
    }
    read++;
  }
  const torn = read === limit.rows;
  if (torn && rows.length > 1) rows.pop();
  else if (torn) copies[0] = await countCopies(wire, table, from, keyTuple(rows[0] as Tuple, table.key), signal);
  const counted = rows.map((row, index) => (copies[index] === 1n ? row : withCopies(row, copies[index] as bigint)));
  return { rows: counted, through: full || torn ? keyTuple(rows.at(-1) as Tuple, table.key) : null };
}

async function* eachRow(wire: Wire, sql: string, parameters: readonly Parameter[], signal: AbortSignal): AsyncGenerator<Tuple> {
  for (let slice = await wire.fetch(sql, parameters, SLICE_ROWS, signal); ; slice = await wire.fetchMore(SLICE_ROWS, signal)) {
    yield* slice.rows;
    if (!slice.more) return;
  }
}

async function countCopies(wire: Wire, table: TableSchema, from: string, key: KeyTuple, signal: AbortSignal): Promise<bigint> {
  const sql = `SELECT count(*) FROM ${from} WHERE ${hashExpression(table)} = $1`;
  const { rows } = await wire.fetch(sql, [hashParameter(key)], 1, signal);
  return (cellAt(rows[0] as Tuple, 0) as Buffer).readBigInt64BE(0);
}

/** Rows of these hashes, copies counted: the whole table is read, once. */
export async function readKeylessRowsByKey(
  wire: Wire,
  table: TableSchema,
  from: string,
  keys: readonly KeyTuple[],
  signal: AbortSignal,
): Promise<Tuple[]> {
  const found = new Map<Identity, Tuple>();
  const hashes = keys.map((key) => cellAt(key, 0) as Buffer);
  const sql = keylessSelect(table, from, 'hashed.hash = ANY ($1)', '');
  for await (const some of wire.select(sql, [{ type: BYTEA_ARRAY, value: binaryArray(BYTEA, hashes) }], signal)) {
    for (const row of some) {
      const identity = identityOfRow(row, table.key);
      const before = found.get(identity);
      found.set(identity, before === undefined ? row : withCopies(before, copiesOf(table, before) + 1n));
    }
  }
  return Array.from(found.values());
}

const TEXT = 25;
const BYTEA = 17;
const BYTEA_ARRAY = 1001;

function hashParameter(key: KeyTuple): Parameter {
  return { type: BYTEA, value: cellAt(key, 0) as Buffer };
}

/** Makes rows of the log into tuples of a table without a key: one copy each. */
export function keylessTuples(columns: readonly { readonly type: string; readonly typeOid: number }[]): (row: Tuple) => Tuple {
  const types = columns.map(({ type, typeOid }) => (type === 'text' ? TEXT : typeOid));
  return (row) => keylessRow(row, hash('sha256', recordOf(row, types), 'buffer').subarray(0, HASH_BYTES), 1n);
}

function recordOf(row: Tuple, types: readonly number[]): Buffer {
  const record = Buffer.allocUnsafe(2 + row.length + 4 * types.length);
  let to = record.writeInt32BE(types.length, 0);
  let from = 2;
  for (const type of types) {
    const length = row.readInt32BE(from);
    if (length < -1) throw new RangeError('a row without a key has an absent column');
    to = record.writeUInt32BE(type, to);
    const next = from + 4 + Math.max(length, 0);
    to += row.copy(record, to, from, next);
    from = next;
  }
  return record;
}
