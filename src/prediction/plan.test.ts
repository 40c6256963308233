import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { plan } from './plan.ts';
import type { ComingRows, Plan, PlanRequest, WaitingRows } from './plan.ts';

function waiting(over: Partial<WaitingRows> = {}): WaitingRows {
  return { element: 0, rows: 10, clean: 0.8, calm: 0.8, latest: Infinity, ...over };
}

function ask(over: Partial<PlanRequest> = {}): Plan {
  return plan({ capacity: [10, 10, 10, 10], waiting: [], coming: [], reserve: 1, worth: 0, ...over });
}

function sum(values: Iterable<number>): number {
  return [...values].reduce((total, value) => total + value, 0);
}

const chance = fc.double({ min: 0, max: 1, noNaN: true });
const amount = fc.double({ min: 0, max: 50, noNaN: true });
const request = fc
  .record({
    capacity: fc.array(amount, { minLength: 1, maxLength: 20 }),
    waiting: fc.array(
      fc.record({
        element: fc.nat({ max: 3 }),
        rows: amount,
        clean: chance,
        calm: chance,
        latest: fc.oneof(fc.nat({ max: 25 }), fc.constant(Infinity)),
      }),
      { maxLength: 12 },
    ),
    coming: fc.array(
      fc.record({
        shares: fc.nat({ max: 3 }).map((element) => new Map([[element, 1]])),
        rows: fc.array(amount, { maxLength: 20 }),
        patience: fc.oneof(fc.nat({ max: 9 }), fc.constant(Infinity)),
      }),
      { maxLength: 3 },
    ),
    reserve: fc.double({ min: 1, max: 4, noNaN: true }),
    worth: fc.constantFrom(0, 0.2, 0.5),
  })
  .map((each): PlanRequest => each);

