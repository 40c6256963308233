/**
 * A position is a place in one primary's commit order: the end of a commit and an ordinal within it.
 *
 * It is text of fixed width (`commitEnd` in 16 hex digits, a dot, the ordinal in 8), so `<` on strings is `<` on positions,
 * it can be a key in any store, and it never passes through a JavaScript number. Only the store that made it may look inside.
 */
export type Position = string & { readonly __brand: 'Position' };

/** The ordinal of a boundary: everything of that commit, and of all before it, lies at or below it. */
const WHOLE = 0xffff_ffff;

/** Before everything. */
export const ORIGIN: Position = position(0n, 0);

/** `commitEnd` must fit 64 unsigned bits. Without an ordinal the position is the boundary after the whole transaction. */
export function position(commitEnd: bigint, ordinal: number = WHOLE): Position {
  if (commitEnd < 0n || commitEnd >= 1n << 64n) throw new RangeError(`commit end ${commitEnd} does not fit 64 bits`);
  if (!Number.isInteger(ordinal) || ordinal < 0 || ordinal > WHOLE) throw new RangeError(`ordinal ${ordinal} does not fit 32 bits`);
  return `${commitEnd.toString(16).padStart(16, '0')}.${ordinal.toString(16).padStart(8, '0')}` as Position;
}

/** The boundary after the commit whose end stands in eight bytes, big-endian. For those who meet very many. */
export function boundaryAt(bytes: Buffer, at: number): Position {
  return `${bytes.toString('hex', at, at + 8)}.ffffffff` as Position;
}

/** The boundary before the commit at a position: only what is told of that commit itself lies between. */
export function positionBefore(at: Position): Position {
  return position(commitEndOf(at) - 1n);
}

/** Reads a stored position; throws a RangeError for anything `position` did not write. */
export function parsePosition(text: string): Position {
  if (!/^[0-9a-f]{16}\.[0-9a-f]{8}$/.test(text)) throw new RangeError(`"${text}" is not a position`);
  return text as Position;
}

export function commitEndOf(at: Position): bigint {
  return BigInt(`0x${at.slice(0, 16)}`);
}

export function maxPosition(a: Position, b: Position): Position {
  return a > b ? a : b;
}

export function minPosition(a: Position, b: Position): Position {
  return a < b ? a : b;
}
