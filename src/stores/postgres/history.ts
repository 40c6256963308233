import type { TransactionRef } from '../../model/change.ts';
import { parsePosition, type Position } from '../../model/position.ts';
import type { ServerState, SlotState } from './installation.ts';
import { parseLsn } from './stream.ts';

/** What goes with every batch into the journal, as JSON. */
export interface Evidence {
  readonly system: string;
  readonly database: string;
  readonly timeline: string;
  readonly mark: string;
  readonly base: string;
  /** The last transaction the journal has changes of; null: none since it began. */
  readonly witness: Witness | null;
  /** `publicationSeen`; null: tracking has not begun. */
  readonly published: string | null;
}

/** Enough of a transaction to know it again. */
export interface Witness {
  readonly at: Position;
  readonly id: string;
  readonly committedAtMicros: string;
}

/** Null for anything `evidenceText` did not write. */
export function parseEvidence(text: string): Evidence | null {
  try {
    const found = JSON.parse(text) as Partial<Evidence> | null;
    const { system, database, timeline, mark, base, witness, published } = found ?? {};
    if (system === undefined || database === undefined || timeline === undefined || mark === undefined || base === undefined) return null;
    const known = witness === undefined || witness === null ? null : { ...witness, at: parsePosition(witness.at) };
    return { system, database, timeline, mark, base, witness: known, published: published ?? null };
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RangeError) return null;
    throw error;
  }
}

export function evidenceText(evidence: Evidence): string {
  return JSON.stringify(evidence);
}

export function evidenceOf(
  { system, database, timeline }: ServerState,
  mark: string,
  base: bigint,
  witness: Witness | null = null,
  published: string | null = null,
): Evidence {
  return { system, database, timeline, mark, base: String(base), witness, published };
}

/**
 * Why tracking cannot go on from a bookmark; null if slot, mark and log give no reason. `branchedAt` is where the server's present
 * timeline left the bookmark's, null if it never was on it; `remade` why we have made the slot anew, if we have.
 */
export function gapReason(
  evidence: Evidence | null,
  fromLsn: bigint,
  state: ServerState,
  branchedAt: bigint | null,
  remade: string | null,
): string | null {
  const { slot, mark } = state;
  if (evidence === null) return 'the bookmark is not of this primary';
  if (evidence.timeline !== state.timeline && (branchedAt === null || branchedAt < fromLsn))
    return 'the primary was recovered or failed over to another history, which lacks changes that were tracked';
  if (state.insertLsn < fromLsn) return 'the primary was put back to an earlier state';
  if (slot === null)
    return evidence.timeline === state.timeline
      ? 'the replication slot is gone: somebody dropped it'
      : 'the primary failed over to a standby that did not have the replication slot';
  if (slot.lost !== null) return unusable(slot);
  if (!state.publication) return 'the publication is gone';
  if (slot.confirmed > fromLsn)
    return remade ?? 'the replication slot is past what the journal holds: somebody advanced it or made it anew';
  if (mark !== null && !mark.marks.includes(evidence.mark))
    return 'the primary was put back to an earlier state, or was tracked by another journal';
  return null;
}

export function unusable({ lost }: SlotState): string | null {
  return lost === null ? null : `the replication slot cannot be used: ${lost}`;
}

/** Where the timeline whose history file this is left another (8 hexadecimal digits); null if it does not descend from it. */
export function branchOf(historyFile: string, timeline: string): bigint | null {
  for (const line of historyFile.split('\n')) {
    const [parent, lsn] = line.trim().split(/\s+/);
    if (lsn !== undefined && Number(parent) === Number.parseInt(timeline, 16)) return parseLsn(lsn);
  }
  return null;
}

/**
 * Holds what a slot sends again against what the journal ends with. A primary that was put back to an earlier state and has written
 * since may look untouched (same system, timeline and mark, and a log that reaches beyond the bookmark); but its slot was put back
 * too, and what lies between the slot and the bookmark is not what was tracked.
 */
export class Continuity {
  readonly #slotAt: Position;
  readonly #witness: Witness | null;
  #seen = false;
  #strange = false;

  /** `slotAt`: the slot sends what was committed after it. */
  constructor(slotAt: Position, witness: Witness | null) {
    this.#slotAt = slotAt;
    this.#witness = witness;
  }

  /** A transaction at or below the bookmark has changes of the data set. */
  repeated(ref: TransactionRef): void {
    const witness = this.#witness;
    if (witness === null || ref.at > witness.at) this.#strange = true;
    else if (ref.at === witness.at) {
      if (String(ref.id) === witness.id && String(ref.committedAtMicros) === witness.committedAtMicros) this.#seen = true;
      else this.#strange = true;
    }
  }

  /** To be asked when everything up to the bookmark was read. */
  get broken(): boolean {
    return this.#strange || (this.#witness !== null && this.#witness.at > this.#slotAt && !this.#seen);
  }
}

/** What the slot sends is not the continuation of what was tracked. */
export class BrokenHistory extends Error {
  override readonly name = 'BrokenHistory';
}

export function witnessOf({ at, id, committedAtMicros }: TransactionRef): Witness {
  return { at, id: String(id), committedAtMicros: String(committedAtMicros) };
}
