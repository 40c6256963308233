import { type TableSchema, visibleColumns } from '../../model/schema.ts';
import { type Cell, type KeyTuple, type Tuple, cellsOf } from '../../model/tuple.ts';
import type { ValueCodec } from '../../model/values.ts';

/** Integers begin at this, so that the order of their bytes is their own order. */
const INTEGER_ORIGIN = 1n << 63n;

/**
 * The cells of the stores in memory, by the column's type: an `integer` is eight bytes, big-endian, counted from the lowest; everything
 * else is UTF-8. The order of bytes is then the order of values.
 */
export function memoryCell(value: bigint | string | null): Cell {
  if (value === null) return null;
  if (typeof value === 'string') return Buffer.from(value);
  const cell = Buffer.alloc(8);
  cell.writeBigUInt64BE(value + INTEGER_ORIGIN);
  return cell;
}

export const memoryValues: ValueCodec = {
  row: (table: TableSchema, row: Tuple) => {
    const cells = cellsOf(row);
    return shown(table, visibleColumns(table), (index) => cells[index]);
  },
  key: (table: TableSchema, key: KeyTuple) => {
    const cells = cellsOf(key);
    return shown(table, table.key, (index) => cells[table.key.indexOf(index)]);
  },
};

function shown(table: TableSchema, columns: readonly number[], cellOf: (column: number) => Cell): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const index of columns) {
    const column = table.columns[index];
    const cell = cellOf(index);
    if (column !== undefined && cell !== undefined) values[column.name] = cell === null ? null : valueOf(column.type, cell);
  }
  return values;
}

function valueOf(type: string, cell: Buffer): unknown {
  if (type !== 'integer' || cell.length !== 8) return cell.toString();
  const value = cell.readBigUInt64BE() - INTEGER_ORIGIN;
  return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
}

/** Keys by the bytes of their cells, column by column; NULL comes first. */
export function compareKeys(a: KeyTuple, b: KeyTuple): number {
  const others = cellsOf(b);
  for (const [index, cell] of cellsOf(a).entries()) {
    const other = others[index] ?? null;
    const order = cell === null || cell === undefined ? (other === null ? 0 : -1) : other === null ? 1 : Buffer.compare(cell, other);
    if (order !== 0) return order;
  }
  return 0;
}
