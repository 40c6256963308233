import type { TransactionRef } from '../model/change.ts';
import { isKeyless, recounted } from '../model/copies.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { Element, ElementState } from '../model/progress.ts';
import {
  type Identity,
  type KeyTuple,
  type Tuple,
  fillAbsent,
  identityOf,
  identityOfRow,
  keyOfIdentity,
  keyTuple,
} from '../model/tuple.ts';
import { KEYLESS_PAGE, type Primary, type RowLimit, type RowPack } from '../tracking/primary.ts';
import type { Pending, PendingEntry } from './pending.ts';
import { type RowBatch, RowsMissing, type Shadow, type StandingRows } from './shadow.ts';

/**
 * Initial copy, resync and repair are one mechanism: a chunk of rows, read from the primary while it is being written, brings their
 * keys in the shadow to equality with it.
 *
 * Why it is exact. A chunk is read in a snapshot S that includes every transaction the journal held when it was taken, so all at or
 * below the element's `low`; it is applied together with the fold of all journaled changes in (`low`, E], E at or past S's end.
 * A key the fold speaks of stands at E as the fold says, whichever side of S its last change lies on. A key it does not speak of did
 * not change in (`low`, E], and S lies between: what S shows is what stands at E. So no order between log positions and visibility is
 * assumed (measured: they differ), and no key order of either server is.
 *
 * Why chunks may follow the places of rows (`pack`), not their keys. A row stays where it is until it changes. One that no change since the
 * copy began speaks of is in the one chunk that covers its place. One that moved was put by the fold that has the change that
 * moved it, be it met by two chunks or by none. Where no fold ever spoke of the table (`fresh`) no two chunks share a key.
 *
 * Why the next chunk may be read while one is applied. It is read as if that were done: for the `low` that will be E, from a snapshot that
 * includes all of the journal up to E, from where the chunk before ends. If the chunk before comes to nothing, low and frontier are
 * not those, and it is void.
 */
export interface Chunk {
  /** What the primary shows for each key considered; null: it has no such row. */
  readonly rows: ReadonlyMap<Identity, Tuple | null>;
  /** More of what the primary shows. */
  readonly pack: RowPack | null;
  /** Keys read because a fold up to `covering` lacked their row: S shows what that fold left. */
  readonly asked: ReadonlySet<Identity>;
  /** Where the next chunk of this phase begins; null: the phase is done. */
  readonly through: Tuple | null;
  readonly end: Position;
  /** The element's `low` it was read for: the chunk is void once that has moved. */
  readonly low: Position;
  readonly shape: string | null;
  /** Whether what the primary shows includes a transaction. */
  readonly includes: (ref: TransactionRef) => boolean;
  /** The rows no longer lie where the chunks before saw them: the copy cannot go on from its frontier. */
  readonly moved: boolean;
}

export type ChunkScope =
  | { readonly kind: 'phase'; readonly state: ElementState & { kind: 'copying' }; readonly extra: readonly KeyTuple[] }
  | { readonly kind: 'keys'; readonly keys: readonly KeyTuple[] };

/** As much of a pack as is worth a transaction. */
const PACK_BYTES = 16 << 20;

export async function readChunk(
  parts: { readonly primary: Primary; readonly shadow: Shadow },
  element: Element,
  scope: ChunkScope,
  covering: Position,
  limit: RowLimit,
  signal: AbortSignal,
): Promise<Chunk> {
  const { schema, progress } = element;
  const pageLimit = isKeyless(schema) ? KEYLESS_PAGE : limit;
  await using snapshot = await parts.primary.snapshot(covering, signal, schema.table);
  const found = await snapshot.describe(schema.table, signal);
  const rows = new Map<Identity, Tuple | null>();
  const asked: KeyTuple[] = scope.kind === 'keys' ? [...scope.keys] : [...scope.extra];
  const shown = { end: snapshot.end, includes: (ref: TransactionRef): boolean => snapshot.includes(ref) };
  const of = { ...shown, low: progress.low, shape: found?.shape ?? null };
  const chunk = { ...of, rows, pack: null, asked: new Set(asked.map(identityOf)), through: null, moved: false };
  if (found?.shape !== schema.shape) return chunk;
  let through: KeyTuple | null = null;
  let strays: readonly KeyTuple[] = [];
  if (scope.kind === 'phase' && scope.state.phase === 'shadow') {
    const page = await parts.shadow.rows(schema.table, progress.capture, scope.state.frontier as KeyTuple | null, pageLimit, signal);
    strays = page.rows.map((row) => keyTuple(row, schema.key));
    asked.push(...strays);
    through = page.through;
  }
  for (const key of asked) rows.set(identityOf(key), null);
  const read = (row: Tuple): unknown => rows.set(identityOfRow(row, schema.key), row);
  if (asked.length > 0) for (const row of await snapshot.rowsByKey(schema, asked, signal)) read(row);
  // Rows that the primary has were brought to equality in the phase before, and by folds since: they need not be compared again. Without a key
  // folds count from what stands: a stray that came back since still has its old copies among them.
  if (!isKeyless(schema))
    for (const identity of strays.map(identityOf)) if (rows.get(identity) !== null && !chunk.asked.has(identity)) rows.delete(identity);
  if (scope.kind === 'phase' && scope.state.phase === 'primary') {
    const { initial, frontier } = scope.state;
    const packs = initial && !isKeyless(schema) && parts.primary.kind === parts.shadow.kind;
    const packed = packs ? await snapshot.pack?.(schema, frontier, progress.capture, PACK_BYTES, signal) : null;
    if (packed === 'moved') return { ...chunk, moved: true };
    if (packed) return { ...chunk, ...packed };
    const page = await snapshot.rows(schema, frontier as KeyTuple | null, pageLimit, signal);
    for (const row of page.rows) read(row);
    through = page.through;
  }
  return { ...chunk, through };
}

