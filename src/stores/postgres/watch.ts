import { setTimeout as pause } from 'node:timers/promises';
import type { ShapeChange, TableEvent, TransactionId } from '../../model/change.ts';
import { isKeyless, keylessColumns } from '../../model/copies.ts';
import type { ColumnSchema, TableName, TableSchema } from '../../model/schema.ts';
import type { Tuple } from '../../model/tuple.ts';
import type { CatalogTable, TrackableTable } from './describe.ts';
import { insertsOnly, madeOf, obstacle, shapeOf } from './describe.ts';
import { epochOf, isRewritten, type Lineage, lineageOf, NO_PARTS, partsOf, textOf, withLineage } from './lineage.ts';
import type { RelationMessage } from './pgoutput.ts';
import type { Visibility } from './visibility.ts';
import type { Wire } from './wire.ts';

/** What befell a table, but for its place in the log. */
export interface Noticed {
  readonly kind: TableEvent['kind'];
  readonly table: TableName;
  readonly reason: string;
  readonly change?: Omit<ShapeChange, 'after'>;
}

/** What a table's changes are made into. */
export interface TrackedTable {
  readonly table: TableName;
  /** The key's columns, in the key's order, as indexes into what `complete` makes. */
  readonly key: readonly number[];
  /** Makes a row of the log into one of the table; null: it is one. Set for tables without a key: their identity is the row. */
  readonly complete: ((row: Tuple) => Tuple) | null;
}

/** What became of a relation the stream announced. */
export interface Announced {
  /** Null: not a table of the data set. */
  readonly tracked: TrackedTable | null;
  /** Set where the shape is another than that of the rows before. */
  readonly changed: Noticed | null;
  /** To be called where the transaction that brought it is rolled back: the table has the shape it had before. */
  readonly undo: () => void;
}

/** The transaction that a relation of the stream comes in. */
export interface Reading {
  readonly id: TransactionId;
  /** It has committed; otherwise it is still in progress. */
  readonly ended: boolean;
}

/** What the catalog showed at one moment: all that was visible just before, or more. */
interface Observation {
  readonly visible: Pick<Visibility, 'includes'>;
  /** A position of the log after it was read. */
  readonly end: bigint;
  readonly tables: ReadonlyMap<number, CatalogTable>;
}

interface Standing {
  schema: TableSchema;
  lineage: Lineage | null;
  /** The transaction that showed it; null: the catalog did. What does not show that transaction says nothing against it. */
  by: TransactionId | null;
}

const OBSERVATIONS_MAX = 100;
const CHANGED = 'its columns, their types, its key or its rows were changed by a statement that is not in the log';

/**
 * Follows the shapes of tables along the log. PostgreSQL's log does not tell of DDL: the stream describes a table's columns, without their
 * identities, before the first change after a DDL statement. So the catalog is read then, and now and again; what it shows is set
 * against what the rows of the log have had so far, and takes its place in the log where that is certain: DDL locks out writers, so
 * every row from before it was committed before it.
 */
export class Watch {
  readonly #tables = new Map<TableName, Standing>();
  readonly #byOid = new Map<number, Standing>();
  #observations: Observation[] = [];
  /** Tables that were announced as new. */
  readonly #offered = new Set<number>();

  get tables(): Iterable<TableName> {
    return this.#tables.keys();
  }

  /** Whether a relation of the stream is one of these tables, be it under another name. */
  knows(relation: RelationMessage): boolean {
    return this.#byOid.get(relation.id) !== undefined || this.#tables.has(`${relation.schema}.${relation.name}` as TableName);
  }

  /** Whether a table of the catalog is one of these, be it under another name, and what is to be tracked of it is what is. */
  tracks(table: CatalogTable): boolean {
    const standing = this.#byOid.get(table.oid);
    if (standing !== undefined) return isInsertOnly(standing.schema) === table.insertOnly;
    return this.#tables.get(table.table)?.lineage === null;
  }

