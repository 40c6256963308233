import type { Position } from './position.ts';
import type { TableName } from './schema.ts';
import type { Tuple, KeyTuple } from './tuple.ts';

/** Captures are numbered from 1; a number is never used twice. */
export type CaptureNumber = number & { readonly __brand: 'CaptureNumber' };

export function captureNumber(value: number): CaptureNumber {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is not a capture number`);
  return value as CaptureNumber;
}

/** Nothing was captured yet. */
export const NO_CAPTURE = captureNumber(0);

/** The rows of `since` and `until` are numbers of captures; this stands above them all and marks a write that was not ours. */
export const FOREIGN = (1n << 63n) - 1n;

export type Verdict = 'VALID' | 'INVALID' | 'INCONCLUSIVE';

export type CaptureState = 'planned' | 'draining' | 'cut' | 'validating' | 'sealed' | 'aborted' | 'expired';

export interface RowCounts {
  readonly inserted: number;
  readonly updated: number;
  readonly deleted: number;
}

/** What a verdict rests on. */
export interface Coverage {
  readonly tables: number;
  /** Rows compared with the primary. */
  readonly rows: number;
  /** Rows not compared because the primary rewrote them after the capture; the journal bears witness for them. */
  readonly witnessed: number;
  readonly skipped: readonly { readonly table: TableName; readonly reason: string }[];
  /** Tables of which only inserts are tracked: that each row of the primary is there was compared, not that there is none beyond. */
  readonly insertOnly?: readonly TableName[];
}

export type Diagnosis = 'altered in the shadow' | 'missed by tracking' | 'applied wrong' | 'unknown';

/** One row that differs between two captures. Both sides absent never occurs. */
export interface RowDifference {
  readonly key: KeyTuple;
  readonly before: Tuple | null;
  readonly after: Tuple | null;
}

export interface CaptureTimings {
  readonly residualRows: number;
  readonly drainMs: number;
  readonly cutMs: number;
  readonly validateMs: number;
  readonly elapsedMs: number;
}

/** A row of the catalog. Times are ISO 8601 by the clock of the machine Foreshadow runs on. */
export interface CaptureRecord {
  readonly number: CaptureNumber;
  readonly state: CaptureState;
  /** The moment it was due. */
  readonly dueAt: string;
  /** When the cut was durable. */
  readonly cutAt: string | null;
  /** C: the position it is cut at. Durable before the first element crosses. */
  readonly position: Position | null;
  readonly verdict: Verdict | null;
  readonly coverage: Coverage | null;
  /** Tables left out: reading them at this capture is an error that names the reason. */
  readonly absent: readonly { readonly table: TableName; readonly reason: string }[];
  readonly rows: RowCounts | null;
  readonly timings: CaptureTimings | null;
  /** Why it was aborted, or what came of an INVALID verdict. */
  readonly note: string | null;
}

/**
 * The sums of one table at one capture: how many rows, and the SHA-256 of each row added up in eight lanes modulo 2^32.
 * Sums, because XOR lets equal edits cancel in pairs and told three other tools "equal" where it was not.
 */
export interface Seal {
  readonly table: TableName;
  readonly rows: bigint;
  /** Eight unsigned 32-bit lanes, big-endian: 32 bytes. */
  readonly sums: Buffer;
}
