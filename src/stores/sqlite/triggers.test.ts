import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { position } from '../../model/position.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type Identity, type Tuple, identityOf, keyTuple } from '../../model/tuple.ts';
import { foldBatches } from '../../tracking/primary.contract.ts';
import { type Standing, lastMark, removeAll, settle } from './log.ts';
import { readPoll } from './poll.ts';
import { readRowsAfter, readRowsByKey } from './rows.ts';

const KEYS = [
  'k INTEGER PRIMARY KEY, l',
  'k INTEGER PRIMARY KEY AUTOINCREMENT, l',
  'k INTEGER PRIMARY KEY DESC, l',
  'k TEXT PRIMARY KEY, l',
  'k TEXT NOT NULL PRIMARY KEY, l',
  'k TEXT NOT NULL COLLATE NOCASE PRIMARY KEY, l',
  'k NOT NULL PRIMARY KEY, l',
  'k REAL NOT NULL PRIMARY KEY, l',
  'k NUMERIC PRIMARY KEY, l',
  'k, l, rowid',
  'k, l, oid, _rowid_',
  'k, l',
] as const;

const COMPOSITE_KEYS = [
  'k NOT NULL, l TEXT NOT NULL COLLATE NOCASE, PRIMARY KEY (k, l)',
  'k, l, PRIMARY KEY (l, k)',
  'k INTEGER, l INTEGER, PRIMARY KEY (k COLLATE RTRIM, l)',
] as const;

const INDEXES = [
  'CREATE UNIQUE INDEX i1 ON t (u)',
  'CREATE UNIQUE INDEX i2 ON t (u COLLATE NOCASE)',
  'CREATE UNIQUE INDEX i3 ON t (lower(v) DESC)',
  'CREATE UNIQUE INDEX i4 ON t (u) WHERE w > 0',
  'CREATE UNIQUE INDEX i5 ON t (u, v COLLATE NOCASE ASC)',
  'CREATE UNIQUE INDEX i6 ON t (g)',
  'CREATE UNIQUE INDEX i7 ON t (d, w)',
  'CREATE UNIQUE INDEX i8 ON t (w) WHERE t.u <> "no column"',
  "CREATE UNIQUE INDEX i9 ON t (coalesce(u, 'a,b(') || w, [v]) -- a comment",
  'CREATE UNIQUE INDEX i10 ON t (w + 1.5, "d")',
  "CREATE UNIQUE INDEX i11 ON t (upper(d)) WHERE d IN ('a', 'b', 'dflt')",
  'CREATE UNIQUE INDEX "i ""12" ON t (v, l)',
] as const;

const APP_TRIGGERS = [
  'CREATE TRIGGER app1 AFTER INSERT ON t WHEN NEW.w = 1 BEGIN UPDATE t SET w = 2 WHERE u = NEW.v; END',
  'CREATE TRIGGER app2 BEFORE INSERT ON t WHEN NEW.w = 2 BEGIN DELETE FROM t WHERE u = NEW.v; END',
  'CREATE TRIGGER app3 AFTER UPDATE OF u ON t WHEN NEW.w = 1 BEGIN INSERT OR IGNORE INTO t (k, l, u, v) VALUES (NEW.v, NEW.u, NEW.v, NEW.u); END',
  "CREATE TRIGGER app4 BEFORE UPDATE ON t WHEN NEW.w = 2 BEGIN UPDATE t SET u = 'b' WHERE k = NEW.v; END",
] as const;

const value = fc.constantFrom('NULL', '0', '1', '1.0', '2', '-1', "'a'", "'A'", "'b'", "'1'", "x'61'", "''", "CAST(x'ff61' AS TEXT)");
const resolution = fc.constantFrom('', ' OR REPLACE', ' OR IGNORE', ' OR FAIL', ' OR ABORT', ' OR ROLLBACK');
const column = fc.constantFrom('k', 'l', 'u', 'v', 'w', 'd');
const row = fc.array(value, { minLength: 6, maxLength: 6 });
const listed = '(k, l, u, v, w, d)';

