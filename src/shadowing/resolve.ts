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
import { eachRow, RowList, type Rows } from '../model/rows.ts';
import type { RowLimit, RowPack } from '../tracking/primary.ts';
import type { Chunk } from './copy.ts';
import type { Folded, PendingEntry } from './pending.ts';
import { type RowBatch, RowsMissing, type StandingRows } from './shadow.ts';
import type { Touched } from './touched.ts';

/** Of a table that is emptied. */
const PAGE: RowLimit = { rows: 20_000, bytes: 8 << 20 };

/** What a table that is copied has beside its fold. */
export interface CopiedWith {
  readonly chunk: Chunk | null;
  /** Null where it is not known which rows may stand in the shadow already. */
  readonly touched: Touched | null;
}

/** The rows of a fold's pieces, each settled on what the ones before it left. */
export async function* batchesOf(
  element: Element,
  pieces: AsyncIterable<Folded>,
  { chunk, touched }: CopiedWith,
  standing: StandingRows,
): AsyncGenerator<RowBatch> {
  for await (const pending of pieces) {
    const resolution = await resolve(standing, element, pending, { chunk, touched });
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
  readonly inserts: RowList;
}

/**
 * Settles how each key of a fold is to be written, and adds the chunk's rows for keys the fold does not speak of. Where the shadow
 * may hold rows already, only differences are written. Throws `RowsMissing` where an incomplete image has nothing to inherit from.
 */
async function resolve(standing: StandingRows, element: Element, pending: Folded, { chunk, touched }: CopiedWith): Promise<Resolution> {
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
  const mayStand = (identity: Identity): boolean => touched === null || touched.has(identity) || chunk?.asked.has(identity) === true;
  const free = new RowList();
  const shown =
    bare || chunk === null
      ? (chunk?.rows ?? NOTHING)
      : unpacked(chunk, schema.key, free, (identity) => pending.entries.has(identity) || mayStand(identity));
  const wanted = new Set(bare ? [] : Array.from(shown.keys()).filter((identity) => !pending.entries.has(identity) && mayStand(identity)));
  for (const [identity, entry] of pending.entries) {
    touched?.add(identity);
    if (entry.kind === 'count') wanted.add(identity);
    else if (entry.kind === 'put' && entry.from !== null && !(isLive && entry.from === identity)) wanted.add(entry.from);
  }
  const stands = await standingAmong(wanted, schema.key, standing);
  const resolution: Growing = { deletes: [], patches: [], puts: [], inserts: free, pack: bare ? (chunk?.pack ?? null) : null };
  const insert = (row: Tuple): void => free.add(row, 0, row.length);
  const missing: KeyTuple[] = [];
  for (const [identity, entry] of pending.entries) {
    if (entry.kind === 'count') {
      count(resolution, element, chunk, identity, entry, pending.truncated ? null : (stands.get(identity) ?? null));
      continue;
    }
    const isFree = isLive && !entry.stood;
    if (entry.kind === 'delete') {
      if (!isFree) resolution.deletes.push(keyOfIdentity(identity));
    } else if (entry.from === null) {
      if (isFree) insert(entry.row);
      else resolution.puts.push(entry.row);
    } else if (isLive && entry.from === identity) resolution.patches.push(entry.row);
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
    } else if (before === undefined) insert(row);
    else if (!before.equals(row)) resolution.puts.push(row);
  }
  return resolution;
}

async function standingAmong(
  wanted: ReadonlySet<Identity>,
  key: readonly number[],
  standing: StandingRows,
): Promise<ReadonlyMap<Identity, Tuple>> {
  if (wanted.size === 0) return new Map();
  const rows = await standing.rowsByKey(Array.from(wanted, keyOfIdentity));
  return new Map(rows.map((row) => [identityOfRow(row, key), row]));
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

/** What a chunk shows for the keys that matter; its other rows go into `free`. */
function unpacked(
  { rows, pack }: Chunk,
  key: readonly number[],
  free: RowList,
  matters: (identity: Identity) => boolean,
): ReadonlyMap<Identity, Tuple | null> {
  if (pack === null) return rows;
  const all = new Map(rows);
  eachRow(pack.rows(), (bytes, start, end) => {
    const identity = identityOfRow(bytes, key, start);
    if (matters(identity)) all.set(identity, bytes.subarray(start, end) as Tuple);
    else free.add(bytes, start, end);
  });
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

const NOTHING: ReadonlyMap<Identity, null> = new Map();

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
