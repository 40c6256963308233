import type { Catalog } from '../../capture/catalog.ts';
import type { CaptureNumber, RowDifference } from '../../model/capture.ts';
import type { ShapeChange } from '../../model/change.ts';
import { type Finding, ForeshadowError } from '../../model/errors.ts';
import type { Element, ElementState, Progress } from '../../model/progress.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { KeyTuple, Tuple } from '../../model/tuple.ts';
import {
  type AheadWork,
  type ApplyReport,
  type ApplyWork,
  type ForeignRow,
  GaveWay,
  type IndexOrder,
  type IndexReport,
  type QuerySlice,
  type ReplacedVersion,
  type RowVersion,
  type Shadow,
} from '../../shadowing/shadow.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { applyAhead } from './ahead.ts';
import { applyWorks } from './apply.ts';
import { PostgresCatalog } from './catalog.ts';
import { Claim } from './claim.ts';
import { notedAmong, noteForeign, readForeign, replaceStoredVersion, undoForeignRows } from './foreign.ts';
import { renewGuardDdl } from './guard.ts';
import { ensureKey } from './key.ts';
import { type Beside, LANE_WORK_MIN } from './lanes.ts';
import { Layout } from './layout.ts';
import { MirroredIndexes } from './mirrored-indexes.ts';
import type { KnownTypes } from './mirror.ts';
import { runQuery } from './query.ts';
import { reshapeSegment } from './reshape.ts';
import { scriptRows } from './script.ts';
import {
  changedTables,
  forgetLayouts,
  liveLayout,
  liveLayouts,
  makeElements,
  prepareSchema,
  readElements,
  retireSegment,
  segmentAt,
  segmentsOf,
  BEGIN_READING,
} from './segments.ts';
import { checkShadow, MAJOR_VERSION } from './shadow-check.ts';
import { Readers, Writer } from './shadow-connections.ts';
import { postgresValues } from './values.ts';
import { isInTheWay, readDiff, readEveryRow, readRows, readRowsByKey, readVersion } from './versions.ts';
import type { Wire } from './wire.ts';

/**
 * Opens the shadow of a PostgreSQL database, and its catalog. Nothing is made there before `claim`. With what
 * is `given` tests need not have an older server, nor many rows.
 */
export async function openPostgresShadow(url: string, given: Partial<Means> = {}): Promise<{ shadow: Shadow; catalog: Catalog }> {
  const claim = new Claim(url);
  const catalogWriter = new Writer(url, 'catalog', claim);
  const majorVersion = await catalogWriter.read(async (wire) => Number((await wire.query(MAJOR_VERSION))[0]?.rows[0]?.[0]));
  const shadow = new PostgresShadow(url, claim, catalogWriter, { majorVersion, laneWorkMin: LANE_WORK_MIN, failpoint: () => {}, ...given });
  return { shadow, catalog: new PostgresCatalog(catalogWriter) };
}

interface Means {
  /** As which the server is treated. */
  readonly majorVersion: number;
  /** From how much work on it is shared by two connections (`lanes.ts`). */
  readonly laneWorkMin: number;
  /** Names a place where a test may kill the process. */
  readonly failpoint: (name: string) => void;
}

/**
 * Tables whose DDL shares a transaction: each takes a dozen locks, of which a server of default settings has some 6,400 for all of its
 * connections together.
 */
const MADE_TOGETHER = 100;

const ALONE_MS = 60_000;

/** How long one who changes a table may wait for a long reading of ours. */
const IN_THE_WAY_MS = 1000;

function* sliced<Item>(items: readonly Item[], size: number): Generator<readonly Item[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size);
}

class PostgresShadow implements Shadow {
  readonly kind = 'postgres';
  readonly values = postgresValues;
  readonly #url: string;
  readonly #claim: Claim;
  readonly #catalogWriter: Writer;
  readonly #writer: Writer;
  /** For an `apply` that comes while another runs. */
  readonly #second: Writer;
  readonly #readers: Readers;
  readonly #indexes: MirroredIndexes;
  readonly #means: Means;
  /** Tables of which an apply failed that might have been of two transactions: for a while it is one, in whose way nothing of our own can be. */
  readonly #aloneUntilMs = new Map<TableName, number>();

