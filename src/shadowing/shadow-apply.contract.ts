import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { cellsOf, packTuple, type Tuple } from '../model/tuple.ts';
import { type RowBatch, RowsMissing, type StandingRows } from './shadow.ts';
import { ITEMS, type ShadowOpener, ShadowSession, notes } from './shadow-session.contract.ts';

/** The ways in which a batch can say what is to be written, and what it may learn of what stands. */
export function describeApply(open: ShadowOpener): void {
  describe('apply', () => {
    let s: ShadowSession;
    beforeEach(async () => {
      s = await ShadowSession.start(await open(), ITEMS);
      await s.apply({ puts: [s.row(1n, 'a', 1n), s.row(2n, 'b', 2n), s.row(3n, 'c', 3n)], fresh: true });
    });
    afterEach(async () => {
      await s.close();
    });

    const without = (row: Tuple, ...columns: number[]): Tuple =>
      packTuple(cellsOf(row).map((cell, index) => (columns.includes(index) ? undefined : cell)));

    test('a patch leaves the columns it does not bring as they stand, and older captures as they were', async () => {
      const one = await s.capture();
      const patches = [without(s.row(1n, 'A'), 2), without(s.row(2n, '', 20n), 1), without(s.row(3n, null), 1, 2)];
      expect(await s.applyRows([{ deletes: [], patches, puts: [], fresh: false }])).toMatchObject({ inserted: 0, deleted: 0 });
      expect(await s.live()).toEqual(notes([s.row(1n, 'A', 1n), s.row(2n, 'b', 20n), s.row(3n, 'c', 3n)]));
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a', 1n), s.row(2n, 'b', 2n), s.row(3n, 'c', 3n)]));
    });

    test('a patch of a row that is not there is refused by its key, with all that came with it', async () => {
      const rows = [
        { deletes: [s.key(1n)], puts: [s.row(7n, 'g')], fresh: false },
        { deletes: [], patches: [without(s.row(2n, 'B'), 2), without(s.row(9n, 'x'), 2)], puts: [], fresh: false },
      ];
      const refused = await s.applyRows(rows).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(RowsMissing);
      expect(notes([...(refused as RowsMissing).keys])).toEqual(notes([s.key(9n)]));
      expect(await s.live()).toEqual(notes([s.row(1n, 'a', 1n), s.row(2n, 'b', 2n), s.row(3n, 'c', 3n)]));
    });

    test('rows said to be fresh overwrite what stands there all the same', async () => {
      const one = await s.capture();
      await s.apply({ puts: [s.row(4n, 'd'), s.row(2n, 'B', 2n), s.row(5n, 'e')], fresh: true });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a', 1n), s.row(2n, 'B', 2n), s.row(3n, 'c', 3n), s.row(4n, 'd'), s.row(5n, 'e')]));
      const two = await s.capture();
      expect(await s.diff(one, two)).toHaveLength(3);
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a', 1n), s.row(2n, 'b', 2n), s.row(3n, 'c', 3n)]));
    });

    test('of fresh rows that name a key twice the later one counts', async () => {
      const one = await s.capture();
      await s.apply({ puts: [s.row(4n, 'first'), s.row(5n, 'e'), s.row(4n, 'second')], fresh: true });
      expect(await s.live()).toEqual(
        notes([s.row(1n, 'a', 1n), s.row(2n, 'b', 2n), s.row(3n, 'c', 3n), s.row(4n, 'second'), s.row(5n, 'e')]),
      );
      expect(await s.diff(one, await s.capture())).toHaveLength(2);
    });

    test('what stands is read inside the apply, earlier batches included', async () => {
      const seen: string[][] = [];
      const rows = async function* (standing: StandingRows): AsyncGenerator<RowBatch> {
        yield { deletes: [s.key(1n)], patches: [without(s.row(2n, 'B'), 2)], puts: [s.row(4n, 'd', 4n)], fresh: false };
        seen.push(notes([...(await standing.rowsByKey([s.key(1n), s.key(2n), s.key(4n), s.key(9n)]))]));
        const first = await standing.rows(null, { rows: 2, bytes: 1 << 20 });
        const rest = await standing.rows(first.through, { rows: 10, bytes: 1 << 20 });
        seen.push(notes(first.rows), notes(rest.rows));
        yield { deletes: [s.key(4n)], puts: [], fresh: false };
      };
      await s.applyRows(rows);
      const [two, three, four] = [s.row(2n, 'B', 2n), s.row(3n, 'c', 3n), s.row(4n, 'd', 4n)];
      expect(seen).toEqual([notes([two, four]), notes([two, three]), notes([four])]);
      expect(await s.live()).toEqual(notes([two, three]));
    });
  });
}
