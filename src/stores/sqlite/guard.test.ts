import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Tuple } from '../../model/tuple.ts';
import { ShadowSession, type TableShape, never, note, notes } from '../../shadowing/shadow-session.contract.ts';
import { openSqlite } from './connection.ts';
import { openSqliteFixture } from './shadow-fixture.contract.ts';

const BY_NUMBER: TableShape = {
  columns: [
    { name: 'id', type: 'integer' },
    { name: 'name', type: 'text' },
  ],
  key: ['id'],
};
const BY_TEXT: TableShape = { ...BY_NUMBER, key: ['name'] };

/** What SQLite's own statements can do to a guarded table, whatever clause they carry. */
const STATEMENTS = [
  'INSERT OR REPLACE INTO items (id, name) VALUES ($a, $x)',
  'INSERT OR IGNORE INTO items (id, name) VALUES ($a, $x)',
  'INSERT INTO items (id, name) VALUES ($a, $x) ON CONFLICT DO NOTHING',
  'REPLACE INTO items (id, name) SELECT id + 1, name FROM items',
  'UPDATE OR REPLACE items SET id = $b, name = $x WHERE id = $a',
  'UPDATE OR IGNORE items SET id = $b, name = $x WHERE id = $a',
  'UPDATE OR REPLACE items SET name = $x WHERE id <= $b',
  'UPDATE items SET name = name',
  'DELETE FROM items WHERE id = $a',
  'DELETE FROM items',
  'INSERT OR REPLACE INTO items SELECT * FROM copy',
  'CREATE TABLE IF NOT EXISTS copy AS SELECT * FROM items',
];

describe.each([
  ['an integer key', BY_NUMBER],
  ['a text key', BY_TEXT],
])('the guard over %s', (_, shape) => {
  let s: ShadowSession;
  let path: string;
  const row = (id: number, name: string): Tuple => s.fixture.tuple([BigInt(id), name]);

  beforeEach(async () => {
    const fixture = await openSqliteFixture(mkdtempSync(join(tmpdir(), 'foreshadow-guard-')));
    path = fixture.path;
    s = await ShadowSession.start(fixture, shape);
  });
  afterEach(async () => {
    await s.close();
  });

  const foreigner = (recursive = false): DatabaseSync => {
    const db = openSqlite(path, { role: 'shadow' });
    if (recursive) db.exec('PRAGMA recursive_triggers = ON');
    return db;
  };

  test('whatever another program does, every capture reads the truth, and undoing brings the table back', async () => {
    const step = fc.record({ sql: fc.constantFrom(...STATEMENTS), a: fc.nat(4), b: fc.nat(4), x: fc.constantFrom('a', 'b', 'z') });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 6 }), fc.boolean(), async (steps, recursive) => {
        await s.retire(s.schema);
        const truth = [row(0, 'a'), row(1, 'b'), row(2, 'c'), row(3, 'd')];
        await s.apply({ puts: truth });
        const before = await s.capture();
        {
          using db = foreigner(recursive);
          db.exec('DROP TABLE IF EXISTS copy; CREATE TABLE copy AS SELECT * FROM items');
          for (const { sql, a, b, x } of steps) {
            const statement = db.prepare(sql);
            statement.setAllowUnknownNamedParameters(true);
            statement.run({ $a: a, $b: b, $x: x });
          }
        }
        expect(await s.rowsAt(before)).toEqual(notes(truth));
        expect(await s.live()).toEqual(notes(truth));
        const found = await s.shadow.foreignRows(s.schema.table, 100, never);
        await s.shadow.undoForeign(
          s.schema.table,
          found.map((each) => each.key),
        );
        expect(await s.live()).toEqual(notes(truth));
        expect(await s.shadow.foreignRows(s.schema.table, 100, never)).toEqual([]);
        await s.apply({ puts: [row(1, 'b'), row(9, 'new')], deletes: [s.keyOf(row(2, 'c'))] });
        expect(await s.live()).toEqual(notes([row(0, 'a'), row(1, 'b'), row(3, 'd'), row(9, 'new')]));
        expect(await s.rowsAt(before)).toEqual(notes(truth));
      }),
      { numRuns: 40 },
    );
  });

  test('their statements see what they would see without it', async () => {
    await s.apply({ puts: [row(1, 'a'), row(2, 'b')] });
    using db = foreigner();
    expect(db.prepare("UPDATE items SET name = name || '!'").run().changes).toBe(2n);
    expect(db.prepare("INSERT INTO items (id, name) VALUES (7, 'x')").run().changes).toBe(1n);
    expect(db.prepare("REPLACE INTO items (id, name) VALUES (7, 'y')").run().changes).toBe(1n);
    expect(db.prepare('DELETE FROM items').run().changes).toBe(shape === BY_NUMBER ? 3n : 4n);
    expect(db.prepare('SELECT count(*) AS n FROM items').get()).toEqual({ n: 0n });
  });

  test('a statement they roll back leaves no trace', async () => {
    await s.apply({ puts: [row(1, 'a')] });
    {
      using db = foreigner();
      db.exec("BEGIN; UPDATE items SET name = 'x'; DELETE FROM items; ROLLBACK");
      expect(() => db.exec("INSERT INTO items (id, name) VALUES (8, 'q'), (1, 'a')")).toThrow(/UNIQUE/u);
    }
    expect(await s.shadow.foreignRows(s.schema.table, 10, never)).toEqual([]);
    expect(await s.live()).toEqual(notes([row(1, 'a')]));
  });

  test('a retired segment is closed to others, and says so', async () => {
    await s.apply({ puts: [row(1, 'a')] });
    const one = await s.capture();
    await s.retire(s.schema);
    using db = foreigner();
    const { name } = db
      .prepare("SELECT name FROM sqlite_schema WHERE name LIKE '_foreshadow_segment_%_items' AND type = 'table'")
      .get() as { name: string };
    expect(() => db.exec(`DELETE FROM "${name}"`)).toThrow(/read-only/u);
    expect((await s.page(one, 10)).map(note)).toEqual([note(row(1, 'a'))]);
  });
});
