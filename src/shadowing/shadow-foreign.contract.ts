import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { NO_CAPTURE } from '../model/capture.ts';
import type { Tuple } from '../model/tuple.ts';
import { ITEMS, type ShadowOpener, ShadowSession, never, note, noteDifference, notes } from './shadow-session.contract.ts';

/** Writes by other programs: no capture ever contains one, each is found, undone, or overruled by the primary. */
export function describeForeignWrites(open: ShadowOpener): void {
  describe('foreign writes', () => {
    let s: ShadowSession;
    const a = (): Tuple => s.row(1n, 'a');
    const b = (): Tuple => s.row(2n, 'b');
    const c = (): Tuple => s.row(3n, 'c');
    const foreign = (id: bigint): Tuple => s.row(id, 'foreign', 666n);

    beforeEach(async () => {
      s = await ShadowSession.start(await open(), ITEMS);
      await s.apply({ puts: [a(), b(), c()], fresh: true });
      await s.capture();
    });
    afterEach(async () => {
      await s.close();
    });

    const update = async (key: bigint, to = key): Promise<void> =>
      await s.fixture.foreign(s.schema, { kind: 'update', key: [key], row: [to, 'foreign', 666n] });
    const insert = async (key: bigint): Promise<void> => await s.fixture.foreign(s.schema, { kind: 'insert', row: [key, 'foreign', 666n] });
    const remove = async (key: bigint): Promise<void> => await s.fixture.foreign(s.schema, { kind: 'delete', key: [key] });
    const found = async (): Promise<string[]> =>
      (await s.shadow.foreignRows(s.schema.table, 100, never)).map((row) => noteDifference([row.key, row.found, row.truth])).toSorted();
    const expectUntouched = async (): Promise<void> => {
      expect(await s.live()).toEqual(notes([a(), b(), c()]));
      const next = await s.capture();
      expect(await s.rowsAt(next)).toEqual(notes([a(), b(), c()]));
    };

    test('no read shows them, and each is listed with the true row beside it', async () => {
      await update(1n);
      await insert(9n);
      await remove(2n);
      await expectUntouched();
      expect(await found()).toEqual(
        [
          [s.key(1n), foreign(1n), a()],
          [s.key(2n), null, b()],
          [s.key(9n), foreign(9n), null],
        ]
          .map(noteDifference)
          .toSorted(),
      );
      expect(await s.shadow.foreignRows(s.schema.table, 2, never)).toHaveLength(2);
    });

    test('a double update, a delete after an update, an insert after a delete keep the first truth', async () => {
      await update(1n);
      await update(1n);
      await update(2n);
      await remove(2n);
      await remove(3n);
      await insert(3n);
      await update(3n);
      await expectUntouched();
      expect(await found()).toEqual(
        [
          [s.key(1n), foreign(1n), a()],
          [s.key(2n), null, b()],
          [s.key(3n), foreign(3n), c()],
        ]
          .map(noteDifference)
          .toSorted(),
      );
    });

    test('a changed key is a row gone and a row come', async () => {
      await update(1n, 8n);
      await expectUntouched();
      expect(await found()).toEqual(
        [
          [s.key(1n), null, a()],
          [s.key(8n), foreign(8n), null],
        ]
          .map(noteDifference)
          .toSorted(),
      );
      expect(await s.shadow.undoForeign(s.schema.table, [s.key(1n), s.key(8n)])).toBe(2);
      await expectUntouched();
      expect(await found()).toEqual([]);
    });

    test('everything deleted in one statement is still read', async () => {
      await s.fixture.foreign(s.schema, { kind: 'delete-all' });
      await expectUntouched();
      expect(await found()).toHaveLength(3);
    });

    test('undone, the true rows stand as if nothing had happened', async () => {
      await update(1n);
      await insert(9n);
      await remove(2n);
      const keys = [s.key(1n), s.key(2n), s.key(3n), s.key(9n)];
      expect(await s.shadow.undoForeign(s.schema.table, keys)).toBe(3);
      expect(await found()).toEqual([]);
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: 1, until: null, row: a() });
      expect(await s.version(2n, s.progress.capture)).toEqual({ since: 1, until: null, row: b() });
      expect(await s.shadow.undoForeign(s.schema.table, keys)).toBe(0);
      await expectUntouched();
    });

    test('the primary overrules them, says so, and saves the true version', async () => {
      await update(1n);
      await remove(2n);
      await insert(9n);
      await insert(10n);
      const report = await s.apply({ puts: [s.row(1n, 'A'), s.row(2n, 'B'), s.row(9n, 'ours')], deletes: [s.key(3n), s.key(10n)] });
      expect(report).toMatchObject({ inserted: 1, updated: 2, deleted: 1 });
      expect(report.conflicts.map((conflict) => note(conflict.key)).toSorted()).toEqual(
        notes([s.key(1n), s.key(2n), s.key(9n), s.key(10n)]),
      );
      expect(await s.live()).toEqual(notes([s.row(1n, 'A'), s.row(2n, 'B'), s.row(9n, 'ours')]));
      expect(await s.rowsAt(s.savedThrough)).toEqual(notes([a(), b(), c()]));
      expect(await found()).toEqual([]);
      expect(await s.apply({ puts: [s.row(1n, 'AA')] })).toMatchObject({ conflicts: [] });
    });

    test('a true version that no capture reads is not kept when the primary overrules', async () => {
      await s.apply({ puts: [s.row(1n, 'A')] });
      await update(1n);
      await s.apply({ puts: [s.row(1n, 'AA')] });
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: s.progress.capture, until: null, row: s.row(1n, 'AA') });
      expect(await s.rowsAt(s.savedThrough)).toEqual(notes([a(), b(), c()]));
    });

    test('rows said to be fresh may still meet a foreign one', async () => {
      await insert(9n);
      const report = await s.apply({ puts: [s.row(9n, 'ours'), s.row(10n, 'ours')], fresh: true });
      expect(report.inserted).toBe(2);
      expect(report.conflicts).toHaveLength(1);
      expect(await s.live()).toEqual(notes([a(), b(), c(), s.row(9n, 'ours'), s.row(10n, 'ours')]));
    });

    test('a put of the true row undoes without a new version', async () => {
      await update(1n);
      await s.apply({ puts: [a()] });
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: 1, until: null, row: a() });
      expect(await found()).toEqual([]);
    });

    test('they are not carried into a segment that is retired, and never into a diff', async () => {
      const one = s.savedThrough;
      await update(1n);
      await remove(2n);
      await insert(9n);
      const two = await s.capture();
      expect(await s.diff(one, two)).toEqual([]);
      await s.retire(s.schema);
      expect(await s.rowsAt(two)).toEqual(notes([a(), b(), c()]));
      expect(await s.live()).toEqual([]);
      expect(await found()).toEqual([]);
    });

    test('a version is replaced in place while its row is overwritten by a foreigner', async () => {
      await update(1n);
      expect(await s.version(1n, s.savedThrough)).toEqual({ since: 1, until: null, row: a() });
      await s.shadow.replaceVersion(s.schema.table, s.key(1n), { since: s.savedThrough, until: null }, s.row(1n, 'right'));
      expect(await s.live()).toEqual(notes([s.row(1n, 'right'), b(), c()]));
      expect(await s.shadow.undoForeign(s.schema.table, [s.key(1n)])).toBe(1);
      expect(await s.live()).toEqual(notes([s.row(1n, 'right'), b(), c()]));
    });

    test('before any capture too', async () => {
      s.savedThrough = NO_CAPTURE;
      await s.retire(s.schema);
      await s.apply({ puts: [a()] });
      await update(1n);
      expect(await s.live()).toEqual(notes([a()]));
      await s.apply({ deletes: [s.key(1n)] });
      expect(await s.live()).toEqual([]);
    });
  });
}
