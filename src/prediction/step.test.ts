import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RowGroups } from './choosing.ts';
import { CALM_STANDING, inForce, slotsLeft, turn as turnIn } from './step.ts';
import type { InForce, Observed, Standing, Tolerance, Turn } from './step.ts';

const MINUTE_MS = 60_000;

interface Given extends Omit<Observed, 'elements' | 'waiting'> {
  readonly elements: readonly ({ readonly name: string } & Tolerance)[];
  /** So many rows alike. */
  readonly waiting: readonly { element: number; rows: number; clean: number; calm: number; sinceMs: number }[];
}

/** A turn as the loop takes it: the policy in force, rows grouped under it, the plan. */
function turn(
  before: Standing,
  given: Given,
): Turn & { readonly standing: Standing; readonly policy: Omit<InForce, 'standing' | 'wentBack'> } {
  const { standing, wentBack, ...policy } = inForce(before, given, given.elements);
  const groups = new RowGroups({ ...given, slots: slotsLeft(given), toleranceMs: (element) => policy.toleranceMs[element] ?? Number.NaN });
  let row = 0;
  for (const { rows, ...each } of given.waiting) for (let count = 0; count < Math.min(rows, 2000); count++) groups.add(row++, each);
  const elements = given.elements.map(({ name }) => name);
  return { ...turnIn({ standing, wentBack, ...policy }, { ...given, elements, waiting: groups.waiting }), standing, policy };
}

function observed(over: Partial<Given> = {}): Given {
  return {
    nowMs: 0,
    dueMs: 60 * MINUTE_MS,
    slotMs: 5 * MINUTE_MS,
    resources: [load(0.1)],
    limits: { least: 1, most: 100 },
    elements: [
      { name: 'orders', toleranceMs: Infinity, toleranceMaxMs: Infinity },
      { name: 'users', toleranceMs: 10 * MINUTE_MS, toleranceMaxMs: 30 * MINUTE_MS },
    ],
    waiting: [],
    coming: [],
    settings: { reserve: 1, worth: 0 },
    clock: (atMs) => new Date(atMs).toISOString().slice(11, 16),
    ...over,
  };
}

function load(measured: number, forecast: number[] = []): Given['resources'][number] {
  return { name: 'cpu', ceiling: 0.7, forecast, measured, costPerRow: 0.001 };
}

function eases(loads: readonly number[], from: Standing = CALM_STANDING): number[] {
  let standing = from;
  return loads.map((each, index) => {
    ({ standing } = turn(standing, observed({ nowMs: index * MINUTE_MS, resources: [load(each)] })));
    return standing.ease;
  });
}

