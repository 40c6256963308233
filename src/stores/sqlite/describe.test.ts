import { DatabaseSync } from 'node:sqlite';
import { expect, test } from 'vitest';
import type { TableName } from '../../model/schema.ts';
import { describeDatabase, describeTable } from './describe.ts';
import { parseIndexSql } from './index-sql.ts';
import { settle } from './log.ts';

function database(sql: string): DatabaseSync {
  const db = new DatabaseSync(':memory:', { readBigInts: true, enableDoubleQuotedStringLiterals: true });
  db.exec(sql);
  return db;
}

function shapeOf(sql: string): string | undefined {
  using db = database(sql);
  return describeTable(db, 't' as TableName)?.schema.shape;
}

const ALL = { include: ['*'], exclude: [] };

test.each([
  ['t (id INTEGER PRIMARY KEY, v)', 'rowid', ['id']],
  ['t (id INT PRIMARY KEY, v)', 'nullable', ['id', '_foreshadow_rowid']],
  ['t (id INT NOT NULL PRIMARY KEY, v)', 'columns', ['id']],
  ['t (id INTEGER PRIMARY KEY DESC, v)', 'nullable', ['id', '_foreshadow_rowid']],
  ['t (v, b INTEGER, a TEXT, PRIMARY KEY (a, b))', 'nullable', ['a', 'b', '_foreshadow_rowid']],
  ['t (v, b INTEGER, a TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID', 'columns', ['a', 'b']],
  ['t (a TEXT PRIMARY KEY, v ANY) STRICT', 'columns', ['a']],
  ['t (v)', 'hidden', ['_foreshadow_rowid']],
  ['t (rowid, _ROWID_, v)', 'hidden', ['_foreshadow_rowid']],
] as const)('%s is identified by %s', (sql, identity, key) => {
  using db = database(`CREATE TABLE ${sql}`);
  const table = describeTable(db, 't' as TableName);
  expect(table?.identity).toBe(identity);
  expect(table?.schema.key.map((index) => table.schema.columns[index]?.name)).toEqual(key);
});

test('shape follows columns, types and key, and nothing else', () => {
  const shape = shapeOf('CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)');
  expect(
    shapeOf("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT DEFAULT 'x'); CREATE INDEX i ON t (v); INSERT INTO t VALUES (1, 'a')"),
  ).toBe(shape);
  for (const other of [
    'id INTEGER PRIMARY KEY, v',
    'id INTEGER PRIMARY KEY, w TEXT',
    'v TEXT, id INTEGER PRIMARY KEY',
    'id INTEGER, v TEXT PRIMARY KEY',
  ]) {
    expect(shapeOf(`CREATE TABLE t (${other})`)).not.toBe(shape);
  }
});

test('what a restore needs comes in order, and nothing of ours', () => {
  using db = database(`CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, total REAL, twice AS (total * 2));
    CREATE TABLE excluded (x); CREATE INDEX by_total ON orders (total); CREATE VIEW big AS SELECT * FROM orders WHERE total > 10;
    CREATE TRIGGER on_view INSTEAD OF DELETE ON big BEGIN DELETE FROM orders WHERE id = OLD.id; END;
    CREATE TRIGGER on_excluded AFTER INSERT ON excluded BEGIN DELETE FROM orders; END;
    INSERT INTO orders (total) VALUES (1), (2); DELETE FROM orders WHERE id = 2`);
  const selection = { include: ['*'], exclude: ['excl*'] };
  settle(db, { wanted: ['orders' as TableName], from: null });
  const { schema } = describeDatabase(db, selection);
  expect(schema.tables.map((table) => table.table)).toEqual(['orders']);
  expect(schema.tables[0]?.columns.map((column) => [column.name, column.generated])).toEqual([
    ['id', false],
    ['total', false],
    ['twice', true],
  ]);
  expect(schema.tables[0]?.finish.map((statement) => statement.sql)).toEqual([
    'CREATE INDEX by_total ON orders (total)',
    "DELETE FROM sqlite_sequence WHERE name = 'orders'",
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('orders', 2)",
  ]);
  expect(schema.after.map((statement) => statement.object)).toEqual(['view big', 'trigger on_view']);
});

test('text in UTF-16 has an order of its own', () => {
  using db = database("PRAGMA encoding = 'UTF-16'; CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL)");
  expect(describeDatabase(db, ALL).schema.tables[0]?.keyOrderShared).toBe(false);
});

test('an index is taken apart as SQLite reads it', () => {
  const sql = `CREATE UNIQUE INDEX "odd (name" ON t (a DESC, lower( "B" ) COLLATE nocase ASC, 'x,)' || [c d], /* , */ 1.5 * a -- ,
    ) WHERE a <> "not a column" AND x'00' < "b"`;
  expect(parseIndexSql(sql, ['a', 'b', 'c d', 'other'])).toEqual({
    terms: ['a', 'lower( "B" )', "'x,)' || [c d]", '1.5 * a'],
    where: "a <> 'not a column' AND x'00' < \"b\"",
    mentions: ['a', 'b', 'c d'],
  });
  expect(parseIndexSql('CREATE UNIQUE INDEX i ON t(a)', ['a'])).toEqual({ terms: ['a'], where: null, mentions: ['a'] });
});
