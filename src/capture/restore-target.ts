import type { DdlStatement, TableSchema } from '../model/schema.ts';
import type { Tuple } from '../model/tuple.ts';
import type { StoreKind } from '../tracking/primary.ts';

/**
 * An empty database that a capture is written into. Everything becomes visible at `finish`, or nothing does: a target that was
 * not finished is removed or left empty when it is closed.
 */
export interface RestoreTarget extends AsyncDisposable {
  readonly kind: StoreKind;
  /** Refuses a database that holds anything already (TARGET_OCCUPIED). With `into`, only the named tables must be absent. */
  begin(tables: readonly TableSchema[], into: 'empty' | 'beside', signal: AbortSignal): Promise<void>;
  /** Runs statements in order; those that may fail and did are returned with the engine's reason. */
  run(statements: readonly DdlStatement[], signal: AbortSignal): Promise<readonly { object: string; reason: string }[]>;
  /** Loads rows, hidden and generated columns left out. Returns how many. */
  load(table: TableSchema, rows: AsyncIterable<readonly Tuple[]>, signal: AbortSignal): Promise<number>;
  /** Checks foreign keys, then commits. */
  finish(signal: AbortSignal): Promise<void>;
}
