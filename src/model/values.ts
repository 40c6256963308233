import type { TableSchema } from './schema.ts';
import type { KeyTuple, Tuple } from './tuple.ts';

/**
 * Turns tuples of one kind of store into values a person or JSON understands. Integers beyond ±2^53 and all numerics become
 * strings; bytes become `\x…`. Only for showing: nothing is ever compared or stored through it.
 */
export interface ValueCodec {
  /** Column name to value; hidden columns are left out, absent ones too. */
  row(table: TableSchema, row: Tuple): Record<string, unknown>;
  /** Key column name to value. A hidden identity is shown by its column's name. */
  key(table: TableSchema, key: KeyTuple): Record<string, unknown>;
}