describe('a turn', () => {
  test('says what to prioritise until when, and why', () => {
    const waiting = [{ element: 0, rows: 2000, clean: 0.9, calm: 0.9, sinceMs: -MINUTE_MS }];
    const { instructions, mode } = turn(CALM_STANDING, observed({ waiting }));
    expect(mode).toBe('planned');
    expect(instructions).toEqual([
      {
        kind: 'prioritise',
        element: 'orders',
        rows: 100,
        untilMs: 60 * MINUTE_MS,
        because:
          'later slots have no room for all 2,000 rows that wait before the capture at 01:00, and 90 % of them are likely to stay as they are. 610 of its rows, with those yet to change, are expected to be left even so.',
      },
    ]);
  });

  test('lets hot rows wait while there is room later, and forces those at their lag tolerance', () => {
    const waiting = [
      { element: 0, rows: 50, clean: 0.2, calm: 0.2, sinceMs: 0 },
      { element: 1, rows: 30, clean: 0.2, calm: 0.2, sinceMs: -9 * MINUTE_MS },
    ];
    const { instructions } = turn(CALM_STANDING, observed({ waiting }));
    expect(instructions.map(({ kind }) => kind)).toEqual(['force', 'wait']);
    expect(instructions[0]).toMatchObject({ element: 'users', rows: 30 });
    expect(instructions[1]?.because).toBe('80 % of its 50 rows are likely to change again, and there is room for the rest after 00:55');
  });

  test('slows down under load, and says for how long', () => {
    const busy = (rows: number): Given =>
      observed({ resources: [load(0.68, [0.68, 0.69, 0.1])], waiting: [{ element: 0, rows, clean: 0.2, calm: 0.2, sinceMs: 0 }] });
    // There is room for all of these.
    expect(turn(CALM_STANDING, busy(19)).instructions.map(({ kind }) => kind)).toEqual(['wait']);
    const { instructions, policy } = turn(CALM_STANDING, busy(50));
    expect(instructions[0]).toMatchObject({ kind: 'ease', untilMs: 10 * MINUTE_MS });
    expect(instructions[0]?.because).toContain('cpu on the primary leaves room for 20 of 100 rows a slot');
    expect(policy.copiesYield).toBe(false);
  });

  test('gives way step by step above the ceiling, holds between, and comes back only after load stayed low', () => {
    expect(eases([0.8, 0.8, 0.65, 0.65, 0.1, 0.1, 0.1, 0.8, 0.1, 0.65, 0.1, 0.1, 0.1])).toEqual([
      0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25,
    ]);
    const loads = Array.from({ length: 60 }, (_, index) => (index % 2 === 0 ? 0.72 : 0.5));
    expect(eases(loads).slice(8)).toEqual(loads.slice(8).map(() => 1));
  });

  test('raises lag tolerances towards their limit and shrinks batches while it gives way', () => {
    const standing = { ease: 0.25, quietTurns: 0, nowMs: -1 };
    const { policy } = turn(standing, observed({ resources: [load(0.9)] }));
    expect(policy).toEqual({ toleranceMs: [Infinity, 20 * MINUTE_MS], batchShare: 0.625, copiesYield: true });
  });

  test('a forecast of load may only make it gentler', () => {
    fc.assert(
      fc.property(fc.double({ min: 0, max: 2, noNaN: true }), fc.double({ min: 0, max: 2 }), (measured, forecast) => {
        const without = turn(CALM_STANDING, observed({ resources: [load(measured)] }));
        const withIt = turn(CALM_STANDING, observed({ resources: [load(measured, [forecast])] }));
        expect(withIt.standing.ease).toBeGreaterThanOrEqual(without.standing.ease);
        expect(withIt.headroom.rows[0]).toBeLessThanOrEqual(without.headroom.rows[0] as number);
      }),
    );
  });

  test.each([
    ['there is no forecast yet', { coming: null }],
    ['no capture is ahead', { dueMs: 0 }],
    ['no capture is ahead', { dueMs: Number.NaN }],
    ['the clock went back', { nowMs: -1 }],
    [
      'planning failed: of course',
      {
        waiting: [{ element: 0, rows: 1000, clean: 0.5, calm: 0.5, sinceMs: 0 }],
        limits: { least: 0, most: 1 },
        clock: () => {
          throw new Error('of course');
        },
      },
    ],
  ])('degrades to quiet-first where %s', (reason, over) => {
    const result = turn({ ease: 0.5, quietTurns: 0, nowMs: 0 }, observed(over));
    expect(result).toMatchObject({ mode: 'quiet-first', plan: null, instructions: [], standing: { ease: 0.5 } });
    expect(result.degraded).toContain(reason);
  });

  test('keeps what is in force where no load is known', () => {
    const { standing, headroom } = turn({ ease: 0.5, quietTurns: 2, nowMs: 0 }, observed({ nowMs: 1, resources: [load(Number.NaN)] }));
    expect(standing).toEqual({ ease: 0.5, quietTurns: 2, nowMs: 1 });
    expect(headroom.rows[0]).toBe(100);
  });

  test('is the same for the same observation, and never throws', () => {
    const any = fc.oneof(fc.double(), fc.constantFrom(0, -1, Infinity, Number.NaN));
    fc.assert(
      fc.property(any, any, any, any, any, (nowMs, dueMs, measured, rows, clean) => {
        const waiting = [{ element: 1, rows, clean, calm: clean, sinceMs: 0 }];
        const given = observed({ nowMs, dueMs, resources: [load(measured, [rows])], waiting, clock: String });
        expect(turn(CALM_STANDING, given)).toEqual(turn(CALM_STANDING, given));
      }),
    );
  });
});
