import type { CaptureNumber } from '../model/capture.ts';
import { copiesOf, isKeyless, recounted } from '../model/copies.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { TableSchema } from '../model/schema.ts';
import {
  type Identity,
  type KeyTuple,
  type Tuple,
  fillAbsent,
  identityOf,
  keyOfIdentity,
  keyTuple,
  identityOfRow,
} from '../model/tuple.ts';
import type { Journal } from '../journal/journal.ts';
import { type FoldLimit, Pending, type PendingEntry, fold } from '../shadowing/pending.ts';
import type { Shadow } from '../shadowing/shadow.ts';
import { KEYLESS_PAGE, type Primary, type PrimarySnapshot, type RowChunk, type RowLimit } from '../tracking/primary.ts';
import type { Tracker } from '../tracking/tracker.ts';
import { PAGE } from './seal.ts';

export interface CompareParts {
  readonly primary: Primary;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly shadow: Shadow;
  /** How much of a table is compared at a time. */
  readonly page?: RowLimit;
}

/** What of the shadow is compared: the table as of a capture, in which everything up to `position` is in, and nothing past `high`. */
export interface Stand {
  readonly at: CaptureNumber;
  readonly position: Position;
  /** Of a live table: some of what lies between is in too. Otherwise nothing past `position` is. */
  readonly high?: Position;
}

export type CompareScope =
  | { readonly kind: 'keys'; readonly keys: readonly KeyTuple[] }
  /** Both sides above a key, where both order keys alike: finds everything in one pass. */
  | { readonly kind: 'range'; readonly after: KeyTuple | null }
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
  /** A range whose two pages have no key in common: nothing was compared, and the sides must be asked for each other's keys. */
  readonly unpaired: boolean;
}

/** More changes than this between stand and fence are not overlaid: the table is then INCONCLUSIVE, not wrong. */
const OVERLAY_LIMIT: FoldLimit = { changes: 2_000_000, bytes: 128 << 20 };

/**
 * Compares one chunk of a table with the primary, exactly, while both go on changing.
 *
 * S is a snapshot of the primary that includes every transaction at or below the stand's position, and its high. What the shadow should
 * show at S is the stand overlaid with the journaled changes of those later transactions that S includes: asked of the snapshot's set of
 * transactions, not of log positions, because on PostgreSQL commit order and visibility order differ
 * (measured: of 400 snapshots under writers, positions fenced 67 exactly at best, transaction sets all 400).
 */
export async function compareChunk(
  parts: CompareParts,
  schema: TableSchema,
  stand: Stand,
  scope: CompareScope,
  signal: AbortSignal,
): Promise<CompareOutcome> {
  const { shadow, tracker } = parts;
  const sided = scope.kind === 'shadow' || scope.kind === 'range';
  const page = sided ? await shadow.rows(schema.table, stand.at, scope.after, pageOf(parts, schema), signal) : null;
  const fence = await readFence(parts, schema, stand, scope, page?.rows ?? [], signal);
  if (fence.reason !== null) return inconclusive(fence.reason);
  await tracker.reached(fence.snapshot.end, signal);
  const overlay = await overlaid(parts.journal, schema, stand, fence, signal);
  if (typeof overlay === 'string') return inconclusive(overlay);
  if (scope.kind === 'range' && overlay.isEmpty && page !== null && pagesEqual(page, fence)) {
    return { compared: page.rows.length, witnessed: 0, unequal: [], through: page.through, inconclusive: null, unpaired: false };
  }
  const found = byIdentity(fence.rows, schema);
  const considered = consider(scope, schema, page, { ...fence, found });
  if (considered === null) return { ...inconclusive(null), unpaired: true };
  const { identities, through } = considered;
  const keys = page === null ? Array.from(identities, keyOfIdentity) : [];
  const shown = byIdentity(page?.rows ?? (await shadow.rowsByKey(schema.table, stand.at, keys, signal)), schema);
  const unequal: Unequal[] = [];
  let witnessed = 0;
  for (const identity of identities) {
    const entry = overlay.entries.get(identity);
    const expected = expectedAt(entry, overlay.truncated, identity, shown);
    if (entry !== undefined) witnessed++;
    if (expected === undefined) continue;
    const row = found.get(identity) ?? null;
    if (agree(schema, expected, row)) continue;
    unequal.push({ key: keyOfIdentity(identity), expected, found: row, rewritten: entry !== undefined });
  }
  // What changed since may have been lost, or rows moved without a change: what is unequal then says nothing of the shadow.
  const [event] = unequal.length === 0 ? [] : await parts.journal.events(schema.table, stand.position, fence.snapshot.end);
  if (event !== undefined) return inconclusive(`not to be told since the capture: ${event.reason}`);
  return { compared: identities.size - witnessed, witnessed, unequal, through, inconclusive: null, unpaired: false };
}

function pageOf(parts: CompareParts, schema: TableSchema): RowLimit {
  return parts.page ?? (isKeyless(schema) ? KEYLESS_PAGE : PAGE);
}

interface Considered {
  readonly identities: ReadonlySet<Identity>;
  readonly through: KeyTuple | null;
}

