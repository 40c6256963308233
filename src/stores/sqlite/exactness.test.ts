import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync, type SQLOutputValue } from 'node:sqlite';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type Cell, type Tuple, keyTuple, packTuple } from '../../model/tuple.ts';
import { ShadowSession, never, note, notes } from '../../shadowing/shadow-session.contract.ts';
import { encodeCell, textCell } from './cell.ts';
import { openSqliteRestoreTarget } from './restore-target.ts';
import { literal } from './script.ts';
import { openSqliteFixture } from './shadow-fixture.contract.ts';

const anyCell: fc.Arbitrary<Cell> = fc.oneof(
  fc.constant(null),
  fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }).map(encodeCell),
  fc.constantFrom(1n, -(1n << 63n), 0n).map(encodeCell),
  fc.double({ noNaN: true }).map(encodeCell),
  fc.constantFrom(1, 0, -0, Infinity, -Infinity, 1e21, 5e-324).map(encodeCell),
  fc.string({ unit: 'binary' }).map(encodeCell),
  fc.constantFrom('', '1', "it's", 'a\0b', '1.0', '\uFFFD').map(encodeCell),
  fc.uint8Array({ maxLength: 20 }).map(encodeCell),
  fc.uint8Array({ minLength: 1, maxLength: 6 }).map(textCell),
);

/** A table keyed as SQLite's loosest are: a declared key that may be NULL, told apart by the row's own number. */
const LOOSE: TableSchema = {
  table: 'loose' as TableName,
  columns: ['a', 'b', '_foreshadow_rowid', 'v'].map((name) => ({
    name,
    type: 'ANY',
    nullable: true,
    generated: false,
    hidden: name === '_foreshadow_rowid',
  })),
  key: [0, 1, 2],
  keyOrderShared: true,
  shape: 'loose',
  create: [{ object: 'table loose', sql: 'CREATE TABLE loose (a ANY, b ANY, v ANY) STRICT', mayFail: false }],
  finish: [],
};

let directory: string;
let s: ShadowSession;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'foreshadow-exact-'));
  s = await ShadowSession.start(await openSqliteFixture(directory), { columns: [{ name: 'id', type: 'integer' }], key: ['id'] });
  await s.shadow.prepare({ tables: [LOOSE], before: [], after: [] }, s.progress);
  s.schema = LOOSE;
});
afterEach(async () => {
  await s.close();
});

