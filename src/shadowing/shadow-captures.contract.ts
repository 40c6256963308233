import { describe, expect, test } from 'vitest';
import type { Catalog } from '../capture/catalog.ts';
import { type CaptureNumber, captureNumber } from '../model/capture.ts';
import {
  ITEMS,
  type ShadowOpener,
  type ShadowSession,
  collectDiff,
  never,
  note,
  noteDifference,
  notes,
  sessions,
} from './shadow-session.contract.ts';

/** What is read of captures: their rows, what differs between two of them, and what a query sees; also where a version was put right. */
export function describeCaptures(open: ShadowOpener): void {
  describeVersions(open);
  describeDiff(open);
  describeSegments(open);
  describeRepair(open);
  describeQuery(open);
}

function describeVersions(open: ShadowOpener): void {
  describe('versions', () => {
    const current = sessions(open);

    test('a capture goes on reading the rows it was cut with', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b')], fresh: true });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A'), s.row(3n, null)], deletes: [s.key(2n)] });
      const two = await s.capture();
      await s.apply({ deletes: [s.key(1n), s.key(3n)], puts: [s.row(2n, 'again')] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
      expect(await s.rowsAt(two)).toEqual(notes([s.row(1n, 'A'), s.row(3n, null)]));
      expect(await s.live()).toEqual(notes([s.row(2n, 'again')]));
    });

    test('the old version is saved once, however often the row changes within a capture', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      for (const name of ['b', 'c', 'd']) await s.apply({ puts: [s.row(1n, name)] });
      await s.apply({ deletes: [s.key(1n)] });
      await s.apply({ puts: [s.row(1n, 'e')] });
      expect(await s.version(1n, one)).toEqual({ since: one, until: s.progress.capture, row: s.row(1n, 'a') });
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: s.progress.capture, until: null, row: s.row(1n, 'e') });
    });

    test('versions of an aborted capture are not kept: nobody can read them', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'b')] });
      s.skipNumber();
      await s.apply({ puts: [s.row(1n, 'c')] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a')]));
      expect(await s.version(1n, s.progress.capture)).toMatchObject({ since: s.progress.capture, row: s.row(1n, 'c') });
    });

    test('a row put as it stands is neither written nor saved', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, null)] });
      const one = await s.capture();
      expect(await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, null)] })).toMatchObject({ inserted: 0, updated: 0, deleted: 0 });
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: one, until: null, row: s.row(1n, 'a') });
    });

    test('rows come in key order, in chunks within the limit, without a gap or a repeat', async () => {
      const s = current();
      const rows = Array.from({ length: 57 }, (_, i) => s.row(BigInt(i - 20), `row ${i}`));
      await s.apply({ puts: rows.toReversed(), fresh: true });
      const one = await s.capture();
      await s.apply({ deletes: [s.key(0n), s.key(36n)], puts: [s.row(5n, 'changed'), s.row(100n, 'new')] });
      for (const size of [1, 7, 57, 100]) expect((await s.page(one, size)).map(note)).toEqual(rows.map(note));
      const chunk = await s.shadow.rows(s.schema.table, one, null, { rows: 1000, bytes: 1 }, never);
      expect(chunk.rows).toHaveLength(1);
      expect(chunk.through).toEqual(s.key(-20n));
    });

    test('rows are found by key as of a capture', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')], deletes: [s.key(2n)] });
      const keys = [s.key(1n), s.key(2n), s.key(9n)];
      expect(notes(await s.shadow.rowsByKey(s.schema.table, one, keys, never))).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
      expect(notes(await s.shadow.rowsByKey(s.schema.table, s.progress.capture, keys, never))).toEqual(notes([s.row(1n, 'A')]));
    });

    test('a table left out of a capture cannot be read there, and the reason is named', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.capture();
      await s.apply({ puts: [s.row(1n, 'b')] });
      const two = await s.capture({ absent: 'halted: the disk was full' });
      expect((await s.shadow.elements()).get(s.schema.table)?.progress.capture).toBe(two + 1);
      await s.apply({ puts: [s.row(1n, 'c')] });
      const three = await s.capture();
      await expect(s.rowsAt(two)).rejects.toMatchObject({
        code: 'CAPTURE_ABSENT_TABLE',
        message: expect.stringContaining('disk was full'),
      });
      expect(await s.rowsAt(three)).toEqual(notes([s.row(1n, 'c')]));
    });
  });
}