  /** Begins anew with the shapes that the log's next rows have: what was said before may not have come to the journal. */
  begin(schemas: readonly TableSchema[]): void {
    this.#offered.clear();
    const known = new Set(schemas.map((schema) => lineageOf(schema)?.oid));
    for (const [table, { lineage }] of Array.from(this.#tables)) if (known.has(lineage?.oid)) this.#drop(table);
    for (const { table } of schemas) this.#drop(table);
    this.add(schemas);
  }

  /** Tables that are tracked from now on. Returns those that were not yet. */
  add(schemas: readonly TableSchema[]): TableName[] {
    const added = schemas.filter(({ table }) => !this.#tables.has(table));
    for (const schema of added) this.#set(schema.table, { schema, lineage: lineageOf(schema), by: null });
    return added.map(({ table }) => table);
  }

  /** The history of the log was broken off: what was seen of the catalog has no place in the one that follows. */
  forget(): void {
    this.#observations = [];
  }

  remove(tables: readonly TableName[]): void {
    for (const table of tables) this.#drop(table);
  }

  /** The schema of a table as the catalog shows it, in the epoch that its rows have here. */
  schemaOf(table: TrackableTable): TableSchema {
    const standing = this.#byOid.get(table.oid);
    const before = standing?.lineage ?? null;
    // Nobody knows this table yet: there is nothing that its rows could have been rewritten from.
    const epoch =
      before === null ? (standing === undefined ? '' : epochOf(table)) : isRewritten(before, table) ? epochOf(table) : before.epoch;
    return withLineage(believed(table, standing?.schema ?? null), epoch);
  }

  /** The catalog as read between two positions of the log. */
  observe(visible: Observation['visible'], end: bigint, tables: readonly CatalogTable[]): void {
    this.#observations.push({ visible, end, tables: new Map(tables.map((table) => [table.oid, table])) });
    if (this.#observations.length > OBSERVATIONS_MAX) this.#observations.shift();
  }

  /** What is to be said before a transaction that commits at `lsn`: the newest observation that it lies behind. */
  due(lsn: bigint, isTracked: (table: CatalogTable) => table is TrackableTable): Noticed[] {
    const index = this.#observations.findLastIndex(({ end }) => end <= lsn);
    const observed = this.#observations[index];
    if (observed === undefined) return [];
    this.#observations = this.#observations.slice(index + 1);
    const noticed: Noticed[] = [];
    const names = new Set(this.#tables.keys());
    for (const [table, standing] of Array.from(this.#tables)) {
      if (standing.by !== null && !observed.visible.includes(standing.by)) continue;
      const now = this.#present(standing, observed.tables);
      // A table that takes the name of another is begun anew under it: the other may not have left it yet.
      const free = now !== undefined && isTracked(now) && (now.table === table || !names.has(now.table));
      if (free && isInsertOnly(this.schemaOf(now)) !== isInsertOnly(standing.schema)) noticed.push(this.#leave(standing));
      else noticed.push(...this.#met(table, standing, free ? now : null));
    }
    const known = new Set(Array.from(this.#tables.values(), ({ lineage }) => lineage?.oid));
    for (const [oid, table] of observed.tables) {
      if (known.has(oid) || this.#tables.has(table.table) || this.#offered.has(oid) || !isTracked(table)) continue;
      this.#offered.add(oid);
      noticed.push({ kind: 'created', table: table.table, reason: 'it was created, or came to the data set' });
    }
    return noticed;
  }

  /** Whether `due` would have anything to say of these tables. */
  differs(tables: readonly CatalogTable[], isTracked: (table: CatalogTable) => table is TrackableTable): boolean {
    const standing = new Set<TableName>();
    for (const table of tables) {
      if (!isTracked(table)) continue;
      const known = this.#byOid.get(table.oid);
      if (known === undefined && !this.#offered.has(table.oid)) return true;
      if (known === undefined) continue;
      if (known.schema.table !== table.table || known.schema.shape !== this.schemaOf(table).shape) return true;
      standing.add(table.table);
    }
    return Array.from(this.#tables.keys()).some((table) => !standing.has(table));
  }

  /**
   * What a relation of the stream means, given the catalog as it is now (null: the table is gone by now), which may be later; 'unseen': the
   * transaction is altering the table, and the catalog does not show it yet. `types` are those of the relation's columns, `by` is the transaction.
   */
  announce(
    relation: RelationMessage,
    types: readonly string[],
    now: TrackableTable | null | 'unseen',
    by: TransactionId,
  ): { readonly schema: TableSchema; readonly noticed: Noticed | null; readonly undo: () => void } | null {
    const name = `${relation.schema}.${relation.name}` as TableName;
    const standing = this.#byOid.get(relation.id) ?? this.#tables.get(name);
    if (standing === undefined) return null;
    const { table } = standing.schema;
    if (standing.lineage !== null && standing.lineage.oid !== relation.id) return null;
    const shown = now === null || now === 'unseen' ? now : alike(now, standing.schema);
    const next = placed(relation, types, standing, shown === null || shown === 'unseen' ? shown : believed(shown, standing.schema));
    const schema = next.schema.table !== table && this.#tables.has(next.schema.table) ? { ...next.schema, table } : next.schema;
    if (schema.shape === standing.schema.shape && schema.table === table) {
      return { schema: standing.schema, noticed: null, undo: () => {} };
    }
    const noticed = changed(standing, schema, next.kept, now === 'unseen' ? null : now);
    const before = { ...standing };
    this.#move(standing, schema, next.lineage, by);
    return { schema, noticed, undo: () => this.#move(standing, before.schema, before.lineage, before.by) };
  }

  /**
   * What is tracked of a table is to be other: all changes where there were inserts only, or the reverse. That is another publication, so it
   * is taken up anew: the copy comes after what the log has of it from then on.
   */
  #leave({ schema: { table }, lineage }: Standing): Noticed {
    this.#tables.delete(table);
    if (lineage !== null) this.#offered.delete(lineage.oid);
    return { kind: 'dropped', table, reason: 'what identifies its rows is other now, or what policy asks of it: it is copied anew' };
  }

  #met(table: TableName, standing: Standing, now: TrackableTable | null): Noticed[] {
    if (now === null) {
      this.#drop(table);
      return [{ kind: 'dropped', table, reason: 'it was dropped, or left the data set' }];
    }
    const schema = this.schemaOf(now);
    const lineage = lineageOf(schema);
    if (schema.shape === standing.schema.shape && schema.table === table) {
      this.#drop(table);
      standing.lineage = lineage;
      this.#set(table, standing);
      return [];
    }
    const kept = standing.lineage !== null && !isRewritten(standing.lineage, now);
    const noticed = changed(standing, schema, kept, now);
    this.#move(standing, schema, lineage, null);
    return [noticed];
  }

  #move(standing: Standing, schema: TableSchema, lineage: Lineage | null, by: TransactionId | null): void {
    this.#drop(standing.schema.table);
    standing.schema = schema;
    standing.lineage = lineage;
    standing.by = by;
    this.#set(schema.table, standing);
  }

  #present({ schema, lineage }: Standing, tables: ReadonlyMap<number, CatalogTable>): CatalogTable | undefined {
    if (lineage !== null) return tables.get(lineage.oid);
    return Array.from(tables.values()).find(({ table }) => table === schema.table);
  }

  #set(table: TableName, standing: Standing): void {
    this.#tables.set(table, standing);
    if (standing.lineage !== null) this.#byOid.set(standing.lineage.oid, standing);
  }

  #drop(table: TableName): void {
    const standing = this.#tables.get(table);
    this.#tables.delete(table);
    const oid = standing?.lineage?.oid;
    if (oid !== undefined && this.#byOid.get(oid) === standing) this.#byOid.delete(oid);
  }
}

function changed({ schema: before }: Standing, to: TableSchema, kept: boolean, now: CatalogTable | null): Noticed {
  const standing = new Set(before.columns.map(({ id }) => id));
  const fresh = to.columns.map(({ id }) => (standing.has(id) ? null : (now?.columns.find((column) => column.id === id) ?? null)));
  const known = to.columns.every(
    ({ id, hidden }, index) => hidden || (id !== undefined && (standing.has(id) || fresh[index]?.initialKnown === true)),
  );
  const initial = fresh.map((column) => column?.initial ?? null);
  const reason = to.table === before.table ? CHANGED : `it is ${to.table} now`;
  return { kind: 'schema-changed', table: before.table, reason, change: { from: before.shape, to, kept: kept && known, initial } };
}

function isInsertOnly({ insertOnly }: TableSchema): boolean {
  return insertOnly === true;
}

/** Where what is tracked of a table is to be other, the log goes on as before until it is: `due` says when. */
function alike(now: TrackableTable, before: TableSchema): TrackableTable | null {
  if (isInsertOnly(before)) return insertsOnly(now);
  return now.insertOnly ? null : now;
}

/**
 * Where the log has whole rows it does not say which of them a key told apart. A key that the table did not have before is then not gone by:
 * rows from before there was one may still be on their way, twice over. Without a key it is followed as exactly, until the log names one
 * (REPLICA IDENTITY DEFAULT or USING INDEX).
 */
function believed(now: TrackableTable, before: TableSchema | null): TrackableTable {
  if (before === null || now.identity !== 'f' || now.key.length === 0) return now;
  const key = now.key.map((name) => now.columns.find((column) => column.name === name)?.id);
  const same = key.length === before.key.length && before.key.every((column, index) => before.columns[column]?.id === key[index]);
  const keyless = { ...now, key: [] };
  return same || obstacle(keyless) !== null ? now : keyless;
}

/** What a relation of the stream is, column by column, as far as the catalog before and after tells. */
function placed(
  relation: RelationMessage,
  types: readonly string[],
  { schema, lineage: before }: Standing,
  catalog: TrackableTable | null | 'unseen',
): { readonly schema: TableSchema; readonly lineage: Lineage | null; readonly kept: boolean } {
  // What the catalog does not show yet may be of any columns.
  const lineage = catalog === 'unseen' ? null : before;
  const now = catalog === 'unseen' ? null : catalog;
  const visible = schema.columns.filter(({ hidden }) => !hidden);
  const certain =
    lineage === null || visible.some(({ id }) => id === undefined) ? null : idsOf(relation.columns.length, visible, lineage, now);
  const ids = certain ?? guessedIds(relation, types, visible, now);
  const rewritten = lineage === null || (now !== null && isRewritten(lineage, now));
  const insertOnly = isInsertOnly(schema);
  const keyless = insertOnly || (relation.identity === 'f' && (now === null ? isKeyless(schema) : now.key.length === 0));
  const parts = now === null ? (before?.parts ?? NO_PARTS) : partsOf(now);
  const named = relation.columns.map(({ name }, index): ColumnSchema => {
    const id = ids?.[index];
    const same = now?.columns.find((column) => column.id === id) ?? schema.columns.find((column) => column.id === id);
    const nullable = same === undefined ? true : 'nullable' in same ? same.nullable : !same.notNull;
    return { name, type: types[index] ?? '', nullable, generated: false, hidden: false, ...(id === undefined ? {} : { id }) };
  });
  const key = keyless ? [] : keyOf(relation, named, schema, now);
  const latest = now === null ? (before?.epoch ?? '') : epochOf(now);
  // Whether the rows at hand are from before or after what the catalog shows is not known: the catalog's own place in the log comes later.
  const guessed = certain === null || rewritten;
  const epoch = guessed ? `${latest}?` : (lineage?.epoch ?? '');
  const shaped = named.map((column, index) => {
    const made = column.id === undefined ? undefined : parts.made[column.id];
    return { id: column.id ?? null, name: column.name, type: column.type, typeOid: relation.columns[index]?.type ?? 0, made };
  });
  const columns = named.map((column, index) => {
    const isLabelled = key.includes(index) && column.id !== undefined && parts.labelled.includes(column.id);
    return { ...column, ...madeOf(shaped[index] as (typeof shaped)[number], keyless, isLabelled ? epoch : null) };
  });
  const names = key.map((index) => columns[index]?.name ?? '');
  const next: Lineage = {
    oid: relation.id,
    lastColumn: Math.max(before?.lastColumn ?? 0, ...(ids ?? [])),
    epoch,
    units: (now ?? before)?.units ?? [],
    parts,
    ...(guessed ? { guessed: true } : {}),
  };
  const table = `${relation.schema}.${relation.name}` as TableName;
  const placedSchema: TableSchema = {
    table,
    columns: keyless ? [...columns, ...keylessColumns('bytea', 'bigint')] : columns,
    key: keyless ? [columns.length] : key,
    keyOrderShared: keyless || key.every((index) => now?.columns.find(({ name }) => name === columns[index]?.name)?.orderShared ?? false),
    ...(insertOnly ? { insertOnly } : {}),
    shape: shapeOf(relation.id, shaped, { key: names, insertOnly, labels: parts.labels }, epoch),
    lineage: textOf(next),
    create: [],
    finish: [],
  };
  return { schema: placedSchema, lineage: next, kept: !guessed };
}

/**
 * The ids of as many columns as a relation has, in their order. The catalog is later than the relation: a statement in between adds
 * columns with ids above all before, or drops some. Null: it may have been one column or another.
 */
function idsOf(count: number, before: readonly ColumnSchema[], lineage: Lineage, now: TrackableTable | null): number[] | null {
  const old = before.map(({ id }) => id as number);
  if (now === null) return count === old.length ? old : null;
  const present = now.columns.map(({ id }) => id);
  const added = present.filter((id) => !old.includes(id));
  const gone = old.filter((id) => !present.includes(id));
  // Added and dropped again since: what the relation has may have been one of these.
  if (now.droppedColumns.some((id) => id > lineage.lastColumn)) return null;
  if (gone.length === 0) return count >= old.length && count <= present.length ? [...old, ...added.slice(0, count - old.length)] : null;
  if (added.length > 0) return null;
  return count === old.length ? old : count === present.length ? present : null;
}

/** Where it may have been one column or another, names tell well enough for rows that are compared before they count. */
function guessedIds(
  relation: RelationMessage,
  types: readonly string[],
  before: readonly ColumnSchema[],
  now: TrackableTable | null,
): number[] | null {
  const known = [...(now?.columns ?? []), ...before];
  const ids = relation.columns.map(({ name }, index) => known.find((column) => column.name === name && column.type === types[index])?.id);
  return ids.every((id) => id !== undefined) && new Set(ids).size === ids.length ? ids : null;
}

/** The stream says which columns are the key, not in which order. */
function keyOf(relation: RelationMessage, columns: readonly ColumnSchema[], before: TableSchema, now: TrackableTable | null): number[] {
  const flagged = relation.columns.flatMap(({ key }, index) => (key ? [index] : []));
  const at = (names: readonly string[]): number[] => names.map((name) => columns.findIndex((column) => column.name === name));
  const matches = (key: readonly number[]): boolean =>
    !key.includes(-1) && (relation.identity === 'f' || (key.length === flagged.length && flagged.every((index) => key.includes(index))));
  const candidates = [
    at(now?.key ?? []),
    before.key.map((index) => columns.findIndex(({ id }) => id !== undefined && id === before.columns[index]?.id)),
  ];
  return candidates.find((key) => key.length > 0 && matches(key)) ?? flagged;
}

const UNSEEN_PAUSE_MS = 5;

/**
 * Waits until the catalog shows what a transaction of the log has done to a table: it is in the log before it is visible, for long where
 * a standby must confirm it. It keeps its locks until then, so one without the lock that altering takes need not be waited for. Nor is
 * one that is still in progress: true if it is altering the table.
 */
export async function untilSeen(wire: Wire, oid: number, { id, ended }: Reading, signal: AbortSignal): Promise<boolean> {
  for (;;) {
    const [found] = await wire.query(
      `SELECT pg_visible_in_snapshot('${id}'::xid8, pg_current_snapshot()), EXISTS (
         SELECT FROM pg_locks t JOIN pg_locks r USING (virtualtransaction)
         WHERE t.locktype = 'transactionid' AND t.granted AND t.mode = 'ExclusiveLock' AND t.transactionid = '${id & 0xffff_ffffn}'::xid
           AND r.locktype = 'relation' AND r.granted AND r.mode = 'AccessExclusiveLock' AND r.relation = ${oid})`,
      signal,
    );
    const [isSeen, isAltering] = found?.rows[0] ?? [];
    if (isSeen === 't' || isAltering !== 't') return false;
    if (!ended) return true;
    await pause(UNSEEN_PAUSE_MS, undefined, { signal });
  }
}
