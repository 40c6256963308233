import type { TransactionId, TransactionRef } from '../../model/change.ts';
import { type Position, position } from '../../model/position.ts';

/** How positions and transaction ids of the journal follow from those of the server. */
export interface Numbering {
  /** Added to every LSN: a server put back to an earlier state goes on above what the journal has seen. */
  readonly base: bigint;
  /** A 64-bit transaction id near those to come: the stream has only the lower half of each. */
  transactionNear: bigint;
}

/**
 * A transaction's position lies inside its commit record: after every earlier record's end, before its own. (The record's end is
 * known only after the whole transaction has passed, which may be too large to wait for.) Spelled when it is asked for: of most it is not.
 */
export class Commit implements TransactionRef {
  readonly id: TransactionId;
  readonly end: bigint;
  readonly committedAtMicros: bigint;
  #at: Position | null = null;

  constructor(id: TransactionId, commitLsn: bigint, base: bigint, committedAtMicros: bigint) {
    this.id = id;
    this.end = commitLsn + 1n + base;
    this.committedAtMicros = committedAtMicros;
  }

  get at(): Position {
    this.#at ??= position(this.end);
    return this.#at;
  }
}

export function boundary(lsn: bigint, base: bigint): Position {
  return position(lsn + base);
}

/** The 64-bit id whose lower half this is, nearest to a known one. */
export function widen(xid: number, near: bigint): bigint {
  // Most lie close by, where no wrap can come between.
  const ahead = xid - Number(near & 0xffff_ffffn);
  if (ahead > -0x4000_0000 && ahead < 0x4000_0000) return near + BigInt(ahead);
  const half = 1n << 31n;
  let id = (near & ~0xffff_ffffn) | BigInt(xid);
  if (id > near + half && id >= 1n << 32n) id -= 1n << 32n;
  else if (id < near - half) id += 1n << 32n;
  return id;
}
