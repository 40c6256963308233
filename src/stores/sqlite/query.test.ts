import { existsSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type CaptureNumber } from '../../model/capture.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { packTuple } from '../../model/tuple.ts';
import type { QuerySlice } from '../../shadowing/shadow.ts';
import { ITEMS, ShadowSession, never, notes } from '../../shadowing/shadow-session.contract.ts';
import { encodeCell } from './cell.ts';
import { openSqliteFixture } from './shadow-fixture.contract.ts';

let directory: string;
let s: ShadowSession;
let one: CaptureNumber;
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'foreshadow-query-'));
  s = await ShadowSession.start(await openSqliteFixture(directory), ITEMS);
  await s.apply({ puts: Array.from({ length: 1200 }, (_, i) => s.row(BigInt(i), `name ${i}`, BigInt(i % 7))), fresh: true });
  one = await s.capture();
});
afterEach(async () => {
  await s.close();
});

async function ask(sql: string): Promise<readonly (readonly unknown[])[]> {
  const slices: QuerySlice[] = [];
  for await (const slice of s.shadow.query(one, sql, never)) slices.push(slice);
  return slices.flatMap((slice) => slice.rows);
}

test('reads with everything SQL has: joins, grouping, recursion, windows, functions', async () => {
  expect(await ask('SELECT stock, count(*) FROM items GROUP BY stock ORDER BY 1 LIMIT 1')).toEqual([[0, 172]]);
  expect(
    await ask('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i, name FROM n JOIN items ON id = i'),
  ).toHaveLength(3);
  expect(await ask('SELECT id, row_number() OVER (ORDER BY name) FROM items WHERE id < 2; -- done')).toHaveLength(2);
  expect(await ask('SELECT * FROM items')).toHaveLength(1200);
});

test('shows infinities and bytes as text, and columns of ours to nobody', async () => {
  expect(await ask("SELECT 9e999, X'00ff', NULL, 1.5, 9007199254740993")).toEqual([['Infinity', '\\x00ff', null, 1.5, '9007199254740993']]);
  const [slice] = await Array.fromAsync(s.shadow.query(one, 'SELECT * FROM items LIMIT 1', never));
  expect(slice?.columns).toEqual(['id', 'name', 'stock']);
});

test('cannot reach round the capture, nor write, nor open another file', async () => {
  const other = join(directory, 'other.db');
  for (const sql of [
    'SELECT * FROM main.items',
    'WITH x AS MATERIALIZED (SELECT * FROM main.items) SELECT * FROM x',
    'WITH items AS MATERIALIZED (SELECT * FROM main.items) SELECT * FROM items',
    'SELECT (SELECT name FROM main.items LIMIT 1)',
    'SELECT * FROM _foreshadow_history_items',
    "SELECT _foreshadow_absent('items')",
    `ATTACH '${other}' AS other`,
    'PRAGMA query_only = OFF',
    'CREATE TEMP TABLE t (a)',
    'INSERT INTO items VALUES (1, 2, 3)',
    'UPDATE main.items SET name = NULL',
    'BEGIN',
    'SELECT 1; DELETE FROM main.items',
    '',
  ])
    await expect(ask(sql), sql).rejects.toMatchObject({ code: 'QUERY_FAILED' });
  expect(existsSync(other)).toBe(false);
});

test('stands in one moment while applies go on, and lets go when it is left early', async () => {
  const rows = s.shadow.query(one, 'SELECT id, name FROM items ORDER BY id', never)[Symbol.asyncIterator]();
  const first = (await rows.next()).value as QuerySlice;
  await s.apply({ deletes: Array.from({ length: 1200 }, (_, i) => s.key(BigInt(i))) });
  const second = (await rows.next()).value as QuerySlice;
  expect(second.rows[0]).toEqual([first.rows.length, `name ${first.rows.length}`]);
  await rows.return?.();
  expect(await s.live()).toEqual([]);
  expect(await ask('SELECT count(*) FROM items')).toEqual([[1200]]);
});

test('reads run while an apply is open, and do not see it', async () => {
  let seen: string[] = [];
  async function* rows() {
    yield { deletes: [s.key(0n)], puts: [s.row(5000n, 'new')], fresh: false };
    seen = [...notes((await s.shadow.rows(s.schema.table, s.progress.capture, s.key(1198n), { rows: 9, bytes: 999 }, never)).rows)];
    expect(await ask('SELECT count(*) FROM items')).toEqual([[1200]]);
  }
  await s.applyRows(rows());
  expect(seen).toEqual(notes([s.row(1199n, 'name 1199', 2n)]));
});

test('hidden identities are shown to nobody', async () => {
  const schema: TableSchema = {
    table: 'log' as TableName,
    columns: ['_foreshadow_rowid', 'line'].map((name, i) => ({ name, type: '', nullable: true, generated: false, hidden: i === 0 })),
    key: [0],
    keyOrderShared: true,
    shape: 'log',
    create: [{ object: 'table log', sql: 'CREATE TABLE log (line)', mayFail: false }],
    finish: [],
  };
  await s.shadow.prepare({ tables: [schema], before: [], after: [] }, s.progress);
  const puts = [1n, 2n].map((id) => packTuple([encodeCell(id), encodeCell('same')]));
  const work = {
    table: schema.table,
    rows: [{ deletes: [], puts, fresh: true }],
    from: s.progress,
    progress: s.progress,
    state: { kind: 'live' as const },
    savedThrough: one,
  };
  await s.shadow.apply([work], never);
  one = await s.capture();
  expect(await ask('SELECT * FROM log')).toEqual([['same'], ['same']]);
});
