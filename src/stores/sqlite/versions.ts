import type { DatabaseSync, SQLInputValue, SQLOutputValue, StatementSync } from 'node:sqlite';
import { type CaptureNumber, captureNumber } from '../../model/capture.ts';
import { type KeyTuple, type Tuple, cellAt, cellsOf, identityOf, keyTuple } from '../../model/tuple.ts';
import type { RowVersion } from '../../shadowing/shadow.ts';
import type { RowChunk, RowLimit } from '../../tracking/primary.ts';
import { FOREIGN_SQL, type Layout, SINCE, UNTIL, columnsOf } from './layout.ts';
import { BrokenText, type ReadForm, keyParameters, packForm, prepareArrays, selectList } from './rows.ts';

/** What finds a key in the live table and in the history, and the values to bind. */
export interface KeyMatch {
  readonly sql: string;
  readonly values: readonly SQLInputValue[];
}

export function matchKey(layout: Layout, key: KeyTuple): KeyMatch {
  const { values, sql } = keyParameters(key);
  return { sql: layout.keys.map((name, i) => `${name} ${layout.keyIsRow ? '=' : 'IS'} ${sql[i]}`).join(' AND '), values };
}

/** Reads the versions of one segment, in whatever transaction is open on the connection. */
export class VersionReader {
  readonly layout: Layout;
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  constructor(db: DatabaseSync, layout: Layout) {
    this.#db = db;
    this.layout = layout;
  }

  /** Rows in key order, as the segment stood at a capture: one range of the key's index for each of its columns. */
  rows(at: CaptureNumber, after: KeyTuple | null, limit: RowLimit): RowChunk {
    return this.inEitherForm((form) => {
      const rows: Tuple[] = [];
      let bytes = 0;
      for (const range of ranges(this.layout, after)) {
        const statement = this.#prepare(this.#selectAt(form, range.sql, ` ORDER BY ${this.#keyOrdinals(form)} LIMIT ?`));
        const bound = [...range.values, at, ...range.values, at, at, limit.rows + 1 - rows.length];
        for (const values of statement.iterate(...bound)) {
          // One row more than fits tells whether this is the end of the table.
          if (rows.length >= limit.rows || (rows.length > 0 && bytes >= limit.bytes))
            return { rows, through: this.keyOf(rows.at(-1) as Tuple) };
          const row = this.pack(values as unknown as SQLOutputValue[], form);
          rows.push(row);
          bytes += row.length;
        }
      }
      return { rows, through: null };
    });
  }

  /** The row of a key as of a capture. SQLite holds 1 and 1.0 for equal: a row whose key has other bytes is not it. */
  rowAt(key: KeyTuple, at: CaptureNumber): Tuple | null {
    const row = this.likeRowAt(key, at);
    return row !== null && this.keyOf(row).equals(key) ? row : null;
  }

  /** As `rowAt`, but for any key that SQLite holds for equal. */
  likeRowAt(key: KeyTuple, at: CaptureNumber): Tuple | null {
    const match = matchKey(this.layout, key);
    return this.inEitherForm((form) => {
      const statement = this.#prepare(this.#selectAt(form, match.sql, ''));
      const values = statement.get(...match.values, at, ...match.values, at, at) as unknown as SQLOutputValue[] | undefined;
      return values === undefined ? null : this.pack(values, form);
    });
  }

  rowsByKey(at: CaptureNumber, keys: readonly KeyTuple[]): Tuple[] {
    const found = new Map<string, Tuple>();
    for (const key of keys) {
      const row = this.rowAt(key, at);
      if (row !== null) found.set(identityOf(key), row);
    }
    return [...found.values()];
  }

