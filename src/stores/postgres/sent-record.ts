import { type Cell, type Tuple, packTuple } from '../../model/tuple.ts';
import type { Layout } from './layout.ts';

/**
 * A row as one value, where a result has several rows side by side: `record_send` writes the number of columns, then for each the OID of
 * its type, its length and its binary form. A result has at most 1,664 columns; two wide tables have more.
 */
export function sentRecord(layout: Layout, alias: string): string {
  return `pg_catalog.record_send(ROW(${layout.list(alias)})::record)`;
}

/** The row of such a value; null where there is none. */
export function sentRow(sent: Cell, leave: (row: Tuple) => Tuple): Tuple | null {
  if (sent === null || sent === undefined) return null;
  const cells: Cell[] = [];
  let at = 4;
  for (let left = sent.readInt32BE(0); left > 0; left--) {
    const length = sent.readInt32BE(at + 4);
    at += 8;
    cells.push(length < 0 ? null : sent.subarray(at, at + length));
    if (length > 0) at += length;
  }
  return leave(packTuple(cells));
}
