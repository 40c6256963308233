import type { BlockWriter } from '../../journal/frame.ts';
import type { TransactionId, TransactionPart } from '../../model/change.ts';
import type { TableName } from '../../model/schema.ts';
import type { Noticed, TrackedTable } from './watch.ts';

/** Changes being written, by table. */
export interface Written {
  readonly writers: Map<TableName, BlockWriter>;
  bytes: number;
  /** Pieces of the transaction that has not ended were handed out. */
  inPieces: boolean;
}

/** A transaction that the server sends while it is still in progress. */
export interface Streamed extends Written {
  /** The lower half of the id, which is what the server says. */
  readonly xid: number;
  readonly id: TransactionId;
  /** What its own relation messages said: it may have altered tables that are as before to all others. */
  readonly tables: Map<number, TrackedTable | null>;
  readonly dropped: Set<TransactionPart>;
  /** Parts that have changes, but for those dropped. */
  readonly changed: Set<TransactionPart>;
  readonly events: (Noticed & { readonly part: TransactionPart; readonly among: boolean })[];
  /** Tables of which rows were changed. */
  readonly touched: Set<TableName>;
  undo: { readonly part: TransactionPart; readonly undo: () => void }[];
}

export function newStreamed(xid: number, id: TransactionId): Streamed {
  return {
    xid,
    id,
    writers: new Map(),
    bytes: 0,
    inPieces: false,
    tables: new Map(),
    dropped: new Set(),
    changed: new Set(),
    events: [],
    touched: new Set(),
    undo: [],
  };
}