describe('a plan', () => {
  test('waits while later slots have room for everything', () => {
    const { now, moved, residual } = ask({ waiting: [waiting()] });
    expect(sum(now)).toBe(0);
    expect(moved[3]).toBeCloseTo(8);
    expect(residual).toBe(0);
  });

  test('moves what later slots have no room for, the calmest first', () => {
    const rows = [waiting({ rows: 20, clean: 1, calm: 0.3 }), waiting({ rows: 20, clean: 1, calm: 0.9 })];
    const { now, order } = ask({ waiting: rows });
    expect([...now]).toEqual([0, 10]);
    expect(order).toEqual([1]);
  });

  test('leaves the last slots to rows that are yet to come', () => {
    const coming: ComingRows[] = [{ shares: new Map([[1, 1]]), rows: [0, 10, 10, 0], patience: Infinity }];
    const { now, byElement } = ask({ waiting: [waiting({ rows: 20, clean: 1 })], coming });
    expect(sum(now)).toBe(10);
    expect([...(byElement.get(1) ?? [])]).toEqual([0, 0, 10, 10]);
  });

  test('divides what comes among elements by their shares', () => {
    const coming = { rows: [8, 0, 4, 4], patience: Infinity };
    const shares = new Map([
      [1, 0.75],
      [2, 0.25],
    ]);
    const { moved, residual, byElement, residualByElement } = ask({ capacity: [2, 2, 2, 2], coming: [{ ...coming, shares }] });
    expect(ask({ capacity: [2, 2, 2, 2], coming: [{ ...coming, shares: new Map([[1, 1]]) }] })).toMatchObject({ moved, residual });
    expect([...(byElement.get(1) ?? [])]).toEqual([...moved].map((rows) => 0.75 * rows));
    expect([...residualByElement.values()]).toEqual([0.75 * residual, 0.25 * residual]);
  });

  // It is made while everything else waits: in a time that does not grow with rows to come times slots.
  test('is made for thousands of elements and a day of slots', () => {
    const slots = 1440;
    const shares = new Map(Array.from({ length: 3000 }, (_, element) => [element, 1 / 3000]));
    const coming = [{ shares, rows: new Float64Array(slots).fill(10), patience: 15 }];
    const rows = Array.from({ length: 20_000 }, (_, entry) =>
      waiting({ element: entry % 3000, latest: entry % 15, clean: (entry % 7) / 7, calm: (entry % 11) / 11 }),
    );
    const { moved, residual } = ask({ capacity: new Float64Array(slots).fill(100), waiting: rows, coming });
    expect(sum(moved)).toBeGreaterThan(slots * 9);
    expect(residual).toBeGreaterThan(0);
  });

  test('counts on what comes in the last slot as residual, whatever the capacity', () => {
    expect(ask({ capacity: [1000, 1000], coming: [{ shares: new Map([[2, 1]]), rows: [0, 7], patience: Infinity }] })).toMatchObject({
      residual: 7,
    });
  });

  test('moves rows at their lag tolerance before any other, earliest first, hot or not', () => {
    const rows = [
      waiting({ rows: 30, clean: 1, calm: 1 }),
      waiting({ rows: 4, latest: 1, clean: 0.1 }),
      waiting({ rows: 8, latest: 0, clean: 0 }),
    ];
    const { now, order, forced } = ask({ waiting: rows, capacity: [10, 0, 10, 10] });
    expect(order.slice(0, 2)).toEqual([2, 1]);
    expect([...now]).toEqual([0, 2, 8]);
    expect(forced).toBe(2);
  });

  test('does not move rows that are not worth it, except at their lag tolerance', () => {
    const rows = [waiting({ rows: 30, clean: 0.1 }), waiting({ rows: 3, clean: 0.1, latest: 0 })];
    expect([...ask({ capacity: [10, 0], waiting: rows, worth: 0.5 }).now]).toEqual([0, 3]);
  });

  test('expects more than forecast by its reserve, and so begins earlier', () => {
    const rows = [waiting({ rows: 24, clean: 1 })];
    expect(sum(ask({ waiting: rows }).now)).toBe(0);
    expect(sum(ask({ waiting: rows, reserve: 2 }).now)).toBeCloseTo(9);
  });

  test('takes numbers that are none for nothing', () => {
    const { now, residual } = ask({
      capacity: [Number.NaN, 5],
      waiting: [waiting({ rows: Number.NaN }), waiting({ rows: 6, clean: Number.NaN })],
      coming: [{ shares: new Map([[0, 1]]), rows: [Number.NaN, Number.NaN], patience: Number.NaN }],
      reserve: Number.NaN,
    });
    expect([...now]).toEqual([0, 0]);
    expect(residual).toBe(0);
    expect(ask({ capacity: [], waiting: [waiting()] }).now).toEqual(new Float64Array(1));
  });

  test('never exceeds the capacity of any slot', () => {
    fc.assert(
      fc.property(request, (given) => {
        const { moved, now } = plan(given);
        for (const [slot, rows] of moved.entries()) expect(rows).toBeLessThanOrEqual((given.capacity[slot] as number) + 1e-6);
        expect(sum(now)).toBeLessThanOrEqual((given.capacity[0] as number) + 1e-6);
        for (const [entry, rows] of now.entries()) expect(rows).toBeLessThanOrEqual((given.waiting[entry]?.rows as number) + 1e-9);
      }),
    );
  });

  test('is the same for the same request', () => {
    fc.assert(
      fc.property(request, (given) => {
        expect(plan(structuredClone(given))).toEqual(plan(given));
      }),
    );
  });

  test('expects no larger residual where there is more headroom', () => {
    fc.assert(
      fc.property(request, fc.nat({ max: 19 }), amount, (given, slot, more) => {
        const capacity = Array.from(given.capacity, (rows, index) => (index === slot ? rows + more : rows));
        expect(plan({ ...given, capacity }).residual).toBeLessThanOrEqual(plan(given).residual + 1e-6);
      }),
    );
  });

  test('keeps every lag tolerance that capacity allows, when it is followed slot by slot', () => {
    const rows = fc.array(fc.record({ rows: fc.nat({ max: 9 }), clean: chance, calm: chance, latest: fc.nat({ max: 12 }) }), {
      maxLength: 10,
    });
    const slots = fc.array(fc.nat({ max: 12 }), { minLength: 14, maxLength: 14 });
    fc.assert(
      fc.property(rows, slots, fc.double({ min: 1, max: 3, noNaN: true }), (classes, capacity, reserve) => {
        const fits = capacity.every((_, slot) => {
          const due = sum(classes.filter(({ latest }) => latest <= slot).map((each) => each.rows));
          return due <= sum(capacity.slice(0, slot + 1));
        });
        fc.pre(fits);
        let left = classes.map((each) => waiting(each));
        for (const slot of capacity.keys()) {
          const ahead = left.map((each) => ({ ...each, latest: each.latest - slot }));
          const { now } = ask({ capacity: capacity.slice(slot), waiting: ahead, reserve });
          left = left.map((each, entry) => ({ ...each, rows: each.rows - (now[entry] as number) }));
          for (const { latest, rows: late } of left) if (latest <= slot) expect(late).toBeLessThan(1e-6);
        }
      }),
    );
  });
});
