import type { Journal } from '../journal/journal.ts';
import type { CaptureNumber, CaptureRecord, Diagnosis, Seal } from '../model/capture.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import { type Identity, identityOf } from '../model/tuple.ts';
import { Pending, fold } from '../shadowing/pending.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import { sealsEqual, sumsByReading } from './seal.ts';
import type { Stand } from './compare.ts';
import type { TableDifference } from './validate.ts';

export interface DiagnosedDifference extends TableDifference {
  readonly diagnosis: Diagnosis;
}

export interface DiagnoseParts {
  readonly shadow: Shadow;
  readonly journal: Journal;
}

/**
 * Says which side went wrong, because that picks the cure. The witnesses are the seal of the known-good capture (does the shadow still
 * add up to what was proved then?) and the journal (what was tracked since?).
 *
 * - A version that known-good reads: if known-good no longer adds up, somebody altered the shadow; if it does, the primary changed
 *   and tracking did not hear of it.
 * - A later version: if the journal's newest image is what the shadow shows, tracking missed something after it; else it was
 *   applied wrong (or altered since; what to do is the same).
 */
export async function diagnose(
  parts: DiagnoseParts,
  differences: readonly TableDifference[],
  stand: (difference: TableDifference) => Stand,
  good: { readonly record: CaptureRecord; readonly seals: readonly Seal[] } | null,
  signal: AbortSignal,
): Promise<DiagnosedDifference[]> {
  const diagnosed: DiagnosedDifference[] = [];
  const intact = new Map<string, boolean>();
  for (const difference of differences) {
    const { table } = difference.schema;
    if (good !== null && !intact.has(table))
      intact.set(table, await stillSealed(parts.shadow, good.record.number, table, good.seals, signal));
    const version = await parts.shadow.versionAt(table, difference.key, stand(difference).at);
    const old = good !== null && (version === null || version.since <= good.record.number);
    const diagnosis =
      old && intact.get(table) === false
        ? 'altered in the shadow'
        : await byJournal(parts, difference, stand(difference).position, good?.record.position ?? null, signal);
    diagnosed.push({ ...difference, diagnosis });
  }
  return diagnosed;
}

/** Whether a table still adds up to its seal. A table without one cannot be told from an altered one by it: true. */
async function stillSealed(
  shadow: Shadow,
  at: CaptureNumber,
  table: TableDifference['schema']['table'],
  seals: readonly Seal[],
  signal: AbortSignal,
): Promise<boolean> {
  const seal = seals.find((each) => each.table === table);
  return seal === undefined || sealsEqual(seal, await sumsByReading(shadow, table, at, signal));
}

async function byJournal(
  { journal }: DiagnoseParts,
  difference: TableDifference,
  through: Position,
  since: Position | null,
  signal: AbortSignal,
): Promise<Diagnosis> {
  if (difference.rewritten) return 'missed by tracking';
  if (since === null) return 'unknown';
  const { schema, key } = difference;
  const wanted: Identity = identityOf(key);
  const range = { after: since, upTo: through };
  const pending = new Pending(schema, since, { changes: 5_000_000, bytes: 128 << 20 });
  try {
    await fold(journal.read(schema.table, since, through, signal), range, pending);
  } catch (error) {
    if (error instanceof ForeshadowError && error.code === 'JOURNAL_GAP') return 'unknown';
    throw error;
  }
  if (pending.full) return 'unknown';
  const entry = pending.entries.get(wanted);
  if (entry === undefined) return pending.truncated ? 'applied wrong' : 'missed by tracking';
  if (entry.kind === 'delete') return difference.expected === null ? 'missed by tracking' : 'applied wrong';
  if (entry.from !== null) return 'unknown';
  const applied = difference.expected !== null && entry.row.equals(difference.expected);
  return applied ? 'missed by tracking' : 'applied wrong';
}