describe('exactness', () => {
  test('every storage class comes back with the same bytes, under keys of any kind, with NULL among them', async () => {
    const rows = fc.uniqueArray(fc.tuple(anyCell, anyCell, anyCell), {
      selector: ([a, b]) => sameToSqlite(a) + sameToSqlite(b),
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(rows, rows, async (first, second) => {
        await s.retire(LOOSE);
        const one = first.map(looseRow);
        const two = second.map(looseRow);
        await s.apply({ puts: one });
        const before = await s.capture();
        await s.apply({ deletes: one.map((row) => keyTuple(row, LOOSE.key)) });
        expect(await s.live()).toEqual([]);
        await s.apply({ puts: two });
        const after = await s.capture();
        for (const size of [1, 5, 100]) {
          expect(notes(await s.page(before, size))).toEqual(notes(one));
          expect(notes(await s.page(after, size))).toEqual(notes(two));
        }
        for (const row of two) {
          const key = keyTuple(row, LOOSE.key);
          expect(notes(await s.shadow.rowsByKey(LOOSE.table, after, [key], never))).toEqual([note(row)]);
        }
        expect(await s.apply({ puts: two })).toMatchObject({ inserted: 0, deleted: 0 });
        expect(notes(await s.page(after, 100))).toEqual(notes(two));
        expect(await s.diff(before, after)).toHaveLength(differing(one, two));
      }),
      { numRuns: 60 },
    );
  });

  test('a literal gives back the cell it was made of', () => {
    using db = new DatabaseSync(':memory:', { readBigInts: true });
    fc.assert(
      fc.property(anyCell, (cell) => {
        const read = db.prepare(`SELECT typeof(v) AS kind, CAST(v AS BLOB) AS bytes, v FROM (SELECT ${literal(cell)} AS v)`).get() as {
          kind: string;
          bytes: Uint8Array;
          v: SQLOutputValue;
        };
        const back = read.kind === 'text' ? textCell(read.bytes) : encodeCell(read.v);
        expect(back).toEqual(cell);
      }),
      { numRuns: 2000 },
    );
  });

  test('script and restore write what the capture holds, without hidden columns', async () => {
    const rows = [
      looseRow([encodeCell(1n), null, encodeCell('a\0b')], 0),
      looseRow([encodeCell(1), textCell(Buffer.from([0x61, 0xff])), null], 1),
    ];
    await s.apply({ puts: rows });
    const one = await s.capture();
    const target = join(directory, 'copy.db');
    {
      await using restore = await openSqliteRestoreTarget(`sqlite:${target}`);
      await restore.begin([LOOSE], 'empty', never);
      await restore.run(LOOSE.create, never);
      const { rows: read } = await s.shadow.rows(LOOSE.table, one, null, { rows: 100, bytes: 1 << 20 }, never);
      expect(await restore.load(LOOSE, slices(read), never)).toBe(2);
      expect(existsSync(target)).toBe(false);
      await restore.finish(never);
    }
    using restored = new DatabaseSync(target, { readOnly: true });
    using scripted = new DatabaseSync(':memory:');
    scripted.exec('CREATE TABLE loose (a ANY, b ANY, v ANY) STRICT');
    for await (const sql of s.shadow.script(LOOSE.table, one, never)) scripted.exec(sql);
    const quoted = 'SELECT typeof(a) || quote(a) AS a, hex(CAST(b AS BLOB)) AS b, hex(CAST(v AS BLOB)) AS v FROM loose ORDER BY a';
    expect(restored.prepare(quoted).all()).toEqual(scripted.prepare(quoted).all());
    expect(restored.prepare(quoted).all()).toEqual([
      { a: 'integer1', b: '', v: '610062' },
      { a: 'real1.0', b: '61FF', v: '' },
    ]);
  });
});

describe('a restore', () => {
  const parents: TableSchema = simple('parents', 'CREATE TABLE parents (id INTEGER PRIMARY KEY)');
  const children: TableSchema = simple('children', 'CREATE TABLE children (id INTEGER PRIMARY KEY REFERENCES parents)');

  test('that breaks off leaves nothing; one that would overwrite is refused', async () => {
    const target = join(directory, 'there.db');
    {
      await using restore = await openSqliteRestoreTarget(`sqlite:${target}`);
      await restore.begin([parents], 'empty', never);
      await restore.run(parents.create, never);
      await restore.load(parents, slices(ids(1n)), never);
    }
    expect(readdirSync(directory).filter((name) => name.startsWith('there'))).toEqual([]);
    using db = new DatabaseSync(target);
    db.exec('CREATE TABLE parents (id)');
    await using restore = await openSqliteRestoreTarget(`sqlite:${target}`);
    await expect(restore.begin([children], 'empty', never)).rejects.toMatchObject({ code: 'TARGET_OCCUPIED' });
    await expect(restore.begin([parents], 'beside', never)).rejects.toMatchObject({ code: 'TARGET_OCCUPIED' });
    await restore.begin([children], 'beside', never);
    await restore.run(children.create, never);
    await restore[Symbol.asyncDispose]();
    expect(db.prepare('SELECT name FROM sqlite_schema').all()).toEqual([{ name: 'parents' }]);
  });

  test('with rows that refer to nothing is refused, naming the table', async () => {
    const target = join(directory, 'broken.db');
    await using restore = await openSqliteRestoreTarget(`sqlite:${target}`);
    await restore.begin([parents, children], 'empty', never);
    await restore.run([...parents.create, ...children.create], never);
    await restore.load(children, slices(ids(1n, 2n)), never);
    await restore.load(parents, slices(ids(1n)), never);
    await expect(restore.finish(never)).rejects.toThrow(/1 rows.*children \(parents\)/u);
    await restore[Symbol.asyncDispose]();
    expect(readdirSync(directory).filter((name) => name.startsWith('broken'))).toEqual([]);
  });

  test('of a table alone may refer to one that was not restored', async () => {
    const target = join(directory, 'alone.db');
    await using restore = await openSqliteRestoreTarget(`sqlite:${target}`);
    await restore.begin([children], 'beside', never);
    await restore.run(children.create, never);
    await restore.load(children, slices(ids(1n, 2n)), never);
    await restore.finish(never);
    using db = new DatabaseSync(target, { readOnly: true });
    expect(db.prepare('SELECT count(*) AS n FROM children').get()).toEqual({ n: 2 });
  });

  test('names a statement that fails, and passes over one that may', async () => {
    await using restore = await openSqliteRestoreTarget(`sqlite:${join(directory, 'x.db')}`);
    await restore.begin([], 'empty', never);
    const view = { object: 'view v', sql: 'CREATE VIEW v AS SELECT ???', mayFail: true };
    expect(await restore.run([view], never)).toMatchObject([{ object: 'view v' }]);
    await expect(restore.run([{ ...view, mayFail: false }], never)).rejects.toThrow(/view v/u);
  });
});

test('a file of somebody else’s stays as it is, and one that is no database is named', async () => {
  const own = mkdtempSync(join(tmpdir(), 'foreshadow-occupied-'));
  const fixture = await openSqliteFixture(own);
  try {
    const schema = fixture.schema('items', [{ name: 'id', type: 'integer' }], ['id']);
    await fixture.occupy(schema);
    const before = readFileSync(fixture.path);
    await fixture.shadow.claim('test');
    await expect(fixture.shadow.prepare({ tables: [schema], before: [], after: [] }, s.progress)).rejects.toMatchObject({
      code: 'SHADOW_OCCUPIED',
    });
    expect(readFileSync(fixture.path).equals(before)).toBe(true);
    writeFileSync(fixture.path, 'this is no database, but a text of some length that someone keeps here');
    const findings = await fixture.shadow.check([schema], never);
    expect(findings).toMatchObject([{ severity: 'error', code: 'SHADOW_UNREACHABLE' }]);
  } finally {
    await fixture.shadow[Symbol.asyncDispose]();
    rmSync(own, { recursive: true, force: true });
  }
});

/** The third column tells rows apart whose declared key holds NULL, as describing a table does. */
function looseRow([a, b, v]: readonly [Cell, Cell, Cell] | readonly Cell[], index: number): Tuple {
  const cells = [a ?? null, b ?? null];
  return packTuple([...cells, cells.includes(null) ? encodeCell(BigInt(index + 1)) : null, v ?? null]);
}

function ids(...values: bigint[]): Tuple[] {
  return values.map((value) => packTuple([encodeCell(value)]));
}

/** Two values that SQLite holds for equal cannot both be keys. */
function sameToSqlite(cell: Cell): string {
  if (cell === null || cell === undefined) return 'null';
  if (cell[0] === 1) return `number ${cell.readBigInt64BE(1)}`;
  if (cell[0] === 2) {
    const value = cell.readDoubleBE(1);
    return `number ${Number.isInteger(value) ? BigInt(value) : value}`;
  }
  return cell.toString('hex');
}

function differing(one: readonly Tuple[], two: readonly Tuple[]): number {
  const before = new Map(one.map((row) => [note(keyTuple(row, LOOSE.key)), note(row)]));
  const after = new Map(two.map((row) => [note(keyTuple(row, LOOSE.key)), note(row)]));
  return [...new Set([...before.keys(), ...after.keys()])].filter((key) => before.get(key) !== after.get(key)).length;
}

function simple(table: string, sql: string): TableSchema {
  return {
    table: table as TableName,
    columns: [{ name: 'id', type: 'INTEGER', nullable: false, generated: false, hidden: false }],
    key: [0],
    keyOrderShared: true,
    shape: table,
    create: [{ object: `table ${table}`, sql, mayFail: false }],
    finish: [],
  };
}

async function* slices(rows: readonly Tuple[]): AsyncGenerator<readonly Tuple[]> {
  for (const row of rows) yield await Promise.resolve([row]);
}
