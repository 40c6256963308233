import { expect, test } from 'vitest';
import { captureNumber, type CaptureRecord } from '../model/capture.ts';
import type { TableName } from '../model/schema.ts';
import { listing, logged } from './reports.ts';

const named = (...tables: string[]): { table: TableName; reason: string }[] =>
  tables.map((table) => ({ table: table as TableName, reason: `reason of ${table}` }));

function recordOf(skipped: CaptureRecord['absent'], absent: CaptureRecord['absent'] = []): CaptureRecord {
  return {
    number: captureNumber(3),
    state: 'sealed',
    dueAt: '2026-01-01T00:00:00.000Z',
    cutAt: '2026-01-01T00:00:01.000Z',
    position: null,
    verdict: skipped.length === 0 ? 'VALID' : 'INCONCLUSIVE',
    coverage: { tables: 9, rows: 90, witnessed: 0, skipped },
    absent,
    rows: { inserted: 0, updated: 0, deleted: 0 },
    timings: null,
    note: null,
  };
}

test('the log says of a capture that is INCONCLUSIVE which tables made it so, and of many the first ones', () => {
  expect(logged(recordOf([]))).toEqual({ capture: 3, verdict: 'VALID', note: null });
  expect(logged(recordOf(named('left', 'moved'), named('left')))).toEqual({
    capture: 3,
    verdict: 'INCONCLUSIVE',
    note: null,
    absent: ['left: reason of left'],
    notCompared: ['moved: reason of moved'],
  });
  const { notCompared } = logged(recordOf(named('a', 'b', 'c', 'd', 'e', 'f', 'g')));
  expect(notCompared).toEqual([...['a', 'b', 'c', 'd', 'e'].map((table) => `${table}: reason of ${table}`), 'and 2 more']);
});

test('a listing tells tables that could not be compared from those that are not in the capture at all', () => {
  const { absent, notCompared } = listing(recordOf(named('left', 'moved'), named('left')));
  expect(absent).toEqual(named('left'));
  expect(notCompared).toEqual(named('moved'));
});
