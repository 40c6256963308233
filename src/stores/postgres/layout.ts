import { isKeyless } from '../../model/copies.ts';
import { type CaptureNumber, FOREIGN } from '../../model/capture.ts';
import { OWN_PREFIX, type TableName, type TableSchema } from '../../model/schema.ts';
import type { KeyTuple } from '../../model/tuple.ts';
import { cellsOf } from '../../model/tuple.ts';
import { identifier } from './connection.ts';
import type { Parameter } from './messages.ts';
import type { PackedColumn } from './inserted.ts';
import type { OidShapes } from './type-oids.ts';

/** The schema of the shadow's database that holds everything of ours. */
export const OWN_SCHEMA = OWN_PREFIX;
export const SINCE = identifier(`${OWN_PREFIX}_since`);
export const UNTIL = identifier(`${OWN_PREFIX}_until`);

/** In the notes of the guard: the transaction that wrote last. */
export const WRITER = identifier(`${OWN_PREFIX}_writer`);

/** How the keys of one column are compared: an operator outside pg_catalog (citext's) is not found through the search path. */
export interface KeyOperators {
  readonly equal: string;
  readonly greater: string;
}

/** What this database knows of a segment's types. */
export interface SegmentTypes {
  /** One for each column of the key. */
  readonly operators: readonly KeyOperators[];
  /** How inserted keys are packed; null where a type of the key has no arrays. */
  readonly packed: readonly PackedColumn[] | null;
  readonly oids: OidShapes;
  /** Types that have other parts on the primary by now: what the shadow calls those of these rows (`made-types.ts`). */
  readonly renamed?: Readonly<Record<string, string>>;
}

/** A stretch of a table's history that has one shape: its row in `_foreshadow.segment`. */
export interface Segment {
  readonly id: number;
  readonly table: TableName;
  readonly schema: TableSchema;
  readonly types: SegmentTypes;
  readonly first: CaptureNumber;
  /** Null while it is live. */
  readonly last: CaptureNumber | null;
  /** Segments that followed one another in place share their tables: the id of the first of them, which named the tables. */
  readonly storage: number;
  /** The live table in which its rows stand, by the name it has now. Null: retired, and put aside in our own schema. */
  readonly home: TableName | null;
  readonly stored: StoredColumns;
}

/** How a segment's columns stand in tables that it shares with segments of other shapes. */
export interface StoredColumns {
  /** The present name of each column of the segment's schema. */
  readonly names: readonly string[];
  /** Columns of the other segments: saved with every version, as earlier captures read them. */
  readonly others: readonly string[];
  /** The first capture that reads these tables. */
  readonly began: CaptureNumber;
}

/** Types of a few bytes, always the same. */
const SHORT = /^(smallint|integer|bigint|boolean|real|double precision|date|time|timestamp|uuid|money|oid)\b(?!.*\]$)/;

/** A type without its limits: a cast cuts off without a word what is too long for it, where writing it into the column fails. */
function unlimited(type: string): string {
  if (type.includes('"')) return type;
  // Without theirs these two mean one character, one bit.
  const open = type.replace(/^character\(\d+\)/, 'bpchar').replace(/^bit\(\d+\)/, 'pg_catalog."bit"');
  return open.replace(/\(\d+(,-?\d+)?\)/, '');
}

/** Splits `schema.table` as tables of PostgreSQL are named; a name without a schema lies in `public`. */
export function splitName(table: TableName): { schema: string; name: string } {
  const dot = table.indexOf('.');
  return dot < 0 ? { schema: 'public', name: table } : { schema: table.slice(0, dot), name: table.slice(dot + 1) };
}

export function qualified(table: TableName): string {
  const { schema, name } = splitName(table);
  return `${identifier(schema)}.${identifier(name)}`;
}

/** What a retired segment's rows are renamed to. */
export function retiredName(id: number): string {
  return `${OWN_PREFIX}_segment_${id}`;
}

/**
 * Where the rows of a segment are and how its SQL is spelled. A history row with since = FOREIGN is a *marker*: it says that the
 * key did not exist before `until`, so that every key changed by a capture is found in the history, or in the packs of inserted keys
 * (`inserted.ts`), by `until` alone, which ascends as rows are added and needs no more than a BRIN index. No read of a capture meets
 * a marker, as no capture reaches FOREIGN.
 */
export class Layout {
  readonly segment: Segment;
  readonly live: string;
  readonly history: string;
  /** Keys that somebody else wrote to: kept by the guard. */
  readonly notes: string;
  readonly stage: string;
  readonly gone: string;
  /** Quoted names, as they are in the tables: the schema may name them otherwise. */
  readonly columns: readonly string[];
  readonly saved: readonly string[];
  readonly key: readonly string[];

  constructor(segment: Segment) {
    const { id, schema, storage, home, stored } = segment;
    this.segment = segment;
    this.live = home === null ? `${OWN_SCHEMA}.${identifier(retiredName(storage))}` : qualified(home);
    this.history = `${OWN_SCHEMA}.history_${storage}`;
    this.notes = `${OWN_SCHEMA}.foreign_${storage}`;
    this.stage = `pg_temp.stage_${id}`;
    this.gone = `pg_temp.gone_${id}`;
    this.columns = stored.names.map(identifier);
    this.saved = [...this.columns, ...stored.others.map(identifier)];
    this.key = schema.key.map((index) => this.columns[index] as string);
  }

  /** Of a version as it is saved: with the columns that only earlier captures read. */
  savedList(alias: string): string {
    return this.saved.map((name) => `${alias}.${name}`).join(', ');
  }