  constructor(url: string, claim: Claim, catalogWriter: Writer, means: Means) {
    this.#url = url;
    this.#claim = claim;
    this.#catalogWriter = catalogWriter;
    this.#writer = new Writer(url, 'shadowing', claim);
    this.#second = new Writer(url, 'shadowing beside', claim);
    this.#readers = new Readers(url);
    this.#indexes = new MirroredIndexes(url, claim);
    this.#means = means;
  }

  /** In the words of the primary's: a shadow that is the primary itself is recognised by it. */
  async identity(signal: AbortSignal): Promise<string> {
    return this.#readers.read(async (wire) => {
      const [found] = await wire.query(
        `SELECT format('postgres:%s:%s', (SELECT system_identifier FROM pg_control_system()), oid) FROM pg_database
           WHERE datname = current_database()`,
        signal,
      );
      return found?.rows[0]?.[0] as string;
    }, signal);
  }

  check(tables: readonly TableSchema[], signal: AbortSignal): Promise<readonly Finding[]> {
    return this.#readers.read((wire) => checkShadow(wire, this.#url, tables), signal);
  }

  claim(holder: string): Promise<void> {
    return this.#claim.take(holder);
  }

  async prepare(schema: DataSetSchema, progress: Progress): Promise<void> {
    const { missing, unguarded } = await this.#writer.write((wire) => prepareSchema(wire, schema));
    forgetLayouts();
    const types: KnownTypes = new Map();
    for (const tables of sliced(missing, MADE_TOGETHER)) {
      await this.#writer.write((wire) => makeElements(wire, tables, progress, types));
    }
    for (const layouts of sliced(unguarded, MADE_TOGETHER)) {
      await this.#writer.write((wire) => wire.query(layouts.flatMap(renewGuardDdl).join('; ')));
    }
  }

  async elements(): Promise<ReadonlyMap<TableName, Element>> {
    const elements = await this.#readers.read(readElements);
    for (const writer of [this.#writer, this.#second]) writer.forgive();
    return elements;
  }

  async apply(works: readonly ApplyWork[], signal: AbortSignal): Promise<ApplyReport> {
    const [work] = works;
    const alone = works.length > 1 || work === undefined || performance.now() < (this.#aloneUntilMs.get(work.table) ?? 0);
    const mayShare = !alone && this.#writer.idle && this.#second.idle;
    const writer = this.#writer.idle || !this.#second.idle ? this.#writer : this.#second;
    const write: Beside['write'] = async (lane) => {
      await this.#second.write(lane, signal, 'beside');
      this.#means.failpoint('lane-committed');
    };
    const { majorVersion, laneWorkMin: workMin } = this.#means;
    const means = { majorVersion, beside: mayShare ? { workMin, write } : null };
    const durable = works.every(({ unflushed }) => unflushed) ? 'unflushed' : 'flushed';
    try {
      return await writer.write((wire) => applyWorks(wire, works, means, signal), signal, durable);
    } catch (error) {
      if (mayShare) this.#aloneUntilMs.set(work.table, performance.now() + ALONE_MS);
      for (const { table } of works) {
        const blamed = await this.#indexes.blame(table, error);
        if (blamed !== null) throw blamed;
      }
      throw error;
    }
  }

  async flush(): Promise<void> {
    for (const writer of [this.#writer, this.#second]) await writer.flush();
  }

  async applyAhead(work: AheadWork, signal: AbortSignal): Promise<ApplyReport> {
    await using writer = new Writer(this.#url, 'shadowing ahead', this.#claim);
    return await writer.write((wire) => applyAhead(wire, work, signal), signal);
  }

  reshape(table: TableName, change: ShapeChange, state: ElementState, progress: Progress): Promise<boolean> {
    return this.#indexes.aside(table, () => this.#writer.write((wire) => reshapeSegment(wire, table, change, state, progress)));
  }

  retire(table: TableName, schema: TableSchema | null, state: ElementState, progress: Progress): Promise<void> {
    return this.#indexes.aside(table, () => this.#writer.write((wire) => retireSegment(wire, table, schema, state, progress)));
  }

  mirrorIndexes(orders: readonly IndexOrder[], signal: AbortSignal): Promise<IndexReport> {
    return this.#indexes.mirror(orders, signal);
  }

  rows(table: TableName, at: CaptureNumber, after: KeyTuple | null, limit: RowLimit, signal: AbortSignal): Promise<RowChunk> {
    return this.#readers.read((wire) => readRows(wire, table, at, after, limit, signal), signal);
  }

  rowsByKey(table: TableName, at: CaptureNumber, keys: readonly KeyTuple[], signal: AbortSignal): Promise<Tuple[]> {
    return this.#readers.read((wire) => readRowsByKey(wire, table, at, keys, signal), signal);
  }

  everyRow(table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<readonly Tuple[]> {
    return this.#readers.stream((wire) => this.#givingWay(wire, readEveryRow(wire, table, at, signal)), signal);
  }

  async *#givingWay<Slice>(reader: Wire, slices: AsyncIterable<Slice>): AsyncGenerator<Slice> {
    let lookedMs = performance.now();
    for await (const slice of slices) {
      yield slice;
      if (performance.now() - lookedMs < IN_THE_WAY_MS) continue;
      if (await this.#catalogWriter.read((wire) => isInTheWay(wire, reader.processId))) throw new GaveWay('somebody changes the table');
      lookedMs = performance.now();
    }
  }

  async schemaAt(table: TableName, at: CaptureNumber): Promise<TableSchema | null> {
    return this.#readers.read(async (wire) => {
      await wire.query(BEGIN_READING);
      const { segments, absent } = await segmentsOf(wire, table, [at]);
      return absent.has(at) ? null : (segmentAt(segments, at)?.schema ?? null);
    });
  }

  diff(table: TableName, from: CaptureNumber, to: CaptureNumber, signal: AbortSignal): AsyncIterable<readonly RowDifference[]> {
    return this.#readers.stream((wire) => readDiff(wire, table, from, to, signal), signal);
  }

  changedTables(tables: readonly TableName[], from: CaptureNumber): Promise<ReadonlySet<TableName>> {
    return this.#readers.read((wire) => changedTables(wire, tables, from));
  }

  foreignTables(tables: readonly TableName[]): Promise<ReadonlySet<TableName>> {
    return this.#readers.read(async (wire) => {
      await wire.query(BEGIN_READING);
      const noted = await notedAmong(wire, Array.from((await liveLayouts(wire, tables)).values()));
      return new Set(Array.from(noted, ({ segment }) => segment.table));
    });
  }

  foreignRows(table: TableName, limit: number, signal: AbortSignal): Promise<readonly ForeignRow[]> {
    return this.#readers.read(async (wire) => {
      await wire.query(BEGIN_READING);
      return readForeign(wire, await liveLayout(wire, table), limit, signal);
    }, signal);
  }

  async searchForeign(table: TableName): Promise<void> {
    await this.#writer.write(async (wire) => noteForeign(wire, await liveLayout(wire, table)));
  }

  undoForeign(table: TableName, keys: readonly KeyTuple[]): Promise<number> {
    return this.#writer.write(async (wire) => {
      const layout = await liveLayout(wire, table);
      await ensureKey(wire, layout);
      return undoForeignRows(wire, layout, keys);
    });
  }

  versionAt(table: TableName, key: KeyTuple, at: CaptureNumber): Promise<RowVersion | null> {
    return this.#readers.read((wire) => readVersion(wire, table, key, at));
  }

  replaceVersion(table: TableName, key: KeyTuple, version: ReplacedVersion, row: Tuple | null): Promise<void> {
    return this.#writer.write(async (wire) => {
      const { segments } = await segmentsOf(wire, table, []);
      const segment = segmentAt(segments, version.at ?? version.since);
      if (segment === undefined) {
        throw new ForeshadowError('CAPTURE_ABSENT_TABLE', `The shadow has no rows of ${table} that begin with capture ${version.since}`, {
          remedy: 'Validate again: the table may have been retired since.',
        });
      }
      await replaceStoredVersion(wire, new Layout(segment), key, version, row);
    });
  }

  script(table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<string> {
    return this.#readers.stream((wire) => scriptRows(wire, table, at, signal), signal);
  }

  query(at: CaptureNumber, sql: string, signal: AbortSignal): AsyncIterable<QuerySlice> {
    return runQuery(this.#url, at, sql, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#indexes[Symbol.asyncDispose]();
    await this.#writer[Symbol.asyncDispose]();
    await this.#second[Symbol.asyncDispose]();
    await this.#catalogWriter[Symbol.asyncDispose]();
    await this.#readers[Symbol.asyncDispose]();
    await this.#claim.release();
  }
}
