import { afterEach, beforeEach } from 'vitest';
import type { Catalog } from '../capture/catalog.ts';
import { type CaptureNumber, type CaptureRecord, NO_CAPTURE, captureNumber } from '../model/capture.ts';
import { type Position, position } from '../model/position.ts';
import type { ElementState, Generation, Progress } from '../model/progress.ts';
import type { DataSetSchema, TableName, TableSchema } from '../model/schema.ts';
import { type KeyTuple, type Tuple, keyTuple } from '../model/tuple.ts';
import type { ApplyReport, ApplyWork, RowBatch, RowVersion, Shadow } from './shadow.ts';

/** What the suites store: every engine has 64-bit integers and texts. */
export type SimpleValue = bigint | string | null;

export interface SimpleColumn {
  readonly name: string;
  readonly type: 'integer' | 'text';
}

/** What an ordinary program does to a live table of the shadow. It never mentions columns of ours. */
export type ForeignWrite =
  | { readonly kind: 'insert'; readonly row: readonly SimpleValue[] }
  /** Sets every column, so that the key may change. */
  | { readonly kind: 'update'; readonly key: readonly SimpleValue[]; readonly row: readonly SimpleValue[] }
  | { readonly kind: 'delete'; readonly key: readonly SimpleValue[] }
  /** One statement over the whole table. */
  | { readonly kind: 'delete-all' };

/** An empty shadow, not yet claimed, and how its engine makes tables, tuples and foreign writes. */
export interface ShadowFixture {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  /** Whether `query` runs SQL. */
  readonly speaksSql: boolean;
  /** A table as this store's primary would describe it; `key` names columns. Other columns are nullable. */
  schema(name: string, columns: readonly SimpleColumn[], key: readonly string[]): TableSchema;
  /** Packs values in this store's bytes, typed by what they are: bigint, string, null. */
  tuple(values: readonly SimpleValue[]): Tuple;
  /** Through a connection of another program. Fails only where that program's statement fails. */
  foreign(table: TableSchema, write: ForeignWrite): Promise<void>;
  /** Makes a table of somebody else's where this one would stand. */
  occupy(table: TableSchema): Promise<void>;
  /** The same store opened once more, beside the first. */
  another(): Promise<{ readonly shadow: Shadow; readonly catalog: Catalog }>;
  /** Removes what is left, after the shadow was closed. */
  remove(): Promise<void>;
}

export type ShadowOpener = () => Promise<ShadowFixture>;

export interface TableShape {
  readonly columns: readonly SimpleColumn[];
  readonly key: readonly string[];
}

export const ITEMS: TableShape = {
  columns: [
    { name: 'id', type: 'integer' },
    { name: 'name', type: 'text' },
    { name: 'stock', type: 'integer' },
  ],
  key: ['id'],
};

export const never = new AbortController().signal;

/** A tuple as comparable text. */
export function note(tuple: Tuple): string {
  return tuple.toString('hex');
}

/** Rows as comparable text, whatever their order. */
export function notes(rows: readonly Tuple[]): string[] {
  return rows.map(note).toSorted();
}

/** A difference as comparable text: key, before, after. */
export function noteDifference(parts: readonly (Tuple | null | undefined)[]): string {
  return parts.map((part) => (part === null || part === undefined ? '-' : note(part))).join(' ');
}

/** Where a table stands, as whoever writes to it next has to say. */
export async function groundOf(shadow: Shadow, table: TableName): Promise<ApplyWork['from']> {
  const element = (await shadow.elements()).get(table);
  if (element === undefined) throw new Error(`the shadow has no ${table}`);
  return element.progress;
}

export interface Change {
  readonly deletes?: readonly KeyTuple[];
  readonly puts?: readonly Tuple[];
  readonly fresh?: boolean;
}

/** One shadow with one table, and a hand that writes to it as the engine does: progress moves on with every apply. */
export class ShadowSession {
  readonly fixture: ShadowFixture;
  shadow: Shadow;
  catalog: Catalog;
  schema: TableSchema;
  progress: Progress;
  /** The newest capture the element no longer writes for. */
  savedThrough: CaptureNumber = NO_CAPTURE;
  #clock = 1n;
  /** Where the element stands while `progress` is of a generation that nothing was written in. */
  #left: Progress | null = null;

  private constructor(fixture: ShadowFixture, schema: TableSchema) {
    this.fixture = fixture;
    this.shadow = fixture.shadow;
    this.catalog = fixture.catalog;
    this.schema = schema;
    const low = position(1n);
    this.progress = { generation: 1 as Generation, low, high: low, capture: captureNumber(1) };
  }

  static async start(fixture: ShadowFixture, shape: TableShape): Promise<ShadowSession> {
    const session = new ShadowSession(fixture, numbered(fixture.schema('items', shape.columns, shape.key)));
    await session.shadow.claim('the first');
    await session.shadow.prepare(session.dataSet, session.progress);
    return session;
  }

  get dataSet(): DataSetSchema {
    return { tables: [this.schema], before: [], after: [] };
  }

  at(commit: bigint): Position {
    return position(commit);
  }

  /** A row of ITEMS. */
  row(id: bigint, name: string | null, stock = 0n): Tuple {
    return this.fixture.tuple([id, name, stock]);
  }

  key(id: bigint): KeyTuple {
    return this.fixture.tuple([id]) as KeyTuple;
  }

  async apply(change: Change, options: { state?: ElementState } = {}): Promise<ApplyReport> {
    return await this.applyRows([batchOf(change)], never, options.state);
  }

