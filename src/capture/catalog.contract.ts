import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type CaptureRecord, captureNumber } from '../model/capture.ts';
import type { TableName } from '../model/schema.ts';
import { ITEMS, type ShadowOpener, ShadowSession, emptyRecord } from '../shadowing/shadow-session.contract.ts';

/** What every catalog promises (`catalog.ts`). Opened by the same fixture as its shadow: the two share a store. */
export function describeCatalog(name: string, open: ShadowOpener): void {
  describe(`catalog: ${name}`, () => {
    let s: ShadowSession;
    beforeEach(async () => {
      s = await ShadowSession.start(await open(), ITEMS);
    });
    afterEach(async () => {
      await s.close();
    });

    const full: CaptureRecord = {
      ...emptyRecord(captureNumber(3)),
      state: 'sealed',
      position: null,
      verdict: 'INVALID',
      coverage: { tables: 1, rows: 10, witnessed: 2, skipped: [{ table: 'other' as TableName, reason: 'excluded' }] },
      absent: [{ table: 'other' as TableName, reason: 'excluded' }],
      rows: { inserted: 1, updated: 2, deleted: 3 },
      timings: { residualRows: 3, drainMs: 1.5, cutMs: 2.25, validateMs: 3, elapsedMs: 7 },
      note: 'one row "altered"',
    };

    test('knows nothing of a store that was never prepared', async () => {
      const fixture = await open();
      try {
        expect(await fixture.catalog.exists()).toBe(false);
        expect(await fixture.catalog.list()).toEqual([]);
        expect(await fixture.catalog.get(captureNumber(1))).toBeNull();
        expect(await fixture.catalog.read('data-set')).toBeNull();
      } finally {
        await fixture.shadow[Symbol.asyncDispose]();
        await fixture.remove();
      }
    });

    test('keeps records as they are, oldest first, over a restart', async () => {
      await s.catalog.save(full);
      await s.catalog.save({ ...emptyRecord(captureNumber(1)), state: 'draining', position: s.at(77n) });
      await s.catalog.save(emptyRecord(captureNumber(2)));
      await s.catalog.save({ ...emptyRecord(captureNumber(2)), state: 'aborted', note: 'twice' });
      await s.restart();
      expect(await s.catalog.exists()).toBe(true);
      expect((await s.catalog.list()).map((record) => record.number)).toEqual([1, 2, 3]);
      expect(await s.catalog.get(captureNumber(1))).toMatchObject({ state: 'draining', position: s.at(77n) });
      expect(await s.catalog.get(captureNumber(2))).toMatchObject({ state: 'aborted', note: 'twice' });
      expect(await s.catalog.get(captureNumber(3))).toEqual(full);
      expect(await s.catalog.get(captureNumber(4))).toBeNull();
    });

    test('a cut pins the schema and moves on what it leaves out, and nothing else', async () => {
      const record = emptyRecord(captureNumber(1));
      await s.catalog.cut(record, s.dataSet);
      const wider = s.fixture.schema('items', [...ITEMS.columns, { name: 'note', type: 'text' }], ITEMS.key);
      await s.catalog.cut(
        { ...emptyRecord(captureNumber(2)), absent: [{ table: s.schema.table, reason: 'paused' }] },
        { ...s.dataSet, tables: [wider], before: [{ object: 'type mood', sql: 'CREATE …', mayFail: true }] },
      );
      expect(await s.catalog.schema(captureNumber(1))).toEqual(s.dataSet);
      expect((await s.catalog.schema(captureNumber(2)))?.tables).toEqual([wider]);
      expect((await s.catalog.schema(captureNumber(2)))?.before).toHaveLength(1);
      expect(await s.catalog.schema(captureNumber(3))).toBeNull();
      expect((await s.shadow.elements()).get(s.schema.table)?.progress).toEqual({ ...s.progress, capture: 3 });
      expect(await s.catalog.get(captureNumber(1))).toEqual(record);
    });

    test('a cut never moves an element back', async () => {
      await s.capture();
      await s.capture();
      await s.catalog.cut({ ...emptyRecord(captureNumber(1)), absent: [{ table: s.schema.table, reason: 'late' }] }, s.dataSet);
      expect((await s.shadow.elements()).get(s.schema.table)?.progress.capture).toBe(3);
    });

    test('a seal saves the record and its sums together; sealing again replaces them', async () => {
      const sums = Buffer.from('ff'.repeat(32), 'hex');
      await s.catalog.seal(full, [{ table: s.schema.table, rows: 9007199254740993n, sums }]);
      await s.catalog.seal(full, [{ table: s.schema.table, rows: 2n, sums }]);
      expect(await s.catalog.get(full.number)).toEqual(full);
      const seals = await s.catalog.seals(full.number);
      expect(seals).toHaveLength(1);
      expect(seals[0]).toMatchObject({ table: s.schema.table, rows: 2n });
      expect(Buffer.compare(seals[0]?.sums ?? Buffer.alloc(0), sums)).toBe(0);
      await s.catalog.seal(full, [{ table: s.schema.table, rows: 9007199254740993n, sums }]);
      expect((await s.catalog.seals(full.number))[0]?.rows).toBe(9007199254740993n);
      expect(await s.catalog.seals(captureNumber(9))).toEqual([]);
    });

    test('documents are read as they were written', async () => {
      expect(await s.catalog.read('parked')).toBeNull();
      await s.catalog.write('data-set', { name: 'shop', primaryIdentity: 'a', journalId: 'b' });
      await s.catalog.write('parked', { at: 2, since: 'now' });
      await s.catalog.write('parked', null);
      await s.restart();
      expect(await s.catalog.read('data-set')).toEqual({ name: 'shop', primaryIdentity: 'a', journalId: 'b' });
      expect(await s.catalog.read('parked')).toBeNull();
    });
  });
}