  /** Where a saved version is put: its columns, and the two of ours. */
  get intoHistory(): string {
    return `${this.history} (${this.saved.join(', ')}, ${SINCE}, ${UNTIL})`;
  }

  list(alias: string): string {
    return this.columns.map((name) => `${alias}.${name}`).join(', ');
  }

  keyList(alias: string): string {
    return this.key.map((name) => `${alias}.${name}`).join(', ');
  }

  /** True where both have the same key, by the types' own equality. */
  sameKey(a: string, b: string): string {
    return this.key.map((name, index) => `${a}.${name} ${this.#operators(index).equal} ${b}.${name}`).join(' AND ');
  }

  /** Compares with a key given as parameters $1, $2 …: see `keyParameters`. */
  keyIs(alias: string): string {
    return this.key.map((name, index) => `${alias}.${name} ${this.#operators(index).equal} ${this.#parameter(index)}`).join(' AND ');
  }

  keyIsAfter(alias: string): string {
    const builtIn = this.segment.types.operators.every((each) => each.greater === 'OPERATOR(pg_catalog.>)');
    if (builtIn) {
      return `ROW(${this.keyList(alias)}) > ROW(${this.keyCasts()})`;
    }
    const alternatives = this.key.map((name, index) => {
      const before = this.key.slice(0, index).map((each, i) => `${alias}.${each} ${this.#operators(i).equal} ${this.#parameter(i)}`);
      return [...before, `${alias}.${name} ${this.#operators(index).greater} ${this.#parameter(index)}`].join(' AND ');
    });
    return `(${alternatives.map((each) => `(${each})`).join(' OR ')})`;
  }

  /** The key given as parameters, as expressions. */
  keyCasts(): string {
    return this.key.map((_, index) => this.#parameter(index)).join(', ');
  }

  /** A column's value given as the parameter of this index. */
  columnCast(column: number, parameter: number): string {
    const { schema, types } = this.segment;
    const type = schema.columns[column]?.type ?? '';
    return `$${parameter + 1}::${types.renamed?.[type] ?? unlimited(type)}`;
  }

  keyParameters(key: KeyTuple): Parameter[] {
    return cellsOf(key).map((cell) => {
      if (cell === undefined) throw new RangeError(`a key of ${this.segment.table} has an absent column`);
      return { type: 0, value: cell };
    });
  }

  /** The assignments of an INSERT's ON CONFLICT DO UPDATE. */
  overwrite(columns: readonly string[]): string {
    return [...columns, SINCE].map((name) => `${name} = excluded.${name}`).join(', ');
  }

  /**
   * The images of two rows differ: types without equality, the scale of a numeric, the sign of a zero count. Long values are looked at
   * only where the short ones are equal, for a record takes them in whole: fetched from where they lie out of line, and decompressed.
   */
  differs(a: string, b: string, columns: readonly string[] = this.columns): string {
    const short = columns.filter((name) => this.#isShort(name));
    const long = columns.filter((name) => !this.#isShort(name));
    const row = (alias: string, names: readonly string[]): string => `ROW(${names.map((name) => `${alias}.${name}`).join(', ')})::record`;
    const images = [short, long].filter((names) => names.length > 0);
    return `(${images.map((names) => `${row(a, names)} OPERATOR(pg_catalog.*<>) ${row(b, names)}`).join(' OR ')})`;
  }

  /**
   * Rows as of a capture, with the columns of the table; `where` is a condition on the alias `r`. `first`: only so many of either table, in
   * the order of the key. A planner does not see through the union to the indexes that have that order, and would sort all there is.
   */
  asOf(at: CaptureNumber, where = 'true', first: number | null = null): string {
    const some = first === null ? '' : ` ORDER BY ${this.keyList('r')} LIMIT ${first}`;
    return (
      `(SELECT ${this.list('r')} FROM ${this.live} r WHERE r.${SINCE} <= ${at} AND ${where}${some})` +
      ` UNION ALL (SELECT ${this.list('r')} FROM ${this.history} r WHERE r.${SINCE} <= ${at} AND r.${UNTIL} > ${at} AND ${where}${some})`
    );
  }

  /** What to join rows of ours with, so that each comes as often as the table holds it: for people, who see no count of copies. */
  unfolded(alias: string): string {
    return isKeyless(this.segment.schema) ? `, generate_series(1, ${alias}.${this.columns.at(-1) ?? ''})` : '';
  }

  /** The type of a mirrored column as DDL; keys are compared by their bytes, as identities are everywhere else. */
  columnDefinitions(only: 'all' | 'key', collatable: ReadonlySet<number>): string {
    const indexes = only === 'all' ? this.columns.map((_, index) => index) : this.segment.schema.key;
    return indexes
      .map((index) => {
        const collation = this.segment.schema.key.includes(index) && collatable.has(index) ? ' COLLATE pg_catalog."C"' : '';
        return `${this.columns[index]} ${this.segment.schema.columns[index]?.type}${collation}`;
      })
      .join(', ');
  }

  /** How values of a column of the key are compared for equality. */
  operator(index: number): string {
    return this.#operators(index).equal;
  }

  #isShort(name: string): boolean {
    return SHORT.test(this.segment.schema.columns[this.columns.indexOf(name)]?.type ?? '');
  }

  #operators(index: number): KeyOperators {
    return this.segment.types.operators[index] as KeyOperators;
  }

  #parameter(index: number): string {
    return this.columnCast(this.segment.schema.key[index] as number, index);
  }
}

export const FOREIGN_LITERAL = `${FOREIGN}::bigint`;
