import type { TableSchema } from '../../model/schema.ts';
import { type Cell, cellsOf } from '../../model/tuple.ts';
import type { ValueCodec } from '../../model/values.ts';
import { decodeCell } from './cell.ts';

/** Shows SQLite's cells to people: see `ValueCodec` for what becomes a string. */
export const sqliteValues: ValueCodec = {
  row(table, row) {
    return shown(
      table,
      table.columns.map((_, index) => index),
      cellsOf(row),
      false,
    );
  },
  key(table, key) {
    return shown(table, table.key, cellsOf(key), true);
  },
};

function shown(table: TableSchema, columns: readonly number[], cells: readonly Cell[], hidden: boolean): Record<string, unknown> {
  const values: [string, unknown][] = [];
  columns.forEach((index, at) => {
    const column = table.columns[index];
    const cell = cells[at];
    if (column === undefined || cell === undefined || (column.hidden && !hidden)) return;
    values.push([column.name, shownValue(cell)]);
  });
  // A column may be called "__proto__": fromEntries defines it as a plain property.
  return Object.fromEntries(values);
}

/** Integers beyond ±2^53 and infinities become strings (JSON has neither), bytes `\x…`. */
function shownValue(cell: Cell): unknown {
  const value = decodeCell(cell);
  if (typeof value === 'bigint') {
    return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
  }
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
  if (value === null || typeof value === 'string') return value;
  return `\\x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}`;
}