  /** The version of a key that a capture reads. A truth that a foreign write took the place of is still the live version. */
  versionAt(key: KeyTuple, at: CaptureNumber): RowVersion | null {
    const { layout } = this;
    const match = matchKey(layout, key);
    return this.inEitherForm((form) => {
      const list = this.#list(form);
      const statement = this.#prepare(
        `SELECT ${list}, ${SINCE}, NULL FROM ${layout.live} AS t WHERE ${match.sql} AND ${SINCE} <= ? UNION ALL ` +
          `SELECT ${list}, ${SINCE}, nullif(${UNTIL}, ${FOREIGN_SQL}) FROM ${layout.history} AS t WHERE ${match.sql} AND ${SINCE} <= ? AND ${UNTIL} > ?`,
      );
      for (const each of statement.iterate(...match.values, at, ...match.values, at, at)) {
        const values = each as unknown as SQLOutputValue[];
        const row = this.pack(values, form);
        if (!this.keyOf(row).equals(key)) continue;
        const until = values.at(-1) as bigint | null;
        return { since: captureNumber(Number(values.at(-2))), until: until === null ? null : captureNumber(Number(until)), row };
      }
      return null;
    });
  }

  /** Rows that a statement selects by `list`, packed; what comes after the columns is handed over as it is. */
  select<T>(sql: (list: string) => string, values: readonly SQLInputValue[], take: (row: Tuple, rest: SQLOutputValue[]) => T): T[] {
    return this.inEitherForm((form) => {
      const width = this.#width(form);
      const statement = this.#prepare(sql(this.#list(form)));
      return Array.from(statement.iterate(...values), (each) => {
        const row = each as unknown as SQLOutputValue[];
        return take(this.pack(row, form), row.slice(width));
      });
    });
  }

  keyOf(row: Tuple): KeyTuple {
    return keyTuple(row, this.layout.segment.schema.key);
  }

  pack(values: readonly SQLOutputValue[], form: ReadForm): Tuple {
    return packForm(values, form, 0, this.layout.columns.length);
  }

  /** Does `read` in plain form, and again in exact form where a text did not come through. */
  inEitherForm<T>(read: (form: ReadForm) => T): T {
    try {
      return read('plain');
    } catch (error) {
      if (error instanceof BrokenText) return read('exact');
      throw error;
    }
  }

  #list(form: ReadForm): string {
    return selectList(
      this.layout.columns.map((column) => `t.${column}`),
      form,
    );
  }

  #width(form: ReadForm): number {
    return this.layout.columns.length * (form === 'exact' ? 2 : 1);
  }

  #selectAt(form: ReadForm, where: string, tail: string): string {
    const { layout } = this;
    const list = this.#list(form);
    // A merge of two sorted scans reads the keys under names of their own: in exact form the columns are expressions.
    const keys = form === 'exact' ? `, ${layout.keys.map((key) => `t.${key}`).join(', ')}` : '';
    return (
      `SELECT ${list}${keys} FROM ${layout.live} AS t WHERE ${where} AND ${SINCE} <= ? UNION ALL ` +
      `SELECT ${list}${keys} FROM ${layout.history} AS t WHERE ${where} AND ${SINCE} <= ? AND ${UNTIL} > ?${tail}`
    );
  }

  /** The key's columns by their place in the result: what a compound select can be ordered by. */
  #keyOrdinals(form: ReadForm): string {
    const { key } = this.layout.segment.schema;
    return key.map((index, i) => (form === 'exact' ? this.#width(form) + i : index) + 1).join(', ');
  }

  #prepare(sql: string): StatementSync {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    const statement = prepareArrays(this.#db, sql);
    this.#statements.set(sql, statement);
    return statement;
  }
}

/** The ranges that together are the keys above `after`, in key order; NULL sorts first. */
function ranges(layout: Layout, after: KeyTuple | null): KeyMatch[] {
  if (after === null) return [{ sql: '1', values: [] }];
  const { values, sql } = keyParameters(after);
  const found: KeyMatch[] = [];
  for (let last = layout.keys.length - 1; last >= 0; last--) {
    const equal = layout.keys.slice(0, last).map((key, i) => `${key} IS ${sql[i]}`);
    const isNull = cellAt(after, last) === null;
    const above = isNull ? `${layout.keys[last]} IS NOT NULL` : `${layout.keys[last]} > ${sql[last]}`;
    found.push({ sql: [...equal, above].join(' AND '), values: values.slice(0, isNull ? last : last + 1) });
  }
  return found;
}

/** Columns of a saved version, in the order history is written. */
export function saveSql(layout: Layout, until: string, where: string): string {
  return (
    `INSERT INTO ${layout.history} (${layout.columns.join(', ')}, ${SINCE}, ${UNTIL}) ` +
    `SELECT ${columnsOf(layout, 't')}, t.${SINCE}, ${until} FROM ${layout.live} AS t WHERE ${where}`
  );
}

/** The values of a whole row as parameters, and for each what stands for it: text that no string carries goes as bytes. */
export function rowParameters(row: Tuple): { values: SQLInputValue[]; sql: string[] } {
  if (cellsOf(row).includes(undefined)) throw new Error('a row of the shadow has no absent columns');
  return keyParameters(row as KeyTuple);
}
