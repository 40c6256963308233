/** A table as its store names it: `orders` in SQLite, `public.orders` in PostgreSQL. */
export type TableName = string & { readonly __brand: 'TableName' };

/** Columns and tables of ours, in any store, begin with this. */
export const OWN_PREFIX = '_foreshadow';

export interface ColumnSchema {
  readonly name: string;
  /** The type as the store writes it in DDL: `numeric(10,2)`, `TEXT`. May be empty in SQLite. */
  readonly type: string;
  readonly nullable: boolean;
  /** Computed by the store: mirrored where its value can be read, never written at a restore. */
  readonly generated: boolean;
  /**
   * Not a column of the user's: it carries the row's identity where the table declares none (SQLite's rowid), is mirrored, and is
   * shown to nobody. Such identities move when the primary is vacuumed, so the table is then resynced by comparison.
   */
  readonly hidden: boolean;
  /** The store's own number of the column, which no other column of the table ever has. Absent where there is none, or it is not known. */
  readonly id?: number | undefined;
  /** Where `type` is a user's own: one of the store's whose values have the same bytes, to show them by. */
  readonly shownAs?: string | undefined;
  /** What its bytes name beside its value: another digest wherever the parts of its type are others. Absent where there is no such thing. */
  readonly made?: string | undefined;
}

export interface TableSchema {
  readonly table: TableName;
  /** The mirrored columns: the cells of a row's tuple, in this order. */
  readonly columns: readonly ColumnSchema[];
  /** Indexes into `columns` of what identifies a row. Never empty. */
  readonly key: readonly number[];
  /**
   * Whether both stores order keys alike (integers, uuids, bytes), so that a range of keys means the same rows in both. Text under
   * a server's collation does not; ranges of such tables are then compared by sets of keys.
   */
  readonly keyOrderShared: boolean;
  /**
   * Set where only its inserts are tracked, and truncates, as nothing identifies a row and policy is content with that: the shadow has every row
   * that was inserted, and does not hear of those that were updated or deleted since.
   */
  readonly insertOnly?: true;
  /** A fingerprint of shape and identity: two schemas with the same shape have interchangeable tuples. */
  readonly shape: string;
  /** For the primary's store alone: by what it recognises the table and its rows again. */
  readonly lineage?: string | undefined;
  /** What rebuilds the table: run before the rows are loaded. */
  readonly create: readonly DdlStatement[];
  /** Run after the rows are loaded: indexes, constraints, identity values, triggers. */
  readonly finish: readonly DdlStatement[];
  /** All but the one of the key, where the primary's store tells them. */
  readonly indexes?: readonly IndexSchema[] | undefined;
}

export interface IndexSchema {
  /** As the primary's store names it. */
  readonly name: string;
  /** As the store writes it in DDL, from the method on and without uniqueness: `btree (customer, at DESC) WHERE (paid)`. */
  readonly definition: string;
  /** Why no mirrored table can have it; null: one may. */
  readonly flaw: string | null;
}

export interface DdlStatement {
  /** What it makes, for progress and errors: `index orders_by_customer`. */
  readonly object: string;
  readonly sql: string;
  /** Objects that may lean on things outside the data set (a view, a trigger's function): a failure is reported, not fatal. */
  readonly mayFail: boolean;
}

/** The data set's structure at one moment of the primary. Pinned by every capture. */
export interface DataSetSchema {
  readonly tables: readonly TableSchema[];
  /** Before any table: schemas, types, sequences, functions. */
  readonly before: readonly DdlStatement[];
  /** After all rows are in: foreign keys between tables, sequence values, views, triggers. */
  readonly after: readonly DdlStatement[];
  /** Tables that belong to the data set and cannot be followed: why, and what to do. */
  readonly refused?: readonly { readonly table: TableName; readonly reason: string }[];
}

export function tableOf(schema: DataSetSchema, table: TableName): TableSchema | undefined {
  return schema.tables.find((each) => each.table === table);
}

/** The columns a person sees, as indexes into a row's tuple. */
export function visibleColumns(schema: TableSchema): number[] {
  return schema.columns.flatMap((column, index) => (column.hidden ? [] : [index]));
}
