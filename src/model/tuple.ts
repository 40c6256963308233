/**
 * A tuple is one row (or one key) as packed bytes: `int16 columns`, then for each column `int32 length` and that many bytes,
 * all big-endian. Length -1 is NULL; -2 is *absent*: the primary did not send the value because it did not change.
 *
 * Without absent columns this is exactly a row of PostgreSQL's binary COPY format
 * (https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"), so rows go from one server to another by copying
 * bytes. What the bytes of a cell mean is known to the kind of store that made them: PostgreSQL's binary send format, or
 * SQLite's storage class in one byte followed by the value (`stores/sqlite/cell.ts`).
 */
export type Tuple = Buffer & { readonly __brand: 'Tuple' };

/** A tuple that holds only the key columns of a table, in the order of `TableSchema.key`. */
export type KeyTuple = Tuple & { readonly __key: true };

/** null is SQL's NULL, undefined is absent. */
export type Cell = Buffer | null | undefined;

/** Lengths of cells that hold nothing. */
export const NULL = -1;
export const ABSENT = -2;

export function packTuple(cells: readonly Cell[]): Tuple {
  let size = 2;
  for (const cell of cells) size += 4 + (cell?.length ?? 0);
  const bytes = Buffer.allocUnsafe(size);
  let at = bytes.writeInt16BE(cells.length, 0);
  for (const cell of cells) {
    if (cell === undefined) at = bytes.writeInt32BE(ABSENT, at);
    else if (cell === null) at = bytes.writeInt32BE(NULL, at);
    else {
      at = bytes.writeInt32BE(cell.length, at);
      at += cell.copy(bytes, at);
    }
  }
  return bytes as Tuple;
}

/** Views on the tuple's own bytes; nothing is copied. */
export function cellsOf(tuple: Tuple): Cell[] {
  const count = tuple.readInt16BE(0);
  const cells: Cell[] = Array.from({ length: count });
  let at = 2;
  for (let i = 0; i < count; i++) {
    const length = tuple.readInt32BE(at);
    at += 4;
    if (length >= 0) {
      cells[i] = tuple.subarray(at, at + length);
      at += length;
    } else cells[i] = length === NULL ? null : undefined;
  }
  return cells;
}

export function cellAt(tuple: Tuple, index: number): Cell {
  const at = cellStart(tuple, index);
  const length = tuple.readInt32BE(at);
  if (length >= 0) return tuple.subarray(at + 4, at + 4 + length);
  return length === NULL ? null : undefined;
}

/** `start`: where the tuple begins in the bytes. */
export function hasAbsent(tuple: Buffer, start = 0): boolean {
  const count = tuple.readInt16BE(start);
  let at = start + 2;
  for (let i = 0; i < count; i++) {
    const length = tuple.readInt32BE(at);
    if (length === ABSENT) return true;
    at += 4 + (length > 0 ? length : 0);
  }
  return false;
}

/** `newer`, with its absent columns taken from `older`; both have the same columns. */
export function fillAbsent(newer: Tuple, older: Tuple): Tuple {
  const filled = cellsOf(newer);
  const before = cellsOf(older);
  for (let i = 0; i < filled.length; i++) if (filled[i] === undefined) filled[i] = before[i];
  return packTuple(filled);
}

export function projectTuple(tuple: Tuple, columns: readonly number[]): Tuple {
  if (columns.length === 1) {
    const cell = cellAt(tuple, columns[0] as number);
    return packTuple([cell]);
  }
  const cells = cellsOf(tuple);
  return packTuple(columns.map((index) => cells[index]));
}

export function keyTuple(row: Tuple, key: readonly number[]): KeyTuple {
  return projectTuple(row, key) as KeyTuple;
}

/**
 * The identity of a row as a Map key: the cells of its key with their lengths, one character a byte. Two keys are the same identity
 * only if their bytes are equal, so 64-bit integers and numerics stay exact.
 */
export type Identity = string & { readonly __brand: 'Identity' };

export function identityOf(key: KeyTuple): Identity {
  return key.toString('latin1', 2) as Identity;
}

/** The identity of a row's key, without making the key's tuple. `start`: where the row begins in the bytes. */
export function identityOfRow(row: Buffer, key: readonly number[], start = 0): Identity {
  let identity = '';
  for (const index of key) {
    const at = cellStart(row, index, start);
    const length = row.readInt32BE(at);
    identity += row.toString('latin1', at, at + 4 + (length > 0 ? length : 0));
  }
  return identity as Identity;
}

/** Where the length of a cell stands, in bytes in which the tuple begins at `start`. */
export function cellStart(tuple: Buffer, index: number, start = 0): number {
  let at = start + 2;
  for (let i = 0; i < index; i++) {
    const length = tuple.readInt32BE(at);
    at += 4 + (length > 0 ? length : 0);
  }
  return at;
}

/** The key an identity was made of. */
export function keyOfIdentity(identity: Identity): KeyTuple {
  const key = Buffer.allocUnsafe(2 + identity.length) as unknown as KeyTuple;
  key.write(identity, 2, 'latin1');
  let columns = 0;
  for (let at = 2; at < key.length; columns++) {
    const length = key.readInt32BE(at);
    at += 4 + (length > 0 ? length : 0);
  }
  key.writeInt16BE(columns, 0);
  return key;
}
