import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { TableSchema } from '../model/schema.ts';
import {
  ITEMS,
  type ShadowOpener,
  ShadowSession,
  type SimpleColumn,
  never,
  noteDifference,
  notes,
  numbered,
} from './shadow-session.contract.ts';

const NOTE: SimpleColumn = { name: 'note', type: 'text' };

/** `Shadow.reshape`: in place, or not at all. */
export function describeReshaping(open: ShadowOpener): void {
  describe('reshaping in place', () => {
    let s: ShadowSession;
    beforeEach(async () => {
      s = await ShadowSession.start(await open(), ITEMS);
    });
    afterEach(async () => {
      await s.close();
    });

    const shape = (columns: readonly SimpleColumn[], ids: readonly number[], name = 'items'): TableSchema =>
      numbered(s.fixture.schema(name, columns, ITEMS.key), ids);

    /** False where this store does not reshape: then nothing may have happened. */
    async function reshape(to: TableSchema, initial: readonly (string | null)[] = []): Promise<boolean> {
      const before = await s.shadow.elements();
      const change = { from: s.schema.shape, to, after: s.progress.low, kept: true, initial: to.columns.map((_, i) => initial[i] ?? null) };
      const done = await s.shadow.reshape(s.schema.table, change, { kind: 'live' }, s.progress);
      if (done) s.schema = to;
      else expect(await s.shadow.elements()).toEqual(before);
      return done;
    }

    test('a column is added with the value that standing rows have; captures before read without it', async () => {
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(2n, 'B')] });
      if (!(await reshape(shape([...ITEMS.columns, NOTE], [1, 2, 3, 4]), [null, null, null, "it's old"]))) return;
      const wide = (id: bigint, name: string, text: string | null) => s.fixture.tuple([id, name, 0n, text]);
      expect(await s.live()).toEqual(notes([wide(1n, 'a', "it's old"), wide(2n, 'B', "it's old"), wide(3n, 'c', "it's old")]));
      await s.apply({ puts: [wide(1n, 'a', 'new'), wide(4n, 'd', null)], deletes: [s.key(3n)] });
      const two = await s.capture();
      await s.apply({ puts: [wide(2n, 'later', null), wide(4n, 'later', null)] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c')]));
      expect(await s.rowsAt(two)).toEqual(notes([wide(1n, 'a', 'new'), wide(2n, 'B', "it's old"), wide(4n, 'd', null)]));
      // By the columns that both have: the first row differs in none of them.
      expect(await s.diff(one, two)).toEqual(
        [
          [s.key(2n), s.row(2n, 'b'), wide(2n, 'B', "it's old")],
          [s.key(3n), s.row(3n, 'c'), null],
          [s.key(4n), null, wide(4n, 'd', null)],
        ].map(noteDifference),
      );
      expect((await s.shadow.schemaAt(s.schema.table, one))?.columns).toHaveLength(3);
      expect((await s.shadow.schemaAt(s.schema.table, two))?.columns).toHaveLength(4);
    });

    test('a dropped column stays in the captures that had it, and one of its name is another', async () => {
      await s.apply({ puts: [s.row(1n, 'a', 7n), s.row(2n, 'b', 8n)] });
      const one = await s.capture();
      const [id, name, stock] = ITEMS.columns as [SimpleColumn, SimpleColumn, SimpleColumn];
      if (!(await reshape(shape([id, name], [1, 2])))) return;
      await s.apply({ puts: [s.fixture.tuple([1n, 'A'])] });
      const two = await s.capture();
      expect(await reshape(shape([id, name, stock], [1, 2, 4]))).toBe(true);
      await s.apply({ puts: [s.fixture.tuple([2n, 'b', 9n])] });
      const three = await s.capture();
      await s.apply({ deletes: [s.key(1n), s.key(2n)] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a', 7n), s.row(2n, 'b', 8n)]));
      expect(await s.rowsAt(two)).toEqual(notes([s.fixture.tuple([1n, 'A']), s.fixture.tuple([2n, 'b'])]));
      expect(await s.rowsAt(three)).toEqual(notes([s.fixture.tuple([1n, 'A', null]), s.row(2n, 'b', 9n)]));
    });

    test('columns that change places by name are renamed, not moved', async () => {
      const swapped: SimpleColumn[] = [
        ITEMS.columns[0] as SimpleColumn,
        { name: 'stock', type: 'text' },
        { name: 'name', type: 'integer' },
      ];
      await s.apply({ puts: [s.row(1n, 'a', 7n)] });
      const one = await s.capture();
      if (!(await reshape(shape(swapped, [1, 2, 3])))) return;
      expect(await s.live()).toEqual(notes([s.row(1n, 'a', 7n)]));
      expect(await s.diff(one, s.progress.capture)).toEqual([]);
      await s.restart();
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a', 7n)]));
      expect((await s.shadow.elements()).get(s.schema.table)?.schema).toEqual(s.schema);
    });

    test('several shapes between two captures leave none behind that nobody reads', async () => {
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      if (!(await reshape(shape([...ITEMS.columns, NOTE], [1, 2, 3, 4]), [null, null, null, 'x']))) return;
      expect(await reshape(shape([...ITEMS.columns, { name: 'other', type: 'integer' }], [1, 2, 3, 5]), [null, null, null, '5'])).toBe(
        true,
      );
      expect(await s.live()).toEqual(notes([s.fixture.tuple([1n, 'a', 0n, 5n])]));
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a')]));
      await s.retire(null);
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a')]));
    });

    test('a renamed table keeps its rows, and captures before have it under the old name', async () => {
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const old = s.schema.table;
      if (!(await reshape(shape(ITEMS.columns, [1, 2, 3], 'goods')))) return;
      await s.apply({ puts: [s.row(1n, 'A'), s.row(2n, 'b')] });
      expect([...(await s.shadow.elements()).keys()]).toEqual([s.schema.table]);
      expect(await s.live()).toEqual(notes([s.row(1n, 'A'), s.row(2n, 'b')]));
      expect(notes((await s.shadow.rows(old, one, null, { rows: 9, bytes: 999 }, never)).rows)).toEqual(notes([s.row(1n, 'a')]));
      await expect(s.rowsAt(one)).rejects.toMatchObject({ code: 'CAPTURE_ABSENT_TABLE' });
    });

    test('another key or another type is not done in place', async () => {
      await s.apply({ puts: [s.row(1n, 'a', 7n)] });
      const [id, name, stock] = ITEMS.columns as [SimpleColumn, SimpleColumn, SimpleColumn];
      expect(await reshape(shape([id, name, { ...stock, type: 'text' }], [1, 2, 3]))).toBe(false);
      expect(await reshape(numbered(s.fixture.schema('items', [id, name, stock], ['stock'])))).toBe(false);
      expect(await reshape(s.fixture.schema('items', [id, name, stock], ['id']))).toBe(false);
      expect(await s.live()).toEqual(notes([s.row(1n, 'a', 7n)]));
    });

    test('a foreign write under the new shape saves what earlier captures read', async () => {
      await s.apply({ puts: [s.row(1n, 'a', 7n)] });
      const one = await s.capture();
      const [id, name] = ITEMS.columns as [SimpleColumn, SimpleColumn];
      if (!(await reshape(shape([id, name], [1, 2])))) return;
      await s.fixture.foreign(s.schema, { kind: 'update', key: [1n], row: [1n, 'foreign'] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a', 7n)]));
      expect(await s.live()).toEqual(notes([s.fixture.tuple([1n, 'a'])]));
      expect(await s.shadow.undoForeign(s.schema.table, [s.key(1n)])).toBe(1);
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a', 7n)]));
    });

    test('a version from before is put right in the shape that a later capture reads it in', async () => {
      await s.apply({ puts: [s.row(1n, 'a', 7n)] });
      await s.capture();
      if (!(await reshape(shape([...ITEMS.columns, NOTE], [1, 2, 3, 4]), [null, null, null, 'x']))) return;
      const two = await s.capture();
      const version = await s.version(1n, two);
      const right = s.fixture.tuple([1n, 'A', 7n, 'right']);
      await s.shadow.replaceVersion(s.schema.table, s.key(1n), { since: version?.since ?? two, until: null, at: two }, right);
      expect(await s.rowsAt(two)).toEqual(notes([right]));
    });
  });
}