  async applyRows(rows: ApplyWork['rows'], signal: AbortSignal = never, state: ElementState = { kind: 'live' }): Promise<ApplyReport> {
    const progress = this.next();
    const from = this.#left ?? this.progress;
    const distinct = Array.isArray(rows) && rows.length === 1;
    const work = { table: this.schema.table, rows, from, progress, state, savedThrough: this.savedThrough, distinct };
    const report = await this.shadow.apply([work], signal);
    this.progress = progress;
    this.#left = null;
    return report;
  }

  /** The progress of what is applied next. */
  next(): Progress {
    const low = position(++this.#clock);
    return { ...this.progress, low, high: low };
  }

  /** An apply at a progress of the caller's choice, which is not remembered; made for where the element stands, or for another place. */
  async applyAt(progress: Progress, change: Change, from?: ApplyWork['from']): Promise<ApplyReport> {
    const work = {
      table: this.schema.table,
      rows: [batchOf(change)],
      from: from ?? this.#left ?? this.progress,
      progress,
      state: { kind: 'live' as const },
      savedThrough: this.savedThrough,
    };
    return await this.shadow.apply([work], never);
  }

  /** Cuts the capture in progress and crosses, or is left out of it. */
  async capture(options: { absent?: string } = {}): Promise<CaptureNumber> {
    const number = this.progress.capture;
    const absent = options.absent === undefined ? [] : [{ table: this.schema.table, reason: options.absent }];
    const next = captureNumber(number + 1);
    this.progress = { ...this.progress, capture: next };
    if (options.absent === undefined) {
      this.savedThrough = number;
      await this.applyRows([]);
    }
    await this.catalog.cut({ ...emptyRecord(number), position: this.progress.low, absent }, this.dataSet);
    return number;
  }

  /** The capture in progress is aborted after the element has crossed: its number is spent, nobody will ever read it. */
  skipNumber(): void {
    this.progress = { ...this.progress, capture: captureNumber(this.progress.capture + 1) };
  }

  nextGeneration(low: Position): void {
    this.#left ??= this.progress;
    this.progress = { ...this.progress, generation: (this.progress.generation + 1) as Generation, low, high: low };
  }

  async retire(schema: TableSchema | null): Promise<void> {
    await this.shadow.retire(this.schema.table, schema, { kind: 'live' }, this.progress);
    this.#left = null;
    if (schema !== null) this.schema = schema;
  }

  /** Every row as of a capture, in chunks of `size`, in the order they came. */
  async page(at: CaptureNumber, size: number): Promise<Tuple[]> {
    const rows: Tuple[] = [];
    for (let after: KeyTuple | null = null; ; ) {
      const chunk = await this.shadow.rows(this.schema.table, at, after, { rows: size, bytes: 1 << 20 }, never);
      rows.push(...chunk.rows);
      if (chunk.through === null) return rows;
      after = chunk.through;
    }
  }

  async rowsAt(at: CaptureNumber): Promise<string[]> {
    return notes(await this.page(at, 3));
  }

  async live(): Promise<string[]> {
    return await this.rowsAt(this.progress.capture);
  }

  async version(id: bigint, at: CaptureNumber): Promise<RowVersion | null> {
    return await this.shadow.versionAt(this.schema.table, this.key(id), at);
  }

  async diff(from: CaptureNumber, to: CaptureNumber): Promise<string[]> {
    return (await collectDiff(this.shadow, this.schema.table, from, to)).toSorted();
  }

  /** Ends this instance and opens the store anew, with a claim of its own. */
  async restart(): Promise<void> {
    await this.shadow[Symbol.asyncDispose]();
    ({ shadow: this.shadow, catalog: this.catalog } = await this.fixture.another());
    await this.shadow.claim('the first');
  }

  async close(): Promise<void> {
    await this.shadow[Symbol.asyncDispose]();
    await this.fixture.remove();
  }

  keyOf(row: Tuple): KeyTuple {
    return keyTuple(row, this.schema.key);
  }
}

/** With ids for its columns, as a primary gives them that numbers them: by default in their order. */
export function numbered(schema: TableSchema, ids: readonly number[] = schema.columns.map((_, index) => index + 1)): TableSchema {
  return { ...schema, columns: schema.columns.map((column, index) => ({ ...column, id: ids[index] })) };
}

/** A diff as comparable texts, in the order it came. */
export async function collectDiff(shadow: Shadow, table: TableName, from: CaptureNumber, to: CaptureNumber): Promise<string[]> {
  const found: string[] = [];
  for await (const slice of shadow.diff(table, from, to, never))
    for (const each of slice) found.push(noteDifference([each.key, each.before, each.after]));
  return found;
}

export function emptyRecord(number: CaptureNumber): CaptureRecord {
  return {
    number,
    state: 'cut',
    dueAt: '2026-01-01T00:00:00.000Z',
    cutAt: '2026-01-01T00:00:00.000Z',
    position: null,
    verdict: null,
    coverage: null,
    absent: [],
    rows: null,
    timings: null,
    note: null,
  };
}

function batchOf(change: Change): RowBatch {
  return { deletes: change.deletes ?? [], puts: change.puts ?? [], fresh: change.fresh ?? false };
}

/** A session of its own for each test of a `describe`. */
export function sessions(open: ShadowOpener): () => ShadowSession {
  let session: ShadowSession | null = null;
  beforeEach(async () => {
    session = await ShadowSession.start(await open(), ITEMS);
  });
  afterEach(async () => {
    await session?.close();
    session = null;
  });
  return () => {
    if (session === null) throw new Error('no shadow is open');
    return session;
  };
}
