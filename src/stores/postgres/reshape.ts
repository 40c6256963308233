import type { ShapeChange } from '../../model/change.ts';
import { isKeyless } from '../../model/copies.ts';
import type { ElementState, Progress } from '../../model/progress.ts';
import { type ColumnSchema, OWN_PREFIX, type TableName, type TableSchema } from '../../model/schema.ts';
import { identifier, literal } from './connection.ts';
import { guardDdl, guardDropDdl } from './guard.ts';
import { ensureKey, hasKey } from './key.ts';
import { Layout, OWN_SCHEMA, qualified, type Segment, splitName, type StoredColumns } from './layout.ts';
import { addSegment } from './mirror.ts';
import { releaseIndexes } from './mirrored-indexes.ts';
import { endSegment, liveLayout, segmentsIn, storeProgress } from './segments.ts';
import { storedAsTheyCome } from './storage.ts';
import { readOidShapes } from './type-oids.ts';
import type { Wire } from './wire.ts';

/** PostgreSQL's limit is 1,600, and dropped columns count for ever. */
const STORED_COLUMNS_MAX = 1500;

/**
 * `Shadow.reshape`, inside a write transaction: a change of the catalogs only. The new segment shares the tables of the one before.
 * Columns that are gone stay where they are, under another name, as earlier captures read them; new ones are added with the value that
 * standing rows have in them. False, and nothing done, where the change is more than that.
 */
export async function reshapeSegment(
  wire: Wire,
  table: TableName,
  change: ShapeChange,
  state: ElementState,
  progress: Progress,
): Promise<boolean> {
  await wire.query(`LOCK TABLE ${OWN_SCHEMA}.segment IN ACCESS EXCLUSIVE MODE`);
  const layout = await liveLayout(wire, table);
  const old = layout.segment;
  const plan = planReshape(old, change);
  if (plan === null) return false;
  const retyped = plan.columns.flatMap((column) => (column.retyped ? [column.before as string] : []));
  await releaseIndexes(wire, layout, { retyped, renamed: plan.renamed.size > 0 });
  for (const sql of [...guardDropDdl(layout), ...columnDdl(layout, plan)]) await wire.query(sql);
  const home = await moveHome(wire, old, change.to.table);
  await endSegment(wire, old, progress.capture);
  for (const each of await segmentsIn(wire, old.storage)) await wire.query(renameIn(each, plan, home));
  const names = plan.columns.map(({ name }) => name);
  const oids = await readOidShapes(
    wire,
    change.to.columns.map(({ type }) => type),
  );
  const segment = await addSegment(wire, {
    schema: change.to,
    first: progress.capture,
    types: { operators: old.types.operators, packed: old.types.packed, oids },
    storage: old.storage,
    stored: { names, others: plan.others, began: old.stored.began },
  });
  for (const sql of guardDdl(new Layout(segment))) await wire.query(sql);
  if (hasKey(state)) await ensureKey(wire, new Layout(segment));
  await storeProgress(wire, new Map([[change.to.table, { state, progress, segment: segment.id, wrote: false }]]));
  return true;
}

interface Plan {
  /** The columns of the new shape; `before`: its present name in the tables, or null where it is to be added. */
  readonly columns: readonly {
    readonly name: string;
    readonly type: string;
    readonly before: string | null;
    readonly retyped: boolean;
    readonly initial: string | null;
  }[];
  /** Columns of the former shape that are no more, by their present names. */
  readonly gone: readonly string[];
  /** All that no longer belongs to the live shape, by the names they have afterwards. */
  readonly others: readonly string[];
  /** From each present name to the one afterwards. */
  readonly renamed: ReadonlyMap<string, string>;
}

/** Null: the key is another, a column's values would have to be converted, or it is not known which columns are which. */
function planReshape(segment: Segment, change: ShapeChange): Plan | null {
  const { schema: from, stored } = segment;
  const { to } = change;
  if ([...from.columns, ...to.columns].some(({ id, hidden }) => id === undefined && !hidden)) return null;
  if ((isKeyless(from) || isKeyless(to)) && rowsOf(from) !== rowsOf(to)) return null;
  const standing = new Map(from.columns.map((column, index) => [placeOf(column), { column, name: stored.names[index] as string }]));
  const key = (schema: typeof to): string =>
    JSON.stringify(schema.key.map((index) => [schema.columns[index]?.id, schema.columns[index]?.type]));
  if (key(from) !== key(to)) return null;
  const columns: Plan['columns'][number][] = [];
  for (const [index, column] of to.columns.entries()) {
    const before = standing.get(placeOf(column));
    if (before !== undefined && !holdsSame(before.column, column)) return null;
    const retyped = before !== undefined && before.column.type !== column.type;
    const initial = before === undefined ? (change.initial[index] ?? null) : null;
    columns.push({ name: column.name, type: column.type, before: before?.name ?? null, retyped, initial });
  }
  const kept = new Set(to.columns.map(placeOf));
  const gone = Array.from(standing, ([id, { name }]) => (kept.has(id) ? [] : [name])).flat();
  const named = gone.map((_, index) => `${OWN_PREFIX}_gone_${segment.id}_${index}`);
  if (columns.length + gone.length + stored.others.length > STORED_COLUMNS_MAX) return null;
  const renamed = new Map<string, string>(gone.map((name, index) => [name, named[index] as string]));
  for (const { name, before } of columns) if (before !== null && before !== name) renamed.set(before, name);
  return { columns, gone, others: [...stored.others, ...named], renamed };
}