/** What a fold, and a chunk with it, come to. */
export interface Resolution {
  readonly deletes: KeyTuple[];
  /** Rows to be completed by what stands. */
  readonly patches: Tuple[];
  /** Whole rows whose keys may be taken. */
  readonly puts: Tuple[];
  /** Whole rows whose keys are free. */
  readonly inserts: Tuple[];
  readonly pack: RowPack | null;
}

/**
 * Settles how each key of a fold is to be written, and adds the chunk's rows for keys the fold does not speak of. Where the shadow
 * may hold rows already, only differences are written. Throws `RowsMissing` where an incomplete image has nothing to inherit from.
 */
export async function resolve(standing: StandingRows, element: Element, pending: Pending, chunk: Chunk | null): Promise<Resolution> {
  const { schema, state } = element;
  if (state.kind !== 'copying' && chunk === null && pending.inserts !== null) {
    return { deletes: [], patches: [], puts: [], inserts: pending.inserts, pack: null };
  }
  const bare = state.kind === 'copying' && state.fresh && pending.entries.size === 0 && (chunk === null || chunk.asked.size === 0);
  const shown = chunk === null ? new Map<Identity, Tuple | null>() : bare ? chunk.rows : unpacked(chunk, schema.key);
  // While a table is copied, what the primary had says nothing of what the shadow has.
  const isLive = state.kind !== 'copying' && chunk === null;
  const wanted = new Set<Identity>();
  for (const [identity, entry] of pending.entries) {
    if (entry.kind === 'count') wanted.add(identity);
    else if (entry.kind === 'put' && entry.from !== null && !(isLive && entry.from === identity)) wanted.add(entry.from);
  }
  if (!bare) for (const identity of shown.keys()) if (!pending.entries.has(identity)) wanted.add(identity);
  const stands = new Map<Identity, Tuple>();
  if (wanted.size > 0) {
    for (const row of await standing.rowsByKey(Array.from(wanted, keyOfIdentity))) stands.set(identityOfRow(row, schema.key), row);
  }
  const resolution: Resolution = { deletes: [], patches: [], puts: [], inserts: [], pack: bare ? (chunk?.pack ?? null) : null };
  const missing: KeyTuple[] = [];
  for (const [identity, entry] of pending.entries) {
    if (entry.kind === 'count') {
      count(resolution, element, chunk, identity, entry, pending.truncated ? null : (stands.get(identity) ?? null));
      continue;
    }
    const free = isLive && !entry.stood;
    if (entry.kind === 'delete') {
      if (!free) resolution.deletes.push(keyOfIdentity(identity));
    } else if (entry.from === null) (free ? resolution.inserts : resolution.puts).push(entry.row);
    else if (isLive && entry.from === identity) resolution.patches.push(entry.row);
    else {
      const base = baseOf(identity, entry.from, element, { shown, asked: chunk?.asked }, stands);
      if (base !== null) resolution.puts.push(fillAbsent(entry.row, base));
      else missing.push(keyOfIdentity(identity));
    }
  }
  if (missing.length > 0) throw new RowsMissing(schema.table, missing);
  for (const [identity, row] of shown) {
    if (pending.entries.has(identity)) continue;
    const before = stands.get(identity);
    if (row === null) {
      if (before !== undefined) resolution.deletes.push(keyOfIdentity(identity));
    } else if (before === undefined) resolution.inserts.push(row);
    else if (!before.equals(row)) resolution.puts.push(row);
  }
  return resolution;
}

/**
 * Of a table without a key a fold says only how many copies of a row there are more or fewer, so something must be known to count from:
 * for rows that the chunk speaks of, what S shows, and then only transactions that S does not include are counted; for others, what
 * stands in the shadow. Rows that a copy has not come to yet are left to their chunk.
 */
