import type { CaptureNumber } from '../../model/capture.ts';
import { eachRow, type Rows } from '../../model/rows.ts';
import { cellStart, type Tuple } from '../../model/tuple.ts';
import { ARRAY_HEAD_BYTES, writeArrayHead } from './array-format.ts';
import { type Layout, OWN_SCHEMA, UNTIL } from './layout.ts';

/** Up to here a value is copied byte by byte: quicker than asking for it. */
const SHORT_BYTES = 32;

/** An array type that holds the values of one column of the key, and the OID of its elements in the shadow. */
export interface PackedColumn {
  readonly type: string;
  readonly element: number;
}

/**
 * Keys that a capture was the first to insert have no superseded version to be found by. Those that come in numbers are kept in packs:
 * one row for each batch, an array for each column of the key. A marker for each key in the history was 43 % of the server's CPU for an
 * apply of inserts (400,000 rows, PostgreSQL 18.4, two runs each way).
 */
export function insertedDdl(layout: Layout, collatable: ReadonlySet<number>): string[] {
  const { packed } = layout.segment.types;
  if (packed === null) return [];
  const arrays = packed.map(({ type }, index) => {
    const collation = collatable.has(layout.segment.schema.key[index] as number) ? ' COLLATE pg_catalog."C"' : '';
    return `k${index} ${type}${collation} NOT NULL`;
  });
  const external = packed.map((_, index) => `ALTER k${index} SET STORAGE EXTERNAL`);
  return [
    `CREATE TABLE ${tableOf(layout)} (${arrays.join(', ')}, ${UNTIL} bigint NOT NULL)`,
    `ALTER TABLE ${tableOf(layout)} ${external.join(', ')}`,
    `CREATE INDEX ON ${tableOf(layout)} (${UNTIL})`,
  ];
}

export function dropInserted(layout: Layout): string {
  return `DROP TABLE IF EXISTS ${tableOf(layout)}`;
}

/** The COPY that takes what `packKeys` makes. */
export function copyInserted(layout: Layout, packed: readonly PackedColumn[]): string {
  return `COPY ${tableOf(layout)} (${packed.map((_, index) => `k${index}`).join(', ')}, ${UNTIL}) FROM STDIN (FORMAT binary)`;
}

/** A SELECT of the packed keys that captures in (`from`, `to`] inserted, by the names of the key's columns; null: there are no packs. */
export function insertedKeys(layout: Layout, from: CaptureNumber, to: CaptureNumber): string | null {
  const { packed } = layout.segment.types;
  if (packed === null) return null;
  const keys = layout.key.map((name, index) => `unnest(p.k${index}) AS ${name}`);
  return `SELECT ${keys.join(', ')} FROM ${tableOf(layout)} p WHERE p.${UNTIL} > ${from} AND p.${UNTIL} <= ${to}`;
}

/** The keys of rows, none of which has a NULL, as one row of arrays. */
export function packKeys(rows: Rows, key: readonly number[], packed: readonly PackedColumn[]): Tuple {
  const sizes = key.map((column) => {
    let size = ARRAY_HEAD_BYTES;
    eachRow(rows, (bytes, row) => {
      size += cellBytes(bytes, cellStart(bytes, column, row));
    });
    return size;
  });
  const pack = Buffer.allocUnsafe(sizes.reduce((sum, size) => sum + 4 + size, 2));
  let at = pack.writeInt16BE(key.length, 0);
  for (const [index, column] of key.entries()) {
    at = pack.writeInt32BE(sizes[index] as number, at);
    at = writeArrayHead(pack, at, packed[index]?.element ?? 0, rows.length, false);
    eachRow(rows, (bytes, row) => {
      // A cell with its length is written alike in a tuple and in an array.
      const start = cellStart(bytes, column, row);
      const end = start + cellBytes(bytes, start);
      if (end - start > SHORT_BYTES) at += bytes.copy(pack, at, start, end);
      else for (let from = start; from < end; from++) pack[at++] = bytes[from] as number;
    });
  }
  return pack as Buffer as Tuple;
}

function cellBytes(bytes: Buffer, start: number): number {
  return 4 + Math.max(bytes.readInt32BE(start), 0);
}

function tableOf(layout: Layout): string {
  return `${OWN_SCHEMA}.inserted_${layout.segment.storage}`;
}
