import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { LearnedRows } from './learned.ts';
import { RowLearning } from './row-learning.ts';

const HOUR = 3_600_000;
const SLOT = 60_000;
const SLOTS = 120;
/** A midnight. */
const START = Date.UTC(2026, 10, 22);
/** Captures are due each hour. */
const dueMs = (cycle: number): number => START + (cycle + 1) * HOUR;

interface Change {
  readonly minute: number;
  readonly row: number;
  readonly element: number;
}

const anyCycle = fc.array(fc.record({ minute: fc.nat(59), row: fc.nat(30), element: fc.nat(3) }), { maxLength: 20 });

function live(learning: RowLearning, cycle: number, changes: readonly Change[]): void {
  const byMinute = Map.groupBy(changes, ({ minute }) => minute);
  for (let minute = 0; minute < 60; minute++) {
    const atMs = START + cycle * HOUR + minute * SLOT;
    learning.look(atMs);
    for (const { row, element } of byMinute.get(minute) ?? []) learning.changed(row, element, atMs + 1);
  }
}

function told({ learned }: RowLearning): LearnedRows {
  return JSON.parse(JSON.stringify(learned)) as LearnedRows;
}

function anew(learned: LearnedRows): RowLearning {
  const learning = new RowLearning(SLOT, SLOTS);
  learning.resume(learned);
  return learning;
}

function taught(): LearnedRows {
  const learning = new RowLearning(SLOT, SLOTS);
  for (let cycle = 0; cycle < 3; cycle++) {
    live(
      learning,
      cycle,
      Array.from({ length: 60 }, (_, minute) => ({ minute, row: minute % 8, element: minute % 2 })),
    );
    learning.due(dueMs(cycle), dueMs(cycle));
  }
  return told(learning);
}

describe('what is learned of rows', () => {
  test('whatever came before, one that goes on from it expects the same to come as the one that learned it', () => {
    fc.assert(
      fc.property(fc.array(anyCycle, { minLength: 1, maxLength: 12 }), anyCycle, (before, after) => {
        const learning = new RowLearning(SLOT, SLOTS);
        for (const [cycle, changes] of before.entries()) {
          live(learning, cycle, changes);
          learning.due(dueMs(cycle), dueMs(cycle));
        }
        const resumed = anew(told(learning));
        expect(told(resumed)).toEqual(told(learning));
        for (const each of [learning, resumed]) live(each, before.length, after);
        for (const slots of [1, 60, SLOTS]) {
          expect(resumed.coming(dueMs(before.length), slots)).toEqual(learning.coming(dueMs(before.length), slots));
        }
        expect([resumed.cycles, [...resumed.shares]]).toEqual([learning.cycles, [...learning.shares]]);
      }),
      { numRuns: 15 },
    );
  });

  test('a cycle of which the beginning was not seen teaches nothing, and the next one goes on from what is known', () => {
    const learned = taught();
    const resumed = anew(learned);
    expect(resumed.due(dueMs(3), dueMs(3))).toBe(false);
    expect(told(resumed)).toEqual(learned);
    live(resumed, 4, [{ minute: 59, row: 1, element: 5 }]);
    expect(resumed.due(dueMs(4), dueMs(4))).toBe(true);
    expect(resumed.cycles).toBe(3);
    expect([...resumed.shares]).toEqual([
      [0, expect.closeTo(0.4)],
      [1, expect.closeTo(0.4)],
      [5, expect.closeTo(0.2)],
    ]);
  });

  test('rows that see their last change in the last hour before a capture are the same, however long ago the cycle began', () => {
    fc.assert(
      fc.property(anyCycle, anyCycle, (earlier, changes) => {
        const [short, long] = [new RowLearning(SLOT, SLOTS), new RowLearning(SLOT, SLOTS)];
        long.due(dueMs(-1), dueMs(-1));
        for (const each of [short, long]) live(each, 0, earlier);
        short.due(dueMs(0), dueMs(0));
        for (const each of [short, long]) {
          live(each, 1, changes);
          each.due(dueMs(1), dueMs(1));
        }
        expect(long.coming(dueMs(2), 60)).toEqual(short.coming(dueMs(2), 60));
      }),
      { numRuns: 15 },
    );
  });

  test('an element that is gone for good is forgotten', () => {
    const learning = anew(taught());
    for (let cycle = 3; cycle < 70; cycle++) {
      live(learning, cycle, [{ minute: 1, row: 1, element: 1 }]);
      learning.due(dueMs(cycle), dueMs(cycle));
    }
    expect([...learning.shares]).toEqual([[1, expect.closeTo(1, 3)]]);
  });

  const damaged: [string, (learned: LearnedRows) => object][] = [
    ['weights are fewer', ({ survival }) => ({ survival: { ...survival, weights: survival.weights.slice(1) } })],
    ['a weight is no number', ({ survival }) => ({ survival: { ...survival, weights: [null, ...survival.weights.slice(1)] } })],
    ['steps would have no end', ({ survival }) => ({ survival: { ...survival, slopes: survival.slopes.map(() => 0) } })],
    ['less than nothing was learned', ({ survival }) => ({ survival: { ...survival, learned: survival.learned.map(() => -1) } })],
    ['rows are fewer than none', ({ arrivals }) => ({ arrivals: arrivals.map((each) => ({ ...each, rows: each.rows.map(() => -1) })) })],
    ['slots are fewer', ({ arrivals }) => ({ arrivals: arrivals.map((each) => ({ ...each, rows: each.rows.slice(1) })) })],
    ['an hour is none', ({ arrivals }) => ({ arrivals: arrivals.map((each) => ({ ...each, hour: 24 })) })],
    ['there was no cycle', ({ arrivals }) => ({ arrivals: arrivals.map((each) => ({ ...each, cycles: 0 })) })],
    ['a share is more than all', () => ({ shares: [[0, 2]] })],
    ['there is nothing', () => ({ survival: null, arrivals: null, shares: null })],
  ];
  test.each(damaged)('is refused where %s', (_, damage) => {
    const learned = taught();
    expect(() => anew({ ...learned, ...damage(learned) })).toThrow();
    expect(() => anew(learned)).not.toThrow();
  });
});