function placeOf({ id, name }: ColumnSchema): number | string {
  return id ?? name;
}

/** What tells rows without a key apart: another column, or other parts of a type, and none of them is what it was. */
function rowsOf({ columns }: TableSchema): string {
  return JSON.stringify(columns.map((column) => [placeOf(column), column.type, column.made ?? null]));
}

/** Types of which every value of the first is a value of the second, in the same bytes: the server converts them without a rewrite. */
function holdsSame(from: ColumnSchema, to: ColumnSchema): boolean {
  // The parts of a composite cannot change under the rows of earlier captures.
  if (from.type === to.type) return from.made === to.made;
  const [a, b] = [typeParts(from.type), typeParts(to.type)];
  if (a.base !== b.base) return a.base === 'character varying' && b.base === 'text';
  if (b.limits.length === 0) return true;
  if (a.limits.length === 0) return a.base !== b.base;
  if (!['character varying', 'numeric', 'bit varying'].includes(a.base)) return false;
  return (b.limits[0] as number) >= (a.limits[0] as number) && (b.limits[1] ?? 0) === (a.limits[1] ?? 0);
}

function typeParts(type: string): { readonly base: string; readonly limits: readonly number[] } {
  const parts = /^(character varying|numeric|bit varying|text)(?:\((\d+)(?:,(-?\d+))?\))?$/.exec(type);
  // Of every other type only the same spelling holds the same.
  if (parts === null) return { base: type, limits: [0] };
  return { base: parts[1] as string, limits: parts.slice(2).flatMap((limit) => (limit === undefined ? [] : [Number(limit)])) };
}

function columnDdl(layout: Layout, plan: Plan): string[] {
  const statements: string[] = [];
  for (const into of [layout.live, layout.history]) {
    // In two steps: names may change places.
    const renames = [...plan.renamed].map(([from, to], index) => ({ from, between: `${OWN_PREFIX}_moving_${index}`, to }));
    for (const { from, between } of renames) {
      statements.push(`ALTER TABLE ${into} RENAME COLUMN ${identifier(from)} TO ${identifier(between)}`);
    }
    for (const { between, to } of renames) {
      statements.push(`ALTER TABLE ${into} RENAME COLUMN ${identifier(between)} TO ${identifier(to)}`);
    }
    for (const { name, type, before, retyped, initial } of plan.columns) {
      const column = identifier(name);
      if (retyped) statements.push(`ALTER TABLE ${into} ALTER COLUMN ${column} TYPE ${type}`);
      if (before !== null) continue;
      const value = initial === null ? '' : ` DEFAULT ${literal(initial)}::${type}`;
      statements.push(`ALTER TABLE ${into} ADD COLUMN ${column} ${type}${value}`);
      // Standing rows have it; what comes later brings its own.
      if (initial !== null) statements.push(`ALTER TABLE ${into} ALTER COLUMN ${column} DROP DEFAULT`);
    }
  }
  return [...statements, storedAsTheyCome(layout.history)];
}

/** Gives the live table the name that the primary's has now. */
async function moveHome(wire: Wire, old: Segment, table: TableName): Promise<TableName> {
  if (old.table === table) return table;
  const [from, to] = [splitName(old.table), splitName(table)];
  await wire.query(`CREATE SCHEMA IF NOT EXISTS ${identifier(to.schema)}`);
  // By way of a name that nobody has: the one it goes to may be taken in the schema it comes from.
  const between = identifier(`${OWN_PREFIX}_moving_${old.id}`);
  await wire.query(`ALTER TABLE ${qualified(old.table)} RENAME TO ${between}`);
  if (from.schema !== to.schema) {
    await wire.query(`ALTER TABLE ${identifier(from.schema)}.${between} SET SCHEMA ${identifier(to.schema)}`);
  }
  await wire.query(`ALTER TABLE ${identifier(to.schema)}.${between} RENAME TO ${identifier(to.name)}`);
  return table;
}

/** Earlier segments of the same tables go on reading their columns under the names they have now. */
function renameIn({ id, stored }: Segment, plan: Plan, home: TableName): string {
  const names = stored.names.map((name) => plan.renamed.get(name) ?? name);
  const now: StoredColumns = { ...stored, names };
  return `UPDATE ${OWN_SCHEMA}.segment SET stored = ${literal(JSON.stringify(now))}, home = ${literal(home)} WHERE id = ${id}`;
}
