/** What a primary keeps for tracking until it is acknowledged, and what stands in the way of its forgetting. */
export interface Retained {
  /** What keeps it: the slot's name. */
  readonly slot: string;
  /** Whether somebody reads from it. */
  readonly active: boolean;
  /** As the store calls it (`pg_replication_slots.wal_status`): reserved, extended, unreserved, lost. */
  readonly walStatus: string;
  /** Log that is kept; null where the slot has lost it. */
  readonly bytes: number | null;
  /** Log that is not acknowledged yet: the rest is kept for transactions that were open, or until the store's next look. */
  readonly unacknowledgedBytes: number | null;
  /** At how much kept log the slot is given up; null: never. */
  readonly limitBytes: number | null;
  /** Log that may still be written before it is given up; null: any amount, or it is lost already. */
  readonly leftBytes: number | null;
  /** How many transactions ago the oldest catalog row was current that cannot be cleaned up because of it. */
  readonly catalogAge: number | null;
  /** Who keeps the slot from moving on, for people. */
  readonly heldBy: readonly string[];
}
