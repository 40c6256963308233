import type { CaptureRecord, CaptureState } from '../model/capture.ts';

/**
 * The life of a capture. Each step is one durable row; whatever a crash interrupts, the state says whether to resume or abort.
 *
 *   planned ──▶ draining ──▶ cut ──▶ validating ──▶ sealed(verdict) ──▶ expired
 *      │            │                    ▲               │
 *      └──▶ aborted ◀┘                   └── re-validated ┘
 *
 * planned: no position yet, so nothing crossed: a crash aborts it. draining: C is durable, and elements may have crossed: resumed if
 * the journal reaches C. cut and validating: the capture exists, and only its verdict is still to come.
 */
const MAY_FOLLOW: Readonly<Record<CaptureState, Readonly<Record<CaptureState, boolean>>>> = {
  planned: { planned: false, draining: true, cut: false, validating: false, sealed: false, aborted: true, expired: false },
  draining: { planned: false, draining: false, cut: true, validating: false, sealed: false, aborted: true, expired: false },
  cut: { planned: false, draining: false, cut: false, validating: true, sealed: true, aborted: false, expired: false },
  validating: { planned: false, draining: false, cut: false, validating: false, sealed: true, aborted: false, expired: false },
  sealed: { planned: false, draining: false, cut: false, validating: true, sealed: true, aborted: false, expired: true },
  aborted: { planned: false, draining: false, cut: false, validating: false, sealed: false, aborted: false, expired: false },
  expired: { planned: false, draining: false, cut: false, validating: false, sealed: false, aborted: false, expired: false },
};

export function mayFollow(from: CaptureState, to: CaptureState): boolean {
  return MAY_FOLLOW[from][to];
}

/** The record in its next state. An illegal step is a bug, and throws. */
export function toState(record: CaptureRecord, state: CaptureState, changes: Partial<CaptureRecord> = {}): CaptureRecord {
  if (!mayFollow(record.state, state)) throw new Error(`capture ${record.number} cannot go from ${record.state} to ${state}`);
  return { ...record, ...changes, state };
}

/** Whether the capture can be read: its cut is durable. */
export function isReadable(record: CaptureRecord): boolean {
  return record.state === 'cut' || record.state === 'validating' || record.state === 'sealed';
}

/** The newest VALID capture. */
export function knownGood(records: readonly CaptureRecord[]): CaptureRecord | null {
  return records.findLast((record) => record.state === 'sealed' && record.verdict === 'VALID') ?? null;
}

/** The newest capture that can be read, at or below a number. */
export function lastReadable(records: readonly CaptureRecord[], below = Number.POSITIVE_INFINITY): CaptureRecord | null {
  return records.findLast((record) => isReadable(record) && record.number < below) ?? null;
}
