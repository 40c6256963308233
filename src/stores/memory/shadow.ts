import type { Catalog } from '../../capture/catalog.ts';
import type { CaptureNumber, RowDifference } from '../../model/capture.ts';
import { type Finding, ForeshadowError } from '../../model/errors.ts';
import { COPY_FROM_NOTHING, type Element, type ElementState, type Progress } from '../../model/progress.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import { identityOf, type KeyTuple, type Tuple } from '../../model/tuple.ts';
import {
  AheadInVain,
  type AheadWork,
  type ApplyReport,
  type ApplyWork,
  type ForeignRow,
  type QuerySlice,
  type RowBatch,
  type RowVersion,
  requireGround,
  rowsOf,
  type Shadow,
} from '../../shadowing/shadow.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { MemoryCatalog } from './catalog.ts';
import { Segment, before } from './segment.ts';
import { pageOf, StagedRows } from './staged.ts';
import { MemoryClaim, MemoryStore } from './store.ts';
import { compareKeys, memoryValues } from './values.ts';

const DIFF_SLICE_ROWS = 256;

/**
 * A shadow that lives as long as the process: versions as a list for each key. What the others are tested against. Opening the
 * same store again is what a restart, or a second instance, is elsewhere.
 */
export function openMemoryShadow(store: MemoryStore = new MemoryStore()): { readonly shadow: Shadow; readonly catalog: Catalog } {
  const claim = new MemoryClaim(store);
  return { shadow: new MemoryShadow(store, claim), catalog: new MemoryCatalog(store, claim) };
}

class MemoryShadow implements Shadow {
  readonly kind = 'memory';
  readonly values = memoryValues;
  readonly #store: MemoryStore;
  readonly #claim: MemoryClaim;

  constructor(store: MemoryStore, claim: MemoryClaim) {
    this.#store = store;
    this.#claim = claim;
  }

  async identity(): Promise<string> {
    return this.#store.identity;
  }