function describeDiff(open: ShadowOpener): void {
  describe('diff', () => {
    const current = sessions(open);

    test('names what differs between any two captures, by its images', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c'), s.row(4n, 'd')], fresh: true });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A'), s.row(5n, 'e')], deletes: [s.key(2n)] });
      const two = await s.capture();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(6n, 'f'), s.row(3n, null)] });
      const three = await s.capture();
      await s.apply({ deletes: [s.key(6n)] });
      expect(await s.diff(one, two)).toEqual(
        [
          [s.key(1n), s.row(1n, 'a'), s.row(1n, 'A')],
          [s.key(2n), s.row(2n, 'b'), null],
          [s.key(5n), null, s.row(5n, 'e')],
        ].map(noteDifference),
      );
      expect(await s.diff(one, three)).toEqual(
        [
          [s.key(2n), s.row(2n, 'b'), null],
          [s.key(3n), s.row(3n, 'c'), s.row(3n, null)],
          [s.key(5n), null, s.row(5n, 'e')],
          [s.key(6n), null, s.row(6n, 'f')],
        ].map(noteDifference),
      );
    });

    test('a table that reads otherwise is among those that changed, whatever it was that changed it', async () => {
      const s = current();
      const changed = async (from: CaptureNumber, to: CaptureNumber) => [...(await s.shadow.changedTables([s.schema.table], from, to))];
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')] });
      const two = await s.capture();
      expect(await changed(one, two)).toEqual([s.schema.table]);
      const three = await s.capture();
      await s.retire(s.schema);
      const four = await s.capture();
      expect(await changed(three, four)).toEqual([s.schema.table]);
      await s.shadow.replaceVersion(s.schema.table, s.key(9n), { since: four, until: null }, s.row(9n, 'repaired'));
      expect(await changed(three, four)).toEqual([s.schema.table]);
    });

    test('a row inserted and deleted between two captures is no difference', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(2n, 'b')] });
      await s.capture();
      await s.apply({ deletes: [s.key(2n)] });
      const three = await s.capture();
      expect(await s.diff(one, three)).toEqual([]);
    });
  });
}

function describeSegments(open: ShadowOpener): void {
  describe('segments', () => {
    const current = sessions(open);

    test('a retired table is read by the captures it was in, and a new one stands in its place', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')] });
      const two = await s.capture();
      await s.apply({ puts: [s.row(1n, 'lost'), s.row(3n, 'lost')] });
      await s.retire(s.schema);
      expect(await s.live()).toEqual([]);
      await s.apply({ puts: [s.row(2n, 'B')] });
      const three = await s.capture();
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
      expect(await s.rowsAt(two)).toEqual(notes([s.row(1n, 'A'), s.row(2n, 'b')]));
      expect(await s.rowsAt(three)).toEqual(notes([s.row(2n, 'B')]));
      expect(await s.diff(two, three)).toEqual(
        [
          [s.key(1n), s.row(1n, 'A'), null],
          [s.key(2n), s.row(2n, 'b'), s.row(2n, 'B')],
        ].map(noteDifference),
      );
    });

    test('across a change of shape every row of one side is a deletion, of the other an insertion', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const wider = s.fixture.schema('items', [...ITEMS.columns, { name: 'note', type: 'text' }], ITEMS.key);
      await s.retire(wider);
      const row = s.fixture.tuple([1n, 'a', 0n, 'new']);
      await s.apply({ puts: [row] });
      const two = await s.capture();
      expect((await s.shadow.schemaAt(s.schema.table, one))?.columns).toHaveLength(3);
      expect((await s.shadow.schemaAt(s.schema.table, two))?.columns).toHaveLength(4);
      const found = await collectDiff(s.shadow, s.schema.table, one, two);
      const expected = [
        [s.key(1n), s.row(1n, 'a'), null],
        [s.key(1n), null, row],
      ];
      expect(found.toSorted()).toEqual(expected.map(noteDifference).toSorted());
    });

    test('a table that was dropped has no element, and its captures stay', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.retire(null);
      expect([...(await s.shadow.elements()).keys()]).toEqual([]);
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a')]));
      expect(await s.shadow.schemaAt(s.schema.table, s.progress.capture)).toBeNull();
      await expect(s.rowsAt(s.progress.capture)).rejects.toMatchObject({ code: 'CAPTURE_ABSENT_TABLE' });
    });

    test('a table retired before any capture leaves nothing behind', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.retire(s.schema);
      await s.apply({ puts: [s.row(2n, 'b')], fresh: true });
      const one = await s.capture();
      expect(await s.rowsAt(one)).toEqual(notes([s.row(2n, 'b')]));
    });

    test('a table that begins later is absent before', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const later = s.fixture.schema('later', ITEMS.columns, ITEMS.key);
      await s.shadow.prepare({ ...s.dataSet, tables: [s.schema, later] }, s.progress);
      await expect(s.shadow.rows(later.table, one, null, { rows: 1, bytes: 1 }, never)).rejects.toMatchObject({
        code: 'CAPTURE_ABSENT_TABLE',
      });
      expect((await s.shadow.rows(later.table, s.progress.capture, null, { rows: 1, bytes: 1 }, never)).rows).toEqual([]);
    });
  });
}