function count(
  resolution: Resolution,
  element: Element,
  chunk: Chunk | null,
  identity: Identity,
  entry: PendingEntry & { kind: 'count' },
  stands: Tuple | null,
): void {
  const place = placeOf(identity, element.state, chunk);
  if (place === 'ahead') return;
  const from = place === 'chunk' ? (chunk?.rows.get(identity) ?? null) : stands;
  const row = recounted(entry.row, from, place === 'chunk' ? entry.moreUnseen : entry.more);
  if (row === undefined) {
    throw new ForeshadowError('JOURNAL_GAP', `More copies of a row of ${element.schema.table} were deleted than the shadow holds`, {
      remedy: 'Nothing is to be done: the table is compared with the primary.',
    });
  }
  if (row !== null) {
    if (stands === null || !stands.equals(row)) resolution.puts.push(row);
  } else if (stands !== null) resolution.deletes.push(keyOfIdentity(identity));
}

/**
 * Whether a chunk speaks of a row, a copy has passed it, or it lies ahead. Rows without a key are in the order of their hashes, which is
 * that of their identities, as all are of one length.
 */
function placeOf(identity: Identity, state: ElementState, chunk: Chunk | null): 'chunk' | 'behind' | 'ahead' {
  if (chunk?.rows.has(identity) === true) return 'chunk';
  if (state.kind !== 'copying' || state.phase === 'shadow') return 'behind';
  if (state.frontier !== null && identity <= identityOf(state.frontier as KeyTuple)) return 'behind';
  return chunk !== null && (chunk.through === null || identity <= identityOf(chunk.through as KeyTuple)) ? 'chunk' : 'ahead';
}

function unpacked({ rows, pack }: Chunk, key: readonly number[]): ReadonlyMap<Identity, Tuple | null> {
  if (pack === null) return rows;
  const all = new Map(rows);
  for (const row of pack.tuples()) all.set(identityOf(keyTuple(row, key)), row);
  return all;
}

/** The row whose columns an incomplete image inherits, or null if it must be read from the primary. */
function baseOf(
  identity: Identity,
  from: Identity,
  element: Element,
  chunk: { readonly shown: ReadonlyMap<Identity, Tuple | null>; readonly asked: ReadonlySet<Identity> | undefined },
  standing: ReadonlyMap<Identity, Tuple>,
): Tuple | null {
  if (from === identity) return chunk.shown.get(identity) ?? standing.get(identity) ?? null;
  // The row moved here from another key. During a resync what stands under that key may be stale, and may never be looked at again.
  const trusted = element.state.kind !== 'copying' || element.state.initial;
  const moved = trusted ? standing.get(from) : undefined;
  return moved ?? (chunk.asked?.has(identity) ? (chunk.shown.get(identity) ?? null) : null);
}

const BATCH_ROWS = 100_000;

/** Deletes first, all of them: a put may take a key that its store holds equal to a deleted one (1.0 and 1.00). */
export function* toBatches({ deletes, patches, puts, inserts, pack }: Resolution): Generator<RowBatch> {
  if (deletes.length + patches.length + puts.length <= BATCH_ROWS) {
    if (deletes.length + patches.length + puts.length > 0) yield { deletes, patches, puts, fresh: false };
  } else {
    for (const some of sliced(deletes)) yield { deletes: some, puts: [], fresh: false };
    for (const some of sliced(patches)) yield { deletes: [], patches: some, puts: [], fresh: false };
    for (const some of sliced(puts)) yield { deletes: [], puts: some, fresh: false };
  }
  for (const some of sliced(inserts)) yield { deletes: [], puts: some, fresh: true };
  if (pack !== null && pack.count > 0) yield { deletes: [], puts: [], pack, fresh: true };
}

function* sliced<Item>(items: readonly Item[]): Generator<readonly Item[]> {
  for (let at = 0; at < items.length; at += BATCH_ROWS) yield items.slice(at, at + BATCH_ROWS);
}

/** Whether a chunk that was read for `scope` is the next one of an element in this state. */
export function goesOnFrom(scope: ChunkScope, state: ElementState): boolean {
  if (scope.kind === 'keys') return true;
  if (state.kind !== 'copying' || state.phase !== scope.state.phase) return false;
  const [stands, read] = [state.frontier, scope.state.frontier];
  return stands === null || read === null ? stands === read : stands.equals(read);
}

export function rowsIn({ rows, pack }: Chunk): number {
  return rows.size + (pack?.count ?? 0);
}

/** The state after a chunk was applied. */
export function afterChunk(state: ElementState & { kind: 'copying' }, chunk: Chunk, touched: boolean): ElementState {
  const copiedRows = state.copiedRows + rowsIn(chunk);
  const fresh = state.fresh && !touched;
  if (chunk.through !== null) return { ...state, frontier: chunk.through, fresh, copiedRows };
  if (state.phase === 'primary' && !state.initial) return { ...state, phase: 'shadow', frontier: null, fresh, copiedRows };
  return { kind: 'live' };
}
