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

function newLearning(nowMs = START): RowLearning {
  return new RowLearning(SLOT, SLOTS, nowMs);
}

function told({ learned }: RowLearning): LearnedRows {
  return JSON.parse(JSON.stringify(learned)) as LearnedRows;
}

function anew(learned: LearnedRows, nowMs = START): RowLearning {
  const learning = newLearning(nowMs);
  learning.resume(learned);
  return learning;
}

function taught(): LearnedRows {
  const learning = newLearning();
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
        const learning = newLearning();
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
        expect([...resumed.shares]).toEqual([...learning.shares]);
      }),
      { numRuns: 15 },
    );
  });

  test('of a cycle of which the beginning was not seen, one that took over learns what the one before would have, as far back as it saw', () => {
    fc.assert(
      fc.property(anyCycle, anyCycle, fc.integer({ min: 1, max: 59 }), (before, changes, from) => {
        const learning = newLearning();
        live(learning, 0, before);
        learning.due(dueMs(0), dueMs(0));
        const resumed = anew(told(learning), dueMs(0) + from * SLOT);
        live(learning, 1, changes);
        live(
          resumed,
          1,
          changes.filter(({ minute }) => minute >= from),
        );
        for (const each of [learning, resumed]) expect(each.due(dueMs(1), dueMs(1))).toBe(true);
        expect(resumed.coming(dueMs(2), 60 - from)).toEqual(learning.coming(dueMs(2), 60 - from));
        // Of what was before it knows what it knew.
        expect(resumed.coming(dueMs(2), 60)?.slice(0, from)).toEqual(anew(told(resumed)).coming(dueMs(1), 60)?.slice(0, from));
      }),
      { numRuns: 15 },
    );
  });

  test('nothing is expected so long before a capture as was never seen, and of what was seen part of the cycle is enough', () => {
    const learning = newLearning(START + 40 * SLOT);
    expect(learning.coming(dueMs(0), 1)).toBeNull();
    live(learning, 0, [{ minute: 50, row: 1, element: 0 }]);
    learning.due(dueMs(0), dueMs(0));
    expect(learning.coming(dueMs(1), 20)).toEqual(Float64Array.from({ length: 20 }, (_, slot) => (slot === 10 ? 1 : 0)));
    expect(learning.coming(dueMs(1), 21)).toBeNull();
    // A cycle of 40 slots says nothing of those before it.
    learning.due(dueMs(0) + 40 * SLOT, dueMs(0) + 40 * SLOT);
    expect(learning.coming(dueMs(2), 40)?.[30]).toBeCloseTo(0.5);
    expect(learning.coming(dueMs(2), 41)).toBeNull();
    learning.seenFrom(dueMs(2) - 10 * SLOT);
    expect(learning.due(dueMs(2), dueMs(2))).toBe(true);
    expect(learning.due(dueMs(2) + 1, dueMs(2) + 1)).toBe(false);
  });

  test('a cycle that is no whole number of slots long is seen whole, and one that begins or ends a little late no longer than it is', () => {
    const learning = newLearning(START + 30.5 * SLOT);
    learning.due(dueMs(0), dueMs(0));
    expect([29, 30].map((slots) => learning.coming(dueMs(1), slots) !== null)).toEqual([true, false]);
    learning.due(dueMs(0) + 40.4 * SLOT, dueMs(1));
    expect([41, 42].map((slots) => learning.coming(dueMs(1), slots) !== null)).toEqual([true, false]);
    for (const [cycle, late] of [0.01, 60.02, 120.01, 179.99].entries()) learning.due(dueMs(3) + late * SLOT, dueMs(3 + cycle));
    learning.seenFrom(dueMs(7));
    learning.due(dueMs(7) + 59.99 * SLOT, dueMs(8));
    const seen = Array.from({ length: SLOTS }, (_, slot) => learning.learned.arrivals[0]?.cycles[slot]);
    expect([seen[59], seen[60]]).toEqual([5, 1]);
  });

  test('a few rows of a few minutes do not decide how those to come divide among elements', () => {
    const resumed = anew(taught(), dueMs(2) + 59 * SLOT);
    live(resumed, 3, [{ minute: 59, row: 1, element: 5 }]);
    resumed.due(dueMs(3), dueMs(3));
    const shares = [...resumed.shares.values()];
    expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1);
    expect(resumed.shares.get(5)).toBeCloseTo(1 / (1 + 0.8 * 8 * (1 + 0.8 + 0.64)));
  });

  test('rows that see their last change in the last hour before a capture are the same, however long ago the cycle began', () => {
    fc.assert(
      fc.property(anyCycle, anyCycle, (earlier, changes) => {
        const [short, long] = [newLearning(dueMs(0)), newLearning()];
        live(long, 0, earlier);
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
    [
      'cycles are fewer than none',
      ({ arrivals }) => ({ arrivals: arrivals.map((each) => ({ ...each, cycles: each.cycles.map(() => -1) })) }),
    ],
    ['less than no row of an element changed', () => ({ elements: [[0, -1]] })],
    ['there is nothing', () => ({ survival: null, arrivals: null, elements: null })],
  ];
  test.each(damaged)('is refused where %s', (_, damage) => {
    const learned = taught();
    expect(() => anew({ ...learned, ...damage(learned) })).toThrow();
    expect(() => anew(learned)).not.toThrow();
  });
});
