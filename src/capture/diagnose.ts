import type { Journal } from '../journal/journal.ts';
import type { CaptureNumber, CaptureRecord, Diagnosis, Seal } from '../model/capture.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import { identityOf } from '../model/tuple.ts';
import { type FoldLimit, Pending, fold } from '../shadowing/pending.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import { sealsEqual, sumsByReading } from './seal.ts';
import type { Stand } from './compare.ts';
import type { TableDifference } from './validate.ts';

export interface DiagnosedDifference extends TableDifference {
  readonly diagnosis: Diagnosis;
}

const TESTIMONY_LIMIT: FoldLimit = { changes: 5_000_000, bytes: 128 << 20 };

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
  // Read once for each table, whatever the number of differences.
  const heard = new Map<TableSchema, Pending | null>();
  const witness = async (difference: TableDifference): Promise<Pending | null> => {
    const { schema } = difference;
    if (!heard.has(schema)) {
      heard.set(schema, await testimony(parts, schema, stand(difference).position, good?.record.position ?? null, signal));
    }
    return heard.get(schema) ?? null;
  };
  for (const difference of differences) {
    const { table } = difference.schema;
    if (good !== null && !intact.has(table))
      intact.set(table, await stillSealed(parts.shadow, good.record.number, table, good.seals, signal));
    const version = await parts.shadow.versionAt(table, difference.key, stand(difference).at);
    const old = good !== null && (version === null || version.since <= good.record.number);
    const diagnosis = old && intact.get(table) === false ? 'altered in the shadow' : byJournal(difference, await witness(difference));
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

/** What the journal tells of a table since known-good, or why it cannot. */
async function testimony(
  { journal }: DiagnoseParts,
  schema: TableSchema,
  through: Position,
  since: Position | null,
  signal: AbortSignal,
): Promise<Pending | null> {
  if (since === null) return null;
  // Changes from before are in another shape.
  const events = await journal.events(schema.table, since, through);
  if (events.some(({ kind }) => kind === 'schema-changed')) return null;
  const pending = new Pending(schema, since, TESTIMONY_LIMIT);
  try {
    await fold(journal.read(schema.table, since, through, signal), { after: since, upTo: through }, pending);
  } catch (error) {
    if (error instanceof ForeshadowError && error.code === 'JOURNAL_GAP') return null;
    throw error;
  }
  return pending.full ? null : pending;
}

function byJournal(difference: TableDifference, pending: Pending | null): Diagnosis {
  if (difference.rewritten) return 'missed by tracking';
  if (pending === null) return 'unknown';
  const entry = pending.entries.get(identityOf(difference.key));
  if (entry === undefined) return pending.truncated ? 'applied wrong' : 'missed by tracking';
  if (entry.kind === 'delete') return difference.expected === null ? 'missed by tracking' : 'applied wrong';
  // How many copies there were before, the journal does not say.
  if (entry.kind === 'count' || entry.from !== null) return 'unknown';
  const applied = difference.expected !== null && entry.row.equals(difference.expected);
  return applied ? 'missed by tracking' : 'applied wrong';
}
