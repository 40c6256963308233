import { captureNumber, type CaptureNumber, type CaptureRecord } from '../../model/capture.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { parsePosition } from '../../model/position.ts';
import { COPY_FROM_NOTHING, type Element, type ElementState, type Generation, type Progress } from '../../model/progress.ts';
import type { DataSetSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { KeyTuple } from '../../model/tuple.ts';
import { identifier, literal } from './connection.ts';
import { unguarded } from './guard.ts';
import { dropInserted } from './inserted.ts';
import { hasKey } from './key.ts';
import { Layout, OWN_SCHEMA, qualified, retiredName, type Segment, type SegmentTypes, splitName, type StoredColumns } from './layout.ts';
import { makeTypes } from './made-types.ts';
import { keyDdl, type KnownTypes, makeSegment, makeSegments, refuseOccupied } from './mirror.ts';
import { EXISTS, OWN_TABLES } from './shadow-schema.ts';
import type { TextResult, Wire } from './wire.ts';

/** Shapes by the id of their segment: immutable once written. Keyed by the text too, as another shadow may use the same ids. */
const shapes = new Map<string, Pick<Segment, 'schema' | 'types' | 'stored'>>();
const SHAPES_MAX = 10_000;

export const SEGMENT_COLUMNS = 'id, table_name, first_capture, last_capture, schema, types, stored, storage, home';

const SEGMENT_WIDTH = SEGMENT_COLUMNS.split(', ').length;

export function segmentOf(row: TextResult['rows'][number]): Segment {
  const [id, table, first, last, schemaText, typesText, storedText, storage, home] = row as string[];
  const text = `${schemaText}${typesText}${storedText}`;
  let shape = shapes.get(text);
  if (shape === undefined) {
    shape = {
      schema: JSON.parse(schemaText as string) as TableSchema,
      types: JSON.parse(typesText as string) as SegmentTypes,
      stored: JSON.parse(storedText as string) as StoredColumns,
    };
    if (shapes.size >= SHAPES_MAX) shapes.clear();
    shapes.set(text, shape);
  }
  return {
    id: Number(id),
    table: table as TableName,
    ...shape,
    first: captureNumber(Number(first)),
    last: last === null ? null : captureNumber(Number(last)),
    storage: Number(storage),
    home: (home ?? null) as TableName | null,
  };
}

/** The live segments of tables; inside the writer's transaction nothing can move them. */
export async function liveLayouts(wire: Wire, tables: readonly TableName[]): Promise<Map<TableName, Layout>> {
  const [found] = await wire.query(
    `SELECT ${SEGMENT_COLUMNS} FROM ${OWN_SCHEMA}.segment WHERE last_capture IS NULL AND table_name IN (${tables.map(literal).join(', ')})`,
  );
  return new Map((found?.rows ?? []).map((row) => [row[1] as TableName, new Layout(segmentOf(row))]));
}

/**
 * Layouts of live segments by id, for each shadow's connection: an id is never used again, and a live segment changes only where a type of its
 * columns is put aside.
 */
let liveById = new WeakMap<Wire, Map<number, Layout>>();

/** Types may have been put aside (`made-types.ts`). */
export function forgetLayouts(): void {
  liveById = new WeakMap();
}

/** Where tables stand, and their layouts. Reads the shapes only where this connection has not met them yet. */
export async function storedProgress(
  wire: Wire,
  tables: readonly TableName[],
): Promise<Map<TableName, { layout: Layout; state: ElementState; progress: Pick<Progress, 'generation' | 'low' | 'high'> }>> {
  const known = liveById.get(wire) ?? new Map<number, Layout>();
  liveById.set(wire, known);
  const [found] = await wire.query(
    `SELECT table_name, segment, state, generation, low, high FROM ${OWN_SCHEMA}.progress WHERE table_name IN (${tables.map(literal).join(', ')})`,
  );
  const rows = (found?.rows ?? []) as readonly string[][];
  if (rows.some((row) => !known.has(Number(row[1])))) {
    for (const layout of (await liveLayouts(wire, tables)).values()) known.set(layout.segment.id, layout);
  }
  return new Map(
    rows.map(([table, segment, state, generation, low, high]) => [
      table as TableName,
      {
        layout: known.get(Number(segment)) as Layout,
        state: stateOf(state as string),
        progress: { generation: Number(generation) as Generation, low: parsePosition(low as string), high: parsePosition(high as string) },
      },
    ]),
  );
}

export async function liveLayout(wire: Wire, table: TableName): Promise<Layout> {
  const layout = (await liveLayouts(wire, [table])).get(table);
  if (layout === undefined) throw missing(table);
  return layout;
}

/**
 * Opens a reader's transaction and keeps every table where it is until the end of it. LOCK takes no snapshot, so the one the next
 * statement takes agrees with the names: a read never meets the empty successor of the table it meant.
 */
export const BEGIN_READING = `BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE ${OWN_SCHEMA}.segment IN ACCESS SHARE MODE`;

/** All segments of a table, oldest first, and what was left out of the captures asked for. Inside `BEGIN_READING`. */
export async function segmentsOf(
  wire: Wire,
  table: TableName,
  captures: readonly CaptureNumber[],
): Promise<{ segments: Segment[]; absent: Map<CaptureNumber, string> }> {
  const results = await wire.query(
    `SELECT ${SEGMENT_COLUMNS} FROM ${OWN_SCHEMA}.segment WHERE table_name = ${literal(table)} ORDER BY id;
     SELECT record FROM ${OWN_SCHEMA}.capture WHERE number IN (${[...captures, -1].join(', ')})`,
  );
  const absent = new Map<CaptureNumber, string>();
  for (const [text] of results[1]?.rows ?? []) {
    const record = JSON.parse(text as string) as CaptureRecord;
    const left = record.absent.find((each) => each.table === table);
    if (left !== undefined) absent.set(record.number, left.reason);
  }
  return { segments: (results[0]?.rows ?? []).map(segmentOf), absent };
}

/** Which segment a capture reads. Throws CAPTURE_ABSENT_TABLE, or TABLE_MISSING for a table the shadow never had. */
export async function layoutAt(wire: Wire, table: TableName, at: CaptureNumber): Promise<Layout> {
  const { segments, absent } = await segmentsOf(wire, table, [at]);
  return layoutOf(table, segments, absent, at);
}

export function layoutOf(
  table: TableName,
  segments: readonly Segment[],
  absent: ReadonlyMap<CaptureNumber, string>,
  at: CaptureNumber,
): Layout {
  const reason = absent.get(at);
  if (reason !== undefined) throw absentError(table, at, reason);
  const segment = segmentAt(segments, at);
  if (segment !== undefined) return new Layout(segment);
  if (segments.length === 0) throw missing(table);
  throw absentError(table, at, 'it did not exist then');
}

export function segmentAt(segments: readonly Segment[], at: CaptureNumber): Segment | undefined {
  return segments.find((each) => each.first <= at && (each.last === null || at <= each.last));
}

export function absentError(table: TableName, at: CaptureNumber, reason: string, cause?: unknown): ForeshadowError {
  return new ForeshadowError('CAPTURE_ABSENT_TABLE', `Capture ${at} does not hold ${table}: ${reason}`, {
    remedy: 'Choose a capture that holds it; `foreshadow captures` lists what was left out.',
    cause,
  });
}

function missing(table: TableName): ForeshadowError {
  return new ForeshadowError('TABLE_MISSING', `The shadow has no table ${table}`, {
    remedy: 'Name a table of the data set as its store names it, for example public.orders.',
  });
}

export async function readElements(wire: Wire): Promise<Map<TableName, Element>> {
  const elements = new Map<TableName, Element>();
  const [exists] = await wire.query(EXISTS);
  if (exists?.rows[0]?.[0] !== 't') return elements;
  const [found] = await wire.query(
    `SELECT ${SEGMENT_COLUMNS.split(', ')
      .map((name) => `s.${name}`)
      .join(', ')},
       p.state, p.generation, p.low, p.high, greatest(p.capture, l.capture)
     FROM ${OWN_SCHEMA}.progress p JOIN ${OWN_SCHEMA}.segment s ON s.id = p.segment LEFT JOIN ${OWN_SCHEMA}.left_out l ON l.table_name = p.table_name
     ORDER BY p.table_name`,
  );
  for (const row of found?.rows ?? []) {
    const segment = segmentOf(row.slice(0, SEGMENT_WIDTH));
    const [state, generation, low, high, capture] = row.slice(SEGMENT_WIDTH) as string[];
    elements.set(segment.table, {
      schema: segment.schema,
      state: stateOf(state as string),
      progress: {
        generation: Number(generation) as Generation,
        low: parsePosition(low as string),
        high: parsePosition(high as string),
        capture: captureNumber(Number(capture)),
      },
    });
  }
  return elements;
}

function stateOf(text: string): ElementState {
  const state = JSON.parse(text) as ElementState;
  if (state.kind !== 'copying' || state.frontier === null) return state;
  return { ...state, frontier: Buffer.from(state.frontier as unknown as string, 'base64') as unknown as KeyTuple };
}

function stateText(state: ElementState): string {
  if (state.kind !== 'copying' || state.frontier === null) return JSON.stringify(state);
  return JSON.stringify({ ...state, frontier: state.frontier.toString('base64') });
}

/** Where an element stands. */
export interface Standing {
  readonly state: ElementState;
  readonly progress: Progress;
  /** Id of the live segment. */
  readonly segment: number;
  /** Rows were written for the capture in `progress`. */
  readonly wrote: boolean;
}

const ELEMENTS_PER_STATEMENT = 1000;

/** Stores progress. The caller has seen to it that it does not move back. */
export async function storeProgress(wire: Wire, elements: ReadonlyMap<TableName, Standing>): Promise<void> {
  const all = Array.from(elements);
  for (let at = 0; at < all.length; at += ELEMENTS_PER_STATEMENT) await wire.query(progressSql(all.slice(at, at + ELEMENTS_PER_STATEMENT)));
}

function progressSql(elements: readonly (readonly [TableName, Standing])[]): string {
  const values = elements.map(([table, { state, progress, segment, wrote }]) => {
    const positions = `${literal(progress.low)}, ${literal(progress.high)}`;
    const numbers = `${progress.capture}, ${wrote ? progress.capture : 0}`;
    return `(${literal(table)}, ${segment}, ${literal(stateText(state))}, ${progress.generation}, ${positions}, ${numbers})`;
  });
  return `INSERT INTO ${OWN_SCHEMA}.progress (table_name, segment, state, generation, low, high, capture, written)
    VALUES ${values.join(', ')}
    ON CONFLICT (table_name) DO UPDATE SET segment = excluded.segment, state = excluded.state, generation = excluded.generation,
      low = excluded.low, high = excluded.high, capture = excluded.capture, written = greatest(progress.written, excluded.written)`;
}

/**
 * The beginning of `Shadow.prepare`, inside a write transaction: our own tables, and the types that the others need. Returns those that are to
 * be made, and those whose guard is to be put up again.
 */
export async function prepareSchema(wire: Wire, schema: DataSetSchema): Promise<{ missing: TableSchema[]; unguarded: Layout[] }> {
  await wire.query(OWN_TABLES.join('; '));
  const [found] = await wire.query(`SELECT table_name FROM ${OWN_SCHEMA}.progress`);
  const known = new Set((found?.rows ?? []).map((row) => row[0]));
  await refuseOccupied(
    wire,
    schema.tables.map((each) => each.table),
  );
  await makeTypes(wire, schema.before);
  return { missing: schema.tables.filter(({ table }) => !known.has(table)), unguarded: await unguarded(wire, await allLiveLayouts(wire)) };
}

/** Makes elements for tables that have none. Inside a write transaction. */
export async function makeElements(wire: Wire, tables: readonly TableSchema[], progress: Progress, known: KnownTypes): Promise<void> {
  const segments = await makeSegments(wire, tables, progress.capture, known);
  await storeProgress(
    wire,
    new Map(segments.map(({ table, id }) => [table, { state: COPY_FROM_NOTHING, progress, segment: id, wrote: false }])),
  );
}

/** `Shadow.changedTables`: those that were written to since, and those that began a segment. */
export async function changedTables(wire: Wire, tables: readonly TableName[], from: CaptureNumber): Promise<Set<TableName>> {
  const [found] = await wire.query(
    `SELECT table_name FROM ${OWN_SCHEMA}.progress WHERE written > ${from}
     UNION SELECT table_name FROM ${OWN_SCHEMA}.segment WHERE first_capture > ${from} OR last_capture >= ${from}`,
  );
  const changed = new Set((found?.rows ?? []).map(([table]) => table as TableName));
  return new Set(tables.filter((table) => changed.has(table)));
}

/** Of every table that has an element. */
export async function allLiveLayouts(wire: Wire): Promise<Layout[]> {
  const [found] = await wire.query(`SELECT table_name FROM ${OWN_SCHEMA}.progress`);
  const tables = (found?.rows ?? []).map((row) => row[0] as TableName);
  return tables.length === 0 ? [] : Array.from((await liveLayouts(wire, tables)).values());
}

/** Ends a live segment, and its table's progress: captures up to the one before read it still. It goes where none of them could. */
export async function endSegment(wire: Wire, { id, table, first }: Segment, capture: CaptureNumber): Promise<void> {
  await wire.query(
    `${first >= capture ? `DELETE FROM ${OWN_SCHEMA}.segment` : `UPDATE ${OWN_SCHEMA}.segment SET last_capture = ${capture - 1}`} WHERE id = ${id};
     DELETE FROM ${OWN_SCHEMA}.progress WHERE table_name = ${literal(table)}`,
  );
}

/** The segments that share tables. */
export async function segmentsIn(wire: Wire, storage: number): Promise<Segment[]> {
  const [found] = await wire.query(`SELECT ${SEGMENT_COLUMNS} FROM ${OWN_SCHEMA}.segment WHERE storage = ${storage}`);
  return (found?.rows ?? []).map(segmentOf);
}

/** `Shadow.retire`, inside a write transaction. */
export async function retireSegment(
  wire: Wire,
  table: TableName,
  schema: TableSchema | null,
  state: ElementState,
  progress: Progress,
): Promise<void> {
  await wire.query(`LOCK TABLE ${OWN_SCHEMA}.segment IN ACCESS EXCLUSIVE MODE`);
  const layout = await liveLayout(wire, table);
  const { segment: old, live, history, notes } = layout;
  await endSegment(wire, old, progress.capture);
  const [shared] = await wire.query(`SELECT EXISTS (SELECT FROM ${OWN_SCHEMA}.segment WHERE storage = ${old.storage})`);
  if (shared?.rows[0]?.[0] === 't') {
    const name = identifier(retiredName(old.storage));
    // Renamed first, then moved: our schema may have a table of the same name.
    await wire.query(
      `ALTER TABLE ${qualified(table)} RENAME TO ${name};
       ALTER TABLE ${identifier(splitName(table).schema)}.${name} SET SCHEMA ${OWN_SCHEMA};
       UPDATE ${OWN_SCHEMA}.segment SET home = NULL WHERE storage = ${old.storage}`,
    );
  } else
    await wire.query(
      `DROP TABLE ${live}, ${history}, ${notes}; ${dropInserted(layout)}; DROP FUNCTION ${OWN_SCHEMA}.guard_${old.storage}()`,
    );
  if (schema === null) return;
  const segment = await makeSegment(wire, schema, progress.capture);
  if (hasKey(state)) await wire.query(keyDdl(new Layout(segment)));
  await storeProgress(wire, new Map([[table, { state, progress, segment: segment.id, wrote: false }]]));
}
