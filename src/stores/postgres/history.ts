import type { ServerState } from './installation.ts';

/** What goes with every batch into the journal, as JSON. */
export interface Evidence {
  readonly system: string;
  readonly database: string;
  readonly timeline: string;
  readonly mark: string;
  readonly base: string;
}

/** Null for anything `evidenceOf` did not write. */
export function parseEvidence(text: string): Evidence | null {
  try {
    const found = JSON.parse(text) as Partial<Evidence> | null;
    const { system, database, timeline, mark, base } = found ?? {};
    if (system === undefined || database === undefined || timeline === undefined || mark === undefined || base === undefined) return null;
    return { system, database, timeline, mark, base };
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/** Why tracking cannot go on from a bookmark; null if the slot, the mark and the log say that nothing is missing. */
export function gapReason(evidence: Evidence | null, fromLsn: bigint, state: ServerState): string | null {
  const { slot, mark } = state;
  if (evidence === null) return 'the bookmark is not of this primary';
  if (slot === null) return 'the replication slot is gone';
  if (slot.lost !== null) return `the replication slot cannot be used: ${slot.lost}`;
  if (!state.publication) return 'the publication is gone';
  if (slot.confirmed > fromLsn) return 'the replication slot is past what the journal holds';
  if (state.insertLsn < fromLsn) return 'the primary was put back to an earlier state';
  if (mark !== null && !mark.marks.includes(evidence.mark))
    return 'the primary was put back to an earlier state, or was tracked by another journal';
  if (evidence.timeline !== state.timeline) return 'the primary was recovered or failed over to another history';
  return null;
}

export function evidenceOf(state: ServerState, mark: string, base: bigint): string {
  const evidence: Evidence = { system: state.system, database: state.database, timeline: state.timeline, mark, base: String(base) };
  return JSON.stringify(evidence);
}