/** The keys that this chunk decides, and where the next one begins. Null: two pages of a range that do not meet. */
function consider(
  scope: CompareScope,
  schema: TableSchema,
  page: RowChunk | null,
  fence: Fence & { readonly found: ReadonlyMap<Identity, Tuple> },
): Considered | null {
  switch (scope.kind) {
    case 'keys':
      return { identities: new Set(scope.keys.map(identityOf)), through: null };
    case 'primary':
      return { identities: new Set(fence.found.keys()), through: fence.through };
    case 'shadow':
      return { identities: new Set(page === null ? [] : byIdentity(page.rows, schema).keys()), through: page?.through ?? null };
    case 'range': {
      const primary = Array.from(fence.found.keys());
      const shadow = (page?.rows ?? []).map((row) => identityOfRow(row, schema.key));
      const shadowThrough = page?.through ?? null;
      if (fence.through === null && shadowThrough === null) return { identities: new Set([...primary, ...shadow]), through: null };
      // A side that has nothing left says of every further key that it is not there.
      if (shadow.length === 0 && shadowThrough === null) return { identities: new Set(primary), through: fence.through };
      if (primary.length === 0 && fence.through === null) return { identities: new Set(shadow), through: shadowThrough };
      // Both pages hold everything up to their last common key, in the same order: beyond it one may end before the other.
      const places = new Map(shadow.map((identity, index) => [identity, index]));
      const last = primary.findLastIndex((identity) => places.has(identity));
      const common = primary[last];
      if (common === undefined) return null;
      const upTo = (places.get(common) as number) + 1;
      return { identities: new Set([...primary.slice(0, last + 1), ...shadow.slice(0, upTo)]), through: keyOfIdentity(common) };
    }
  }
}

/** The journaled changes after the stand that the fence includes, or why they cannot be had. */
async function overlaid(journal: Journal, schema: TableSchema, stand: Stand, fence: Fence, signal: AbortSignal): Promise<Pending | string> {
  const range = { after: stand.position, upTo: fence.snapshot.end };
  const overlay = new Pending(schema, range.after, OVERLAY_LIMIT, { admits: (ref) => fence.snapshot.includes(ref) });
  try {
    await fold(journal.read(schema.table, range.after, range.upTo, signal), range, overlay);
  } catch (error) {
    if (error instanceof ForeshadowError && error.code === 'JOURNAL_GAP') return 'the journal no longer reaches back to it';
    throw error;
  }
  return overlay.full ? 'more changed since the capture than can be overlaid' : overlay;
}

function inconclusive(reason: string | null): CompareOutcome {
  return { compared: 0, witnessed: 0, unequal: [], through: null, inconclusive: reason, unpaired: false };
}

interface Fence {
  readonly snapshot: Pick<PrimarySnapshot, 'end' | 'includes'>;
  readonly rows: readonly Tuple[];
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
  await using snapshot = await parts.primary.snapshot(stand.high ?? stand.position, signal);
  const now = await snapshot.describe(schema.table, signal);
  const none = { snapshot, rows: [], through: null };
  if (now === null) return { ...none, reason: 'the table is gone from the primary' };
  if (now.shape !== schema.shape) return { ...none, reason: 'its shape changed on the primary and is not taken up yet' };
  if (scope.kind === 'primary' || scope.kind === 'range') {
    const page = await snapshot.rows(schema, scope.after, pageOf(parts, schema), signal);
    return { ...none, rows: page.rows, through: page.through, reason: null };
  }
  const keys = scope.kind === 'keys' ? scope.keys : shadowRows.map((row) => keyTuple(row, schema.key));
  const rows = keys.length === 0 ? [] : await snapshot.rowsByKey(schema, keys, signal);
  return { ...none, rows, reason: null };
}

/** The usual case, told without looking at keys: the same rows in the same order, to the same end. */
function pagesEqual(page: RowChunk, fence: Fence): boolean {
  if (page.rows.length !== fence.rows.length || (page.through === null) !== (fence.through === null)) return false;
  return page.rows.every((row, index) => row.equals(fence.rows[index] as Tuple));
}

function byIdentity(rows: readonly Tuple[], schema: TableSchema): Map<Identity, Tuple> {
  return new Map(rows.map((row) => [identityOfRow(row, schema.key), row]));
}

/** Of rows of which only the inserts are tracked, the shadow may have more: those that were deleted since, or updated. */
function agree(schema: TableSchema, expected: Tuple | null, found: Tuple | null): boolean {
  const copies = (row: Tuple | null): bigint => (row === null ? 0n : copiesOf(schema, row));
  if (schema.insertOnly === true) return copies(found) <= copies(expected);
  return expected === null ? found === null : found?.equals(expected) === true;
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
  if (entry.kind === 'count') return recounted(entry.row, truncated ? null : (shown.get(identity) ?? null), entry.more);
  if (entry.from === null) return entry.row;
  const base = entry.from === identity ? shown.get(identity) : undefined;
  return base === undefined ? undefined : fillAbsent(entry.row, base);
}