function describeRepair(open: ShadowOpener): void {
  describe('repair in place', () => {
    const current = sessions(open);

    test('replaces, removes and puts back a live version without saving one', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'wrong'), s.row(2n, 'b')] });
      const one = await s.capture();
      const { table } = s.schema;
      await s.shadow.replaceVersion(table, s.key(1n), { since: one, until: null }, s.row(1n, 'right'));
      await s.shadow.replaceVersion(table, s.key(2n), { since: one, until: null }, null);
      await s.shadow.replaceVersion(table, s.key(3n), { since: one, until: null }, s.row(3n, 'lost'));
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'right'), s.row(3n, 'lost')]));
      expect(await s.live()).toEqual(notes([s.row(1n, 'right'), s.row(3n, 'lost')]));
      expect(await s.version(1n, s.progress.capture)).toMatchObject({ since: one, until: null });
      await s.apply({ deletes: [s.key(3n)] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'right'), s.row(3n, 'lost')]));
    });

    test('replaces a saved version for every capture that shares it', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'wrong'), s.row(2n, 'b')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(2n, 'c')] });
      const two = await s.capture();
      await s.apply({ puts: [s.row(1n, 'now')] });
      const version = await s.version(1n, two);
      await s.shadow.replaceVersion(s.schema.table, s.key(1n), { since: one, until: version?.until ?? null }, s.row(1n, 'right'));
      await s.shadow.replaceVersion(s.schema.table, s.key(7n), { since: one, until: two }, s.row(7n, 'lost'));
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'right'), s.row(2n, 'b'), s.row(7n, 'lost')]));
      expect(await s.rowsAt(two)).toEqual(notes([s.row(1n, 'right'), s.row(2n, 'c')]));
      expect(await s.live()).toEqual(notes([s.row(1n, 'now'), s.row(2n, 'c')]));
      expect(await s.diff(one, two)).toEqual(
        [
          [s.key(2n), s.row(2n, 'b'), s.row(2n, 'c')],
          [s.key(7n), s.row(7n, 'lost'), null],
        ].map(noteDifference),
      );
    });

    test('a live version put back where it was missing shows in the diff of the capture that began it', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const two = await s.capture();
      await s.shadow.replaceVersion(s.schema.table, s.key(5n), { since: two, until: null }, s.row(5n, 'found'));
      expect(await s.diff(one, two)).toEqual([[s.key(5n), null, s.row(5n, 'found')]].map(noteDifference));
    });
  });
}

function describeQuery(open: ShadowOpener): void {
  describe('query', () => {
    const current = sessions(open);

    test('every table stands as of the capture', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')], deletes: [s.key(2n)] });
      const two = await s.capture();
      await s.fixture.foreign(s.schema, { kind: 'update', key: [1n], row: [1n, 'foreign', 0n] });
      await s.fixture.foreign(s.schema, { kind: 'insert', row: [8n, 'foreign', 0n] });
      const sql = `SELECT id, name FROM ${s.schema.table} ORDER BY id`;
      expect(await collectRows(s.catalog, s, one, sql)).toEqual([
        [1, 'a'],
        [2, 'b'],
      ]);
      expect(await collectRows(s.catalog, s, two, sql)).toEqual([[1, 'A']]);
    });

    test('integers beyond 2^53 are strings; the columns are named even of no rows', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(9007199254740993n, 'big')] });
      const one = await s.capture();
      expect(await collectRows(s.catalog, s, one, `SELECT * FROM ${s.schema.table}`)).toEqual([['9007199254740993', 'big', 0]]);
      const slices = await Array.fromAsync(s.shadow.query(one, `SELECT id, name FROM ${s.schema.table} WHERE id = 5`, never));
      expect(slices[0]?.columns).toEqual(['id', 'name']);
    });

    test('writes and wrong statements fail with the engine’s words; a missing capture is named', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      for (const sql of [`DELETE FROM ${s.schema.table}`, 'SELECT nonsense FROM nowhere', 'SELECT 1; SELECT 2'])
        await expect(collectRows(s.catalog, s, one, sql)).rejects.toMatchObject({ code: 'QUERY_FAILED' });
      await expect(collectRows(s.catalog, s, captureNumber(77), 'SELECT 1')).rejects.toMatchObject({ code: 'CAPTURE_MISSING' });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
    });

    test('a table left out fails as soon as a statement touches it, and only then', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.capture();
      const two = await s.capture({ absent: 'paused' });
      expect(await collectRows(s.catalog, s, two, 'SELECT 1 + 1')).toEqual([[2]]);
      await expect(collectRows(s.catalog, s, two, `SELECT count(*) FROM ${s.schema.table}`)).rejects.toMatchObject({
        code: 'CAPTURE_ABSENT_TABLE',
        message: expect.stringContaining('paused'),
      });
    });
  });
}

async function collectRows(catalog: Catalog, s: ShadowSession, at: CaptureNumber, sql: string): Promise<unknown[][]> {
  expect(await catalog.exists()).toBe(true);
  const rows: unknown[][] = [];
  for await (const slice of s.shadow.query(at, sql, never)) for (const row of slice.rows) rows.push([...row]);
  return rows;
}
