import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TableName } from '../model/schema.ts';
import { packTuple } from '../model/tuple.ts';
import { Sums, sealsEqual } from './seal.ts';
import { mayFollow, toState } from './states.ts';
import type { CaptureRecord } from '../model/capture.ts';

const TABLE = 'items' as TableName;
const row = fc
  .array(fc.option(fc.uint8Array({ maxLength: 8 })), { minLength: 1, maxLength: 4 })
  .map((cells) => packTuple(cells.map((cell) => (cell === null ? null : Buffer.from(cell)))));

test('sums do not depend on the order of rows, and what is added and subtracted leaves no trace', () => {
  fc.assert(
    fc.property(fc.array(row), fc.array(row), (kept, passing) => {
      const straight = new Sums();
      for (const each of kept) straight.add(each);
      const around = new Sums();
      for (const each of [...passing, ...kept.toReversed()]) around.add(each);
      for (const each of passing) around.subtract(each);
      expect(sealsEqual(straight.seal(TABLE), around.seal(TABLE))).toBe(true);
    }),
  );
});

test('two equal edits do not cancel, and a boundary between cells counts', () => {
  const sums = (rows: ReadonlyArray<ReadonlyArray<string | null>>): Sums => {
    const sum = new Sums();
    for (const cells of rows) sum.add(packTuple(cells.map((cell) => (cell === null ? null : Buffer.from(cell)))));
    return sum;
  };
  const equal = (a: Sums, b: Sums): boolean => sealsEqual(a.seal(TABLE), b.seal(TABLE));
  expect(
    equal(
      sums([
        ['1', 'a'],
        ['1', 'a'],
      ]),
      sums([
        ['1', 'b'],
        ['1', 'b'],
      ]),
    ),
  ).toBe(false);
  expect(equal(sums([['a', 'bc']]), sums([['ab', 'c']]))).toBe(false);
  expect(equal(sums([['', 'x']]), sums([[null, 'x']]))).toBe(false);
  expect(equal(sums([['x']]), sums([['x'], ['x']]))).toBe(false);
});

test('a seal goes on from where it was taken', () => {
  const first = new Sums();
  first.add(packTuple([Buffer.from('one')]));
  const second = new Sums(first.seal(TABLE));
  second.add(packTuple([Buffer.from('two')]));
  first.add(packTuple([Buffer.from('two')]));
  expect(sealsEqual(first.seal(TABLE), second.seal(TABLE))).toBe(true);
});

test('a capture goes only where its diagram says', () => {
  const record: CaptureRecord = {
    number: 1 as CaptureRecord['number'],
    state: 'planned',
    dueAt: '2026-01-01T00:00:00.000Z',
    cutAt: null,
    position: null,
    verdict: null,
    coverage: null,
    absent: [],
    rows: null,
    timings: null,
    note: null,
  };
  expect(toState(record, 'draining').state).toBe('draining');
  expect(() => toState(record, 'sealed')).toThrow(/planned to sealed/);
  expect(mayFollow('cut', 'aborted')).toBe(false);
  expect(mayFollow('draining', 'aborted')).toBe(true);
});