const operation = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(resolution, row).map(([or, cells]) => `INSERT${or} INTO t ${listed} VALUES (${cells.join(', ')})`) },
  {
    weight: 2,
    arbitrary: fc
      .tuple(resolution, value, value)
      .map(([or, u, w]) => `INSERT${or} INTO t (k, u, w) VALUES (abs(random()) % 5, ${u}, ${w})`.replace('abs(random()) % 5', u)),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(resolution, row, fc.constantFrom('rowid', '_rowid_', 'oid'), fc.integer({ min: -2, max: 6 }))
      .map(([or, cells, rowid, n]) => `INSERT${or} INTO t (k, l, u, v, w, ${rowid}) VALUES (${cells.slice(0, 5).join(', ')}, ${n})`),
  },
  {
    weight: 4,
    arbitrary: fc
      .tuple(resolution, column, value, column, value)
      .map(([or, c, v, by, key]) => `UPDATE${or} t SET ${c} = ${v} WHERE ${by} IS ${key}`),
  },
  {
    weight: 2,
    arbitrary: fc
      .tuple(resolution, column, column, column, value)
      .map(([or, c, from, by, key]) => `UPDATE${or} t SET ${c} = ${from}, w = w + 1 WHERE ${by} IS NOT ${key}`),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(resolution, fc.constantFrom('rowid', '_rowid_', 'oid'), fc.integer({ min: -3, max: 3 }))
      .map(([or, rowid, n]) => `UPDATE${or} t SET ${rowid} = ${rowid} + ${n}`),
  },
  { weight: 2, arbitrary: fc.tuple(column, value).map(([by, key]) => `DELETE FROM t WHERE ${by} IS ${key}`) },
  {
    weight: 2,
    arbitrary: fc
      .tuple(row, column, value)
      .map(([cells, c, v]) => `INSERT INTO t ${listed} VALUES (${cells.join(', ')}) ON CONFLICT DO UPDATE SET ${c} = ${v}, v = excluded.u`),
  },
  { weight: 1, arbitrary: row.map((cells) => `INSERT INTO t ${listed} VALUES (${cells.join(', ')}) ON CONFLICT DO NOTHING`) },
  {
    weight: 1,
    arbitrary: row.map((cells) => `REPLACE INTO t ${listed} SELECT ${cells.join(', ')} UNION ALL SELECT k, l, v, u, w, d FROM t`),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(resolution, value, value).map(([or, id, parent]) => `INSERT${or} INTO child VALUES (${id}, ${parent})`),
  },
  { weight: 1, arbitrary: fc.constantFrom('BEGIN', 'COMMIT', 'ROLLBACK', 'SAVEPOINT s', 'ROLLBACK TO s', 'RELEASE s') },
  { weight: 1, arbitrary: fc.constant('DELETE FROM t') },
);

/**
 * In which order SQLite visits the rows of an UPDATE depends on whether the table has triggers, and with it whether a key is hit twice on the
 * way. So both databases have triggers: these do nothing.
 */
const IDLE_TRIGGERS = [
  'CREATE TRIGGER idle1 AFTER UPDATE ON t BEGIN SELECT OLD.k, OLD.l, OLD.u, OLD.v, OLD.w, OLD.d, NEW.k, NEW.l, NEW.u, NEW.v, NEW.w, NEW.d; END',
  'CREATE TRIGGER idle2 AFTER DELETE ON t BEGIN SELECT OLD.k, OLD.l, OLD.u, OLD.v, OLD.w, OLD.d; END',
];

interface World {
  readonly ddl: readonly string[];
  readonly pragmas: readonly string[];
}