  async check(tables: readonly TableSchema[]): Promise<readonly Finding[]> {
    return tables
      .filter(({ table }) => this.#store.occupied.has(table))
      .map(({ table }) => ({
        severity: 'error',
        code: 'SHADOW_OCCUPIED',
        subject: table,
        message: `${table} exists in the shadow and is not ours`,
        remedy: OCCUPIED_REMEDY,
      }));
  }

  async claim(holder: string): Promise<void> {
    this.#claim.take(holder);
  }

  async prepare(schema: DataSetSchema, progress: Progress): Promise<void> {
    this.#claim.require();
    const missing = schema.tables.filter(({ table }) => !this.#store.elements.has(table));
    const occupied = missing.filter(({ table }) => this.#store.occupied.has(table)).map(({ table }) => table);
    if (occupied.length > 0) {
      throw new ForeshadowError('SHADOW_OCCUPIED', `the shadow holds tables that are not ours: ${occupied.join(', ')}`, {
        remedy: OCCUPIED_REMEDY,
      });
    }
    this.#store.isPrepared = true;
    for (const each of missing) this.#beginSegment({ schema: each, state: COPY_FROM_NOTHING, progress });
  }

  async elements(): Promise<ReadonlyMap<TableName, Element>> {
    return new Map(this.#store.elements);
  }

  async apply(works: readonly ApplyWork[], signal: AbortSignal): Promise<ApplyReport> {
    signal.throwIfAborted();
    // Staged whole before anything is touched: rows that fail half-way, or an abort, leave nothing.
    const staged: { work: ApplyWork; batches: RowBatch[] }[] = [];
    for (const work of works) {
      const batches: RowBatch[] = [];
      const standing = new StagedRows(this.#live(work.table), work.progress.capture);
      for await (const batch of rowsOf(work, standing)) {
        signal.throwIfAborted();
        batches.push(standing.stage(batch));
      }
      staged.push({ work, batches });
    }
    signal.throwIfAborted();
    this.#claim.require();
    const reached = new Map<TableName, Progress>();
    for (const work of works) {
      const stored = reached.get(work.table) ?? this.#element(work.table).progress;
      requireGround(work, stored);
      requireForward(work.table, stored, work.progress);
      reached.set(work.table, work.progress);
    }
    const report = { inserted: 0, updated: 0, deleted: 0, conflicts: [] as { table: TableName; key: KeyTuple }[] };
    for (const { work, batches } of staged) this.#write(work, batches, report);
    return report;
  }

  async flush(): Promise<void> {}

  async applyAhead({ table, rows, capture, savedThrough, reached }: AheadWork, signal: AbortSignal): Promise<ApplyReport> {
    const segment = this.#live(table);
    const puts: Tuple[] = [];
    const refuseForeign = (): void => {
      if (segment.foreignRows().length > 0) throw new AheadInVain('somebody else has written to the table');
    };
    for await (const some of rows) {
      signal.throwIfAborted();
      puts.push(...some);
      refuseForeign();
    }
    this.#claim.require();
    const { from, to } = reached();
    const { state, progress } = this.#element(table);
    const stands = segment === this.#live(table) && state.kind === 'live' && progress.generation === from.generation;
    if (!stands || progress.low !== from.low || progress.high !== from.high) throw new AheadInVain('the table does not stand before it');
    const keys = new Set(puts.map((row) => identityOf(segment.keyOf(row))));
    const taken = segment.standing();
    if (keys.size < puts.length || [...keys].some((key) => taken.has(key))) throw new AheadInVain('a key is taken');
    refuseForeign();
    const report = { inserted: 0, updated: 0, deleted: 0, conflicts: [] as { table: TableName; key: KeyTuple }[] };
    this.#write({ table, rows: [], from, progress: { ...to, capture }, state, savedThrough }, [{ deletes: [], puts, fresh: true }], report);
    return report;
  }

  /** Rows in memory have one shape: another begins another segment. */
  async reshape(): Promise<boolean> {
    this.#claim.require();
    return false;
  }

  async retire(table: TableName, schema: TableSchema | null, state: ElementState, progress: Progress): Promise<void> {
    this.#claim.require();
    requireForward(table, this.#element(table).progress, progress);
    this.#live(table).retire(before(progress.capture));
    const readable = this.#segments(table).filter((segment) => segment.through === null || segment.from <= segment.through);
    this.#store.segments.set(table, readable);
    this.#store.elements.delete(table);
    if (schema !== null) this.#beginSegment({ schema, state, progress });
  }

  async rows(table: TableName, at: CaptureNumber, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk> {
    signal.throwIfAborted();
    const segment = this.#at(table, at);
    return pageOf(segment.keys(at), (key) => (segment.version(key, at) as RowVersion).row, after, limit);
  }

  async rowsByKey(table: TableName, at: CaptureNumber, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]> {
    signal.throwIfAborted();
    const segment = this.#at(table, at);
    return keys.flatMap((key) => segment.version(key, at)?.row ?? []);
  }

  async schemaAt(table: TableName, at: CaptureNumber): Promise<TableSchema | null> {
    return this.#segments(table).find((segment) => segment.covers(at))?.schema ?? null;
  }

  async *diff(table: TableName, from: CaptureNumber, to: CaptureNumber, signal: AbortSignal): AsyncGenerator<readonly RowDifference[]> {
    const older = this.#at(table, from);
    const newer = this.#at(table, to);
    const gone = older.keys(from).map((key) => ({ key, before: older.version(key, from)?.row ?? null, after: null }));
    const come = newer.keys(to).map((key) => ({ key, before: null, after: newer.version(key, to)?.row ?? null }));
    const differences = older.schema.shape === newer.schema.shape ? joined(gone, come) : [...gone, ...come];
    for (let start = 0; start < differences.length; start += DIFF_SLICE_ROWS) {
      signal.throwIfAborted();
      yield differences.slice(start, start + DIFF_SLICE_ROWS);
    }
  }

  async searchForeign(): Promise<void> {}

  async changedTables(tables: readonly TableName[]): Promise<ReadonlySet<TableName>> {
    return new Set(tables);
  }

  async foreignTables(tables: readonly TableName[]): Promise<ReadonlySet<TableName>> {
    return new Set(tables);
  }

  async foreignRows(table: TableName, limit: number, signal: AbortSignal): Promise<readonly ForeignRow[]> {
    signal.throwIfAborted();
    return this.#live(table).foreignRows().slice(0, limit);
  }

  async undoForeign(table: TableName, keys: readonly KeyTuple[]): Promise<number> {
    this.#claim.require();
    const segment = this.#live(table);
    return keys.filter((key) => segment.undoForeign(key)).length;
  }

  async versionAt(table: TableName, key: KeyTuple, at: CaptureNumber): Promise<RowVersion | null> {
    return this.#at(table, at).version(key, at);
  }

  async replaceVersion(
    table: TableName,
    key: KeyTuple,
    version: { since: CaptureNumber; until: CaptureNumber | null },
    row: Tuple | null,
  ): Promise<void> {
    this.#claim.require();
    const segment = this.#segments(table).find((each) => each.covers(version.since));
    if (segment === undefined) throw absent(table, version.since, 'it did not exist then');
    segment.replace(key, version.since, version.until, row);
  }

  script(): AsyncIterable<string> {
    throw notBuilt('script');
  }

  query(): AsyncIterable<QuerySlice> {
    throw notBuilt('query');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#claim.release();
  }

  #write(work: ApplyWork, batches: readonly RowBatch[], report: Counts): void {
    const { table, state, progress, savedThrough } = work;
    const element = this.#element(table);
    const segment = this.#live(table);
    const write = (key: KeyTuple, row: Tuple | null): void => {
      const { effect, overruled } = segment.write(key, row, progress.capture, savedThrough);
      if (effect !== 'none') report[effect]++;
      if (overruled) report.conflicts.push({ table, key });
    };
    for (const batch of batches) {
      for (const key of batch.deletes) write(key, null);
      for (const row of batch.puts) write(segment.keyOf(row), row);
    }
    this.#store.elements.set(table, { ...element, state, progress });
  }

  #beginSegment(element: Element): void {
    const { table } = element.schema;
    this.#store.segments.set(table, [...this.#segments(table), new Segment(element.schema, element.progress.capture)]);
    this.#store.elements.set(table, element);
  }

  #segments(table: TableName): readonly Segment[] {
    return this.#store.segments.get(table) ?? [];
  }

  #element(table: TableName): Element {
    const element = this.#store.elements.get(table);
    if (element !== undefined) return element;
    throw new ForeshadowError('TABLE_MISSING', `the shadow has no table ${table}`, { remedy: 'Prepare the shadow with this table first.' });
  }

  #live(table: TableName): Segment {
    this.#element(table);
    return this.#segments(table).at(-1) as Segment;
  }

  #at(table: TableName, at: CaptureNumber): Segment {
    const left = this.#store.records.get(at)?.absent.find((each) => each.table === table);
    if (left !== undefined) throw absent(table, at, left.reason);
    const segment = this.#segments(table).find((each) => each.covers(at));
    if (segment === undefined) throw absent(table, at, 'it did not exist then');
    return segment;
  }
}

interface Counts {
  inserted: number;
  updated: number;
  deleted: number;
  readonly conflicts: { table: TableName; key: KeyTuple }[];
}

/** Both sides of one key in one difference, those with equal images left out; in key order. */
function joined(gone: readonly RowDifference[], come: readonly RowDifference[]): RowDifference[] {
  const byKey = new Map<string, RowDifference>();
  for (const each of gone) byKey.set(each.key.toString('hex'), each);
  for (const each of come) {
    const id = each.key.toString('hex');
    byKey.set(id, { ...each, before: byKey.get(id)?.before ?? null });
  }
  return [...byKey.values()]
    .filter((each) => each.before === null || each.after === null || !each.before.equals(each.after))
    .toSorted((a, b) => compareKeys(a.key, b.key));
}

function requireForward(table: TableName, from: Progress, to: Progress): void {
  const isForward =
    to.generation === from.generation
      ? to.low >= from.low && to.high >= from.high && to.capture >= from.capture
      : to.generation > from.generation && to.capture >= from.capture;
  if (isForward) return;
  throw new ForeshadowError('FENCED', `the progress of ${table} would move back from ${from.low} to ${to.low}`, {
    remedy: 'Read the elements again and go on from their progress.',
  });
}

function absent(table: TableName, at: CaptureNumber, reason: string): ForeshadowError {
  return new ForeshadowError('CAPTURE_ABSENT_TABLE', `${table} is not in capture ${at}: ${reason}`, {
    remedy: 'Choose a capture that holds the table.',
  });
}

function notBuilt(what: string): ForeshadowError {
  return new ForeshadowError('NOT_BUILT', `a shadow in memory speaks no SQL: ${what} does not exist there`, {
    remedy: 'Use a SQLite or PostgreSQL shadow.',
  });
}

const OCCUPIED_REMEDY = 'Use an empty database as shadow, or rename that table.';
