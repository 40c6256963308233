import { recounted } from '../model/copies.ts';
import { ForeshadowError } from '../model/errors.ts';
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
import type { Rows } from '../model/rows.ts';
import type { RowLimit, RowPack } from '../tracking/primary.ts';
import type { Chunk } from './copy.ts';
import type { Folded, PendingEntry } from './pending.ts';
import { type RowBatch, RowsMissing, type StandingRows } from './shadow.ts';

/** Of a table that is emptied. */
const PAGE: RowLimit = { rows: 20_000, bytes: 8 << 20 };

/** The rows of a fold's pieces, each settled on what the ones before it left. */
export async function* batchesOf(
  element: Element,
  pieces: AsyncIterable<Folded>,
  chunk: Chunk | null,
  standing: StandingRows,
): AsyncGenerator<RowBatch> {
  for await (const pending of pieces) {
    const resolution = await resolve(standing, element, pending, chunk);
    if (pending.truncated) yield* emptied(element.schema.key, standing);
    yield* toBatches(resolution);
  }
}

/** A truncated table: all it holds goes, page by page, before what came after. */
async function* emptied(key: readonly number[], standing: StandingRows): AsyncGenerator<RowBatch> {
  let after: KeyTuple | null = null;
  do {
    const page = await standing.rows(after, PAGE);
    if (page.rows.length > 0) yield { deletes: page.rows.map((row) => keyTuple(row, key)), puts: [], fresh: false };
    after = page.through;
  } while (after !== null);
}

/** What a fold, and a chunk with it, come to. */
interface Resolution {
  readonly deletes: Rows<KeyTuple>;
  /** Rows to be completed by what stands. */
  readonly patches: Rows;
  /** Whole rows whose keys may be taken. */
  readonly puts: Rows;
  /** Whole rows whose keys are free. */
  readonly inserts: Rows;
  readonly pack: RowPack | null;
}

interface Growing extends Resolution {
  readonly deletes: KeyTuple[];
  readonly patches: Tuple[];
  readonly puts: Tuple[];
  readonly inserts: Tuple[];
}

/**
 * Settles how each key of a fold is to be written, and adds the chunk's rows for keys the fold does not speak of. Where the shadow
 * may hold rows already, only differences are written. Throws `RowsMissing` where an incomplete image has nothing to inherit from.
 */
async function resolve(standing: StandingRows, element: Element, pending: Folded, chunk: Chunk | null): Promise<Resolution> {
  const { schema, state, progress } = element;
  // While a table is copied, or rows of it went ahead of what is folded, what the primary had says nothing of what the shadow has.
  const wentAhead = pending.high === null && progress.low < progress.high;
  const isLive = state.kind !== 'copying' && chunk === null && !wentAhead;
  if (isLive) {
    if (pending.inserts !== null) return { deletes: [], patches: [], puts: [], inserts: pending.inserts, pack: null };
    const settled = pending.settled();
    if (settled !== null) return { ...settled, pack: null };
  }
  const bare = state.kind === 'copying' && state.fresh && pending.entries.size === 0 && (chunk === null || chunk.asked.size === 0);
  const shown = chunk === null ? new Map<Identity, Tuple | null>() : bare ? chunk.rows : unpacked(chunk, schema.key);
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
  const resolution: Growing = { deletes: [], patches: [], puts: [], inserts: [], pack: bare ? (chunk?.pack ?? null) : null };
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
      // Deleted further on, and that went ahead: what is folded next says so.
      else if (wentAhead && chunk === null && entry.from === identity && pending.through < progress.high) continue;
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
  resolution: Growing,
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
  for (const row of pack.tuples()) all.set(identityOfRow(row, key), row);
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
function* toBatches({ deletes, patches, puts, inserts, pack }: Resolution): Generator<RowBatch> {
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

function* sliced<Row extends Tuple>(rows: Rows<Row>): Generator<Rows<Row>> {
  for (let at = 0; at < rows.length; at += BATCH_ROWS) yield rows.slice(at, at + BATCH_ROWS);
}