const world: fc.Arbitrary<World> = fc
  .record({
    key: fc.oneof(fc.constantFrom(...KEYS), fc.constantFrom(...COMPOSITE_KEYS)),
    withoutRowid: fc.boolean(),
    generated: fc.constantFrom('STORED', 'VIRTUAL'),
    indexes: fc.subarray([...INDEXES], { maxLength: 3 }),
    appTriggers: fc.subarray([...APP_TRIGGERS], { maxLength: 1 }),
    uniqueU: fc.constantFrom('', ' UNIQUE', ' UNIQUE ON CONFLICT REPLACE'),
    recursive: fc.boolean(),
    cascade: fc.constantFrom('CASCADE', 'SET NULL'),
  })
  .map(({ key, withoutRowid, generated, indexes, appTriggers, uniqueU, recursive, cascade }) => {
    const [columns, constraint] = key.split(/, (?=PRIMARY KEY \()/) as [string, string | undefined];
    const strict = withoutRowid && key.includes('PRIMARY KEY') && !key.includes('AUTOINCREMENT') ? ' WITHOUT ROWID' : '';
    const parent = /^k[^,]* PRIMARY KEY/.test(key) ? `REFERENCES t ON DELETE ${cascade} ON UPDATE CASCADE` : '';
    return {
      ddl: [
        `CREATE TABLE t (${columns}, u TEXT${uniqueU}, v, w NUMERIC, d TEXT NOT NULL DEFAULT 'dflt', g AS (lower(u) || w) ${generated}${constraint === undefined ? '' : `, ${constraint}`})${strict}`,
        'CREATE TABLE other (id INTEGER PRIMARY KEY)',
        `CREATE TABLE child (id INTEGER PRIMARY KEY, parent ${parent})`,
        ...indexes,
        ...IDLE_TRIGGERS,
        ...appTriggers,
      ],
      pragmas: [`PRAGMA recursive_triggers = ${recursive ? 1 : 0}`, 'PRAGMA foreign_keys = 1'],
    };
  });

function build({ ddl, pragmas }: World): DatabaseSync {
  const db = new DatabaseSync(':memory:', { readBigInts: true, enableDoubleQuotedStringLiterals: true });
  for (const sql of [...pragmas, ...ddl]) db.exec(sql);
  return db;
}

interface Outcome {
  readonly failure: string | null;
  readonly changed: bigint;
  readonly inserted: bigint;
  readonly open: boolean;
}

/** What the application sees of a statement. */
function outcome(db: DatabaseSync, sql: string): Outcome {
  let failure: string | null = null;
  try {
    db.exec(sql);
  } catch (error) {
    failure = (error as Error).message;
  }
  const sees = db.prepare('SELECT changes() AS changed, last_insert_rowid() AS inserted').get() as Pick<Outcome, 'changed' | 'inserted'>;
  return { failure, ...sees, open: db.isTransaction };
}

function schemaOf(db: DatabaseSync): unknown[] {
  return db.prepare('SELECT type, name, sql FROM sqlite_schema ORDER BY name').all();
}

function byIdentity([a]: [Identity, Tuple], [b]: [Identity, Tuple]): number {
  return a < b ? -1 : 1;
}

function contents(db: DatabaseSync, name: string): unknown[] {
  return db.prepare(`SELECT * FROM ${name}`).all();
}

function rowsOf(db: DatabaseSync, standing: Standing, schema: TableSchema): Map<Identity, Tuple> {
  const tracked = standing.tables.find(({ table }) => table.schema.table === schema.table);
  if (tracked === undefined) throw new Error(`${schema.table} is not tracked`);
  const rows = new Map<Identity, Tuple>();
  for (let after: ReturnType<typeof keyTuple> | null = null; ; ) {
    const chunk = readRowsAfter(db, tracked.table, after, { rows: 2, bytes: 1 << 20 });
    for (const each of chunk.rows) {
      const key = keyTuple(each, schema.key);
      expect(rows.has(identityOf(key))).toBe(false);
      rows.set(identityOf(key), each);
      expect(readRowsByKey(db, tracked.table, [key])).toEqual([each]);
    }
    if (chunk.through === null) return rows;
    after = chunk.through;
  }
}

/** Tracks tables of a database, and at each check expects the changes folded so far to equal what the tables hold. */
function track(db: DatabaseSync, wanted: readonly TableName[]): { check(): void } {
  const standing = settle(db, { wanted, from: null });
  const schema = standing.tables.map(({ table }) => table.schema);
  const folded = new Map(schema.map((table) => [table.table, rowsOf(db, standing, table)]));
  let last = lastMark(db).seq;
  const check = (): void => {
    const through = lastMark(db).seq;
    const items = through === last ? [] : [...readPoll(db, standing.tables, { after: last, through }, '')];
    for (const item of items) {
      const blocks = item.kind === 'batch' ? item.batch.blocks : item.kind === 'piece' ? item.piece.blocks : [];
      const end = position(through);
      foldBatches(schema, [{ blocks: blocks.map((block) => ({ ...block, first: end, last: end, within: null })) }], () => true, folded);
    }
    last = through;
    for (const table of schema) {
      const expected = [...rowsOf(db, standing, table)].toSorted(byIdentity);
      expect([...(folded.get(table.table) ?? [])].toSorted(byIdentity)).toEqual(expected);
    }
  };
  return { check };
}

test.each([
  ['a key that differs by case only', 't (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL)', "'a'", "INSERT OR REPLACE INTO t VALUES ('A')"],
  ['the case of a key changes', 't (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL)', "'a'", "UPDATE t SET k = 'A'"],
  ['a real takes the place of an integer', 't (k PRIMARY KEY NOT NULL)', '1', 'INSERT OR REPLACE INTO t VALUES (1.0)'],
  ['an integer becomes a real', 't (k PRIMARY KEY NOT NULL)', '1', 'UPDATE t SET k = 1.0'],
  ['the same without a rowid', 't (k PRIMARY KEY) WITHOUT ROWID', '1', 'REPLACE INTO t VALUES (1.0)'],
  [
    'a NULL that a default replaces',
    "t (k INTEGER PRIMARY KEY, d TEXT NOT NULL DEFAULT 'x' UNIQUE)",
    "1, 'x'",
    'REPLACE INTO t VALUES (2, NULL)',
  ],
  ['the rowid of another key', 't (k TEXT PRIMARY KEY NOT NULL)', "'a'", "REPLACE INTO t (rowid, k) VALUES (1, 'b')"],
  ['a rowid that moves onto another', 't (k TEXT PRIMARY KEY NOT NULL)', "'a'), ('b'", "UPDATE OR REPLACE t SET rowid = 1 WHERE k = 'b'"],
  ['a key that moves onto another', 't (k INTEGER PRIMARY KEY, v)', '1, 1), (2, 2', 'UPDATE OR REPLACE t SET k = 1 WHERE k = 2'],
  ['rows without a key, one alike', 't (u UNIQUE, v)', "1, 'x'), (NULL, 'x'), (NULL, 'x'", "REPLACE INTO t VALUES (1, 'y')"],
  ['a NULL in a key', 't (k TEXT PRIMARY KEY, v)', "NULL, 1), (NULL, 2), ('a', 3", "UPDATE t SET k = 'b' WHERE v = 1"],
  ['a key that becomes NULL', 't (k TEXT PRIMARY KEY, v)', "'a', 1), ('b', 2", 'UPDATE t SET k = NULL'],
  [
    'a generated column',
    't (k INTEGER PRIMARY KEY, v, g AS (v % 10) UNIQUE)',
    '1, 7',
    'UPDATE OR REPLACE t SET v = v; REPLACE INTO t VALUES (2, 17)',
  ],
  ['a table called NEW', '"new" (k INTEGER PRIMARY KEY, v UNIQUE)', '1, 7', 'REPLACE INTO "new" VALUES (2, 7)'],
  ['broken text in a key', 't (k TEXT PRIMARY KEY NOT NULL)', "CAST(x'ff' AS TEXT)", "UPDATE t SET k = CAST(x'fe' AS TEXT)"],
])('%s', (_, table, rows, statement) => {
  using db = new DatabaseSync(':memory:', { readBigInts: true });
  const name = table.startsWith('"new"') ? 'new' : 't';
  db.exec(`CREATE TABLE ${table}; INSERT INTO "${name}" VALUES (${rows})`);
  const tracked = track(db, [name as TableName]);
  tracked.check();
  db.exec(statement);
  tracked.check();
});

test('a program that attaches the file, trusts no schema and asks for no triggers of its own is tracked too', () => {
  const directory = mkdtempSync(join(tmpdir(), 'foreshadow-triggers-'));
  try {
    const path = join(directory, 'shop.db');
    using db = new DatabaseSync(path, { readBigInts: true });
    db.exec('CREATE TABLE t (k INTEGER PRIMARY KEY, v UNIQUE)');
    const tracked = track(db, ['t' as TableName]);
    using other = new DatabaseSync(':memory:', { enableDoubleQuotedStringLiterals: false });
    other.exec('PRAGMA trusted_schema = 0; CREATE TABLE t (k, v); CREATE TABLE _foreshadow_log (x)');
    other.prepare('ATTACH ? AS shop').run(path);
    other.exec("INSERT INTO shop.t VALUES (1, 'a'), (2, 'b'); REPLACE INTO shop.t VALUES (3, 'a'); UPDATE shop.t SET k = 9 WHERE k = 2");
    tracked.check();
    expect(other.prepare('SELECT count(*) AS n FROM main._foreshadow_log').get()).toEqual({ n: 0 });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test('tables and columns can be renamed, added and dropped while tracked', () => {
  using db = new DatabaseSync(':memory:', { readBigInts: true });
  db.exec(`CREATE TABLE t (k TEXT PRIMARY KEY, a, b, c UNIQUE); CREATE UNIQUE INDEX i ON t (lower(a) || b) WHERE t.b > 'b'`);
  settle(db, { wanted: ['t' as TableName], from: null });
  db.exec(`ALTER TABLE t RENAME COLUMN a TO "new a"; ALTER TABLE t RENAME COLUMN b TO bb; ALTER TABLE t ADD COLUMN d;
    ALTER TABLE t DROP COLUMN d; ALTER TABLE t RENAME TO s; INSERT INTO s VALUES ('x', 'A', 'z', 1); REPLACE INTO s VALUES ('y', 'a', 'z', 2)`);
  expect(db.prepare('SELECT k FROM s').all()).toEqual([{ k: 'y' }]);
});

test('folding every change equals the tables, and the application notices nothing', () => {
  fc.assert(
    fc.property(world, fc.array(operation, { maxLength: 40 }), fc.integer({ min: 1, max: 12 }), (made, operations, pollEvery) => {
      using db = build(made);
      using twin = build(made);
      const wanted = ['t', 'child'] as TableName[];
      const tracked = track(db, wanted);
      // Installing itself may be seen by its own connection: from here on nothing may.
      for (const each of [db, twin]) each.exec('INSERT INTO other VALUES (7)');
      let insertedIsDefined = true;
      for (const [at, sql] of operations.entries()) {
        const [seen, expected] = [outcome(db, sql), outcome(twin, sql)];
        // SQLite itself leaves the last rowid of a failed insert in one of two states, whether or not there are triggers of ours.
        if (expected.failure !== null) insertedIsDefined = false;
        expect({ sql, ...seen, inserted: insertedIsDefined && seen.inserted }).toEqual({
          sql,
          ...expected,
          inserted: insertedIsDefined && expected.inserted,
        });
        if (!db.isTransaction && at % pollEvery === 0) tracked.check();
      }
      if (db.isTransaction) for (const each of [db, twin]) each.exec('ROLLBACK');
      tracked.check();
      for (const name of wanted) expect(contents(db, name)).toEqual(contents(twin, name));
      removeAll(db);
      expect(schemaOf(db)).toEqual(schemaOf(twin));
    }),
    { numRuns: Number(process.env.PROPERTY_RUNS ?? 250) },
  );
});
