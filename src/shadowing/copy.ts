import type { TransactionRef } from '../model/change.ts';
import { isKeyless } from '../model/copies.ts';
import type { Position } from '../model/position.ts';
import type { Element, ElementState } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, identityOf, identityOfRow, keyTuple } from '../model/tuple.ts';
import { KEYLESS_PAGE, type Primary, type PrimarySnapshot, type RowLimit, type RowPack } from '../tracking/primary.ts';
import type { Shadow } from './shadow.ts';

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
 * moved it, be it met by two chunks or by none. So a key that no fold of the copy spoke of comes with one chunk only, and its row stands
 * nowhere before: only of the others something may stand (`Touched`; of none, where the copy is `fresh`).
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

/** So long may a snapshot be kept for tables that share it. */
const TOGETHER_MS = 1000;

/** Chunks of several tables from one snapshot, in the order given, as many as are worth a transaction: at least the first. */
export async function readChunks(
  parts: ChunkParts,
  wants: readonly { readonly element: Element; readonly scope: ChunkScope }[],
  covering: Position,
  limit: RowLimit,
  signal: AbortSignal,
): Promise<ReadonlyMap<TableName, Chunk>> {
  const tables = wants.map(({ element }) => element.schema.table);
  const chunks = new Map<TableName, Chunk>();
  await using snapshot = await parts.primary.snapshot(covering, signal, tables);
  const begunMs = performance.now();
  let bytes = 0;
  for (const { element, scope } of wants) {
    if (chunks.size > 0 && (bytes >= PACK_BYTES || performance.now() - begunMs >= TOGETHER_MS)) break;
    const chunk = await readChunk(parts, snapshot, element, scope, limit, signal);
    bytes += chunk.pack?.bytes ?? 0;
    for (const row of chunk.rows.values()) bytes += row?.length ?? 0;
    chunks.set(element.schema.table, chunk);
  }
  return chunks;
}

interface ChunkParts {
  readonly primary: Primary;
  readonly shadow: Shadow;
}

async function readChunk(
  parts: ChunkParts,
  snapshot: PrimarySnapshot,
  element: Element,
  scope: ChunkScope,
  limit: RowLimit,
  signal: AbortSignal,
): Promise<Chunk> {
  const { schema, progress } = element;
  const pageLimit = isKeyless(schema) ? KEYLESS_PAGE : limit;
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
