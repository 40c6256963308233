import { isUtf8 } from 'node:buffer';
import type { SQLInputValue, SQLOutputValue } from 'node:sqlite';
import { type Cell, type Tuple, packTuple } from '../../model/tuple.ts';

/**
 * The cells of SQLite's stores: one byte for the storage class, then the value.
 *
 *   1 integer  int64, big-endian      3 text  UTF-8
 *   2 real     float64, big-endian    4 blob  its bytes
 *
 * NULL is the tuple's own NULL. Integers and reals stay apart (1 and 1.0 are different cells), NUL inside text is kept.
 *
 * Text that is not valid UTF-8 cannot pass through a JavaScript string: reading it that way puts U+FFFD in place of the bad
 * bytes. Readers notice (`mayBeBroken`) and read that column again as bytes; writers notice (`isBrokenText`) and bind the bytes
 * to CAST(? AS TEXT). In a UTF-16 database unpaired surrogates are beyond reach and read as U+FFFD.
 */
export const INTEGER = 1;
export const REAL = 2;
export const TEXT = 3;
export const BLOB = 4;

const NULL = -1;
const ABSENT = -2;
const REPLACEMENT = '�';

let scratch = Buffer.allocUnsafe(1 << 16);

/**
 * Packs the values of columns `from` up to `to` (exclusive) into a tuple. Written for the fast path: one growing scratch buffer,
 * one allocation a row, no cell objects. Numbers are taken as reals.
 */
export function packValues(values: readonly SQLOutputValue[], from = 0, to = values.length): Tuple {
  let at = 2;
  reserve(2);
  scratch.writeInt16BE(to - from, 0);
  for (let i = from; i < to; i++) at = writeCell(values[i] as SQLOutputValue, at);
  const tuple = Buffer.allocUnsafe(at);
  scratch.copy(tuple, 0, 0, at);
  return tuple as Tuple;
}

/**
 * As `packValues`, from values read in pairs: the value, with text cast to a blob, and 1 where it was text. Slower, but text that
 * is not valid UTF-8 stays as it is.
 */
export function packExact(values: readonly SQLOutputValue[], from = 0, to = values.length): Tuple {
  const cells: Cell[] = [];
  for (let i = from; i < to; i += 2) {
    const value = values[i] as SQLOutputValue;
    cells.push(values[i + 1] === 1n ? textCell(value as Uint8Array) : encodeCell(value));
  }
  return packTuple(cells);
}

function writeCell(value: SQLOutputValue, start: number): number {
  let at = start;
  reserve(at + 13);
  if (value === null) return scratch.writeInt32BE(NULL, at);
  switch (typeof value) {
    case 'bigint':
      at = scratch.writeInt32BE(9, at);
      scratch[at] = INTEGER;
      return scratch.writeBigInt64BE(value, at + 1);
    case 'number':
      at = scratch.writeInt32BE(9, at);
      scratch[at] = REAL;
      return scratch.writeDoubleBE(value, at + 1);
    case 'string': {
      // UTF-8 takes at most three bytes for each UTF-16 unit.
      reserve(at + 5 + value.length * 3);
      const length = scratch.write(value, at + 5, 'utf8');
      at = scratch.writeInt32BE(length + 1, at);
      scratch[at] = TEXT;
      return at + 1 + length;
    }
    default:
      reserve(at + 5 + value.byteLength);
      at = scratch.writeInt32BE(value.byteLength + 1, at);
      scratch[at] = BLOB;
      scratch.set(value, at + 1);
      return at + 1 + value.byteLength;
  }
}

function reserve(size: number): void {
  if (size <= scratch.length) return;
  const grown = Buffer.allocUnsafe(Math.max(size, scratch.length * 2));
  scratch.copy(grown);
  scratch = grown;
}

/** The bindable values of a tuple. Absent columns are an error: nothing can be bound for them. */
export function unpackValues(tuple: Tuple): SQLInputValue[] {
  const count = tuple.readInt16BE(0);
  const values: SQLInputValue[] = [];
  let at = 2;
  for (let i = 0; i < count; i++) {
    const length = tuple.readInt32BE(at);
    at += 4;
    if (length === ABSENT) throw new Error(`column ${i} of a SQLite row is absent`);
    if (length === NULL) {
      values.push(null);
      continue;
    }
    values.push(readCell(tuple, at, at + length));
    at += length;
  }
  return values;
}

/** The integer in a column, rounded where it passes 2^53; null where something else stands there. */
export function integerAt(tuple: Tuple, column: number): number | null {
  let at = 2;
  for (let i = 0; i < column; i++) at += 4 + Math.max(0, tuple.readInt32BE(at));
  if (tuple.readInt32BE(at) !== 9 || tuple[at + 4] !== INTEGER) return null;
  return tuple.readInt32BE(at + 5) * 2 ** 32 + tuple.readUInt32BE(at + 9);
}

function readCell(bytes: Buffer, at: number, end: number): SQLInputValue {
  switch (bytes[at]) {
    case INTEGER:
      return bytes.readBigInt64BE(at + 1);
    case REAL:
      return bytes.readDoubleBE(at + 1);
    case TEXT:
      return bytes.toString('utf8', at + 1, end);
    case BLOB:
      return bytes.subarray(at + 1, end);
    default:
      throw new Error(`damaged SQLite cell: storage class ${bytes[at]}`);
  }
}

/** One cell of a value read with bigint reading on. */
export function encodeCell(value: SQLOutputValue): Buffer | null {
  if (value === null) return null;
  const end = writeCell(value, 0);
  return Buffer.from(scratch.subarray(4, end));
}

/** The bindable value of one cell. For text that is not valid UTF-8 see `isBrokenText`. */
export function decodeCell(cell: Cell): SQLInputValue {
  if (cell === undefined) throw new Error('an absent SQLite cell has no value');
  return cell === null ? null : readCell(cell, 0, cell.length);
}

/** A text cell of bytes that were read as a blob (CAST(column AS BLOB)). */
export function textCell(bytes: Uint8Array): Buffer {
  const cell = Buffer.allocUnsafe(bytes.byteLength + 1);
  cell[0] = TEXT;
  cell.set(bytes, 1);
  return cell;
}

/** The string may stand for text that was not valid UTF-8: read the column again as a blob to know. */
export function mayBeBroken(value: unknown): boolean {
  return typeof value === 'string' && value.includes(REPLACEMENT);
}

/** The cell is text that a string cannot carry: bind `textBytes` to CAST(? AS TEXT). */
export function isBrokenText(cell: Cell): boolean {
  return cell !== null && cell !== undefined && cell[0] === TEXT && !isUtf8(cell.subarray(1));
}

/** The bytes of a text or blob cell, without its storage class. */
export function textBytes(cell: Buffer): Buffer {
  return cell.subarray(1);
}
