import type { CaptureNumber } from '../model/capture.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, fillAbsent, identityOf, keyOfIdentity, keyTuple } from '../model/tuple.ts';
import type { Journal } from '../journal/journal.ts';
import { type FoldLimit, Pending, type PendingEntry, fold } from '../shadowing/pending.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import type { Primary, PrimarySnapshot } from '../tracking/primary.ts';
import type { Tracker } from '../tracking/tracker.ts';
import { PAGE } from './seal.ts';

export interface CompareParts {
  readonly primary: Primary;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly shadow: Shadow;
}

/** What of the shadow is compared: the table as of a capture, in which everything up to `position` is in and nothing later. */
export interface Stand {
  readonly at: CaptureNumber;
  readonly position: Position;
}

export type CompareScope =
  | { readonly kind: 'keys'; readonly keys: readonly KeyTuple[] }
  /** The primary's rows above a key: finds what is missing or different in the shadow. */
  | { readonly kind: 'primary'; readonly after: KeyTuple | null }
  /** The shadow's rows above a key: finds what the primary does not have. */
  | { readonly kind: 'shadow'; readonly after: KeyTuple | null };

export interface Unequal {
  readonly key: KeyTuple;
  /** What the shadow should show at the fence, and what the primary does show. */
  readonly expected: Tuple | null;
  readonly found: Tuple | null;
  /** Whether the journal holds a change of the key between the stand and the fence. */
  readonly rewritten: boolean;
}

export interface CompareOutcome {
  readonly compared: number;
  readonly witnessed: number;
  readonly unequal: readonly Unequal[];
  /** Where the next chunk goes on; null: this was the last. */
  readonly through: KeyTuple | null;
  /** Set where no comparison was possible: why. */
  readonly inconclusive: string | null;
}

/** More changes than this between stand and fence are not overlaid: the table is then INCONCLUSIVE, not wrong. */
const OVERLAY_LIMIT: FoldLimit = { changes: 2_000_000, bytes: 128 << 20 };

/**
 * Compares one chunk of a table with the primary, exactly, while both go on changing.
 *
 * S is a snapshot of the primary that includes every transaction at or below the stand's position. What the shadow should show at S is
 * the stand overlaid with the journaled changes of those later transactions that S includes: asked of the snapshot's set of
 * transactions, not of log positions, because on PostgreSQL commit order and visibility order differ (research/captures.md §C1).
 */
export async function compareChunk(
  parts: CompareParts,
  schema: TableSchema,
  stand: Stand,
  scope: CompareScope,
  signal: AbortSignal,
): Promise<CompareOutcome> {
  const { shadow, tracker, journal } = parts;
  const page = scope.kind === 'shadow' ? await shadow.rows(schema.table, stand.at, scope.after, PAGE, signal) : null;
  const fence = await readFence(parts, schema, stand, scope, page?.rows ?? [], signal);
  if (fence.reason !== null) return inconclusive(fence.reason);
  await tracker.reached(fence.snapshot.end, signal);
  const identities = new Set(
    scope.kind === 'primary' ? fence.rows.keys() : (page?.rows ?? []).map((row) => identityOf(keyTuple(row, schema.key))),
  );
  if (scope.kind === 'keys') for (const key of scope.keys) identities.add(identityOf(key));
  const standing =
    page === null ? await shadow.rowsByKey(schema.table, stand.at, Array.from(identities, keyOfIdentity), signal) : page.rows;
  const shown = new Map(standing.map((row) => [identityOf(keyTuple(row, schema.key)), row]));
  const range = { after: stand.position, upTo: fence.snapshot.end };
  const overlay = new Pending(schema, range.after, OVERLAY_LIMIT, (ref) => fence.snapshot.includes(ref));
  try {
    await fold(journal.read(schema.table, range.after, range.upTo, signal), range, overlay);
  } catch (error) {
    if (error instanceof ForeshadowError && error.code === 'JOURNAL_GAP') return inconclusive('the journal no longer reaches back to it');
    throw error;
  }
  if (overlay.full) return inconclusive('more changed since the capture than can be overlaid');
  const unequal: Unequal[] = [];
  let witnessed = 0;
  for (const identity of identities) {
    const entry = overlay.entries.get(identity);
    const expected = expectedAt(entry, overlay.truncated, identity, shown);
    if (entry !== undefined) witnessed++;
    if (expected === undefined) continue;
    const found = fence.rows.get(identity) ?? null;
    if (expected === null ? found === null : found?.equals(expected) === true) continue;
    unequal.push({ key: keyOfIdentity(identity), expected, found, rewritten: entry !== undefined });
  }
  const through = page?.through ?? fence.through;
  return { compared: identities.size - witnessed, witnessed, unequal, through, inconclusive: null };
}

function inconclusive(reason: string): CompareOutcome {
  return { compared: 0, witnessed: 0, unequal: [], through: null, inconclusive: reason };
}

interface Fence {
  readonly snapshot: Pick<PrimarySnapshot, 'end' | 'includes'>;
  readonly rows: ReadonlyMap<Identity, Tuple>;
  readonly through: KeyTuple | null;
  readonly reason: string | null;
}

/** Reads the primary's side in a snapshot that is closed again before anything is waited for. */
async function readFence(
  parts: CompareParts,
  schema: TableSchema,
  stand: Stand,
  scope: CompareScope,
  shadowRows: readonly Tuple[],
  signal: AbortSignal,
): Promise<Fence> {
  await using snapshot = await parts.primary.snapshot(stand.position, signal);
  const now = await snapshot.describe(schema.table, signal);
  const none = { snapshot, rows: new Map<Identity, Tuple>(), through: null };
  if (now === null) return { ...none, reason: 'the table is gone from the primary' };
  if (now.shape !== schema.shape) return { ...none, reason: 'its shape changed on the primary and is not taken up yet' };
  if (scope.kind === 'primary') {
    const page = await snapshot.rows(schema, scope.after, PAGE, signal);
    return { ...none, rows: byIdentity(page.rows, schema), through: page.through, reason: null };
  }
  const keys = scope.kind === 'keys' ? scope.keys : shadowRows.map((row) => keyTuple(row, schema.key));
  const rows = keys.length === 0 ? [] : await snapshot.rowsByKey(schema, keys, signal);
  return { ...none, rows: byIdentity(rows, schema), reason: null };
}

function byIdentity(rows: readonly Tuple[], schema: TableSchema): Map<Identity, Tuple> {
  return new Map(rows.map((row) => [identityOf(keyTuple(row, schema.key)), row]));
}

/** Undefined: it cannot be told (an incomplete image of a row that came from another key); the journal alone bears witness. */
function expectedAt(
  entry: PendingEntry | undefined,
  truncated: boolean,
  identity: Identity,
  shown: ReadonlyMap<Identity, Tuple>,
): Tuple | null | undefined {
  if (entry === undefined) return truncated ? null : (shown.get(identity) ?? null);
  if (entry.kind === 'delete') return null;
  if (entry.from === null) return entry.row;
  const base = entry.from === identity ? shown.get(identity) : undefined;
  return base === undefined ? undefined : fillAbsent(entry.row, base);
}
