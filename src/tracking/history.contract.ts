import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Distinct } from '../model/distinct.ts';
import { ORIGIN, position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import {
  type History,
  LEARNED_LENGTH_MAX,
  type Observation,
  type SlotActivity,
  type SlotLengths,
  SLOTS_KEPT,
  TURNS_KEPT,
  slotLengths,
  stepsOf,
} from './history.ts';

const HOUR = 3_600_000;
const MINUTE = 60_000;
const ORDERS = 'orders' as TableName;
const NOTES = 'notes' as TableName;
/** A Sunday, at midnight. */
const START = Date.UTC(2026, 10, 22);

export interface HistoryFixture extends AsyncDisposable {
  /** Opens it; after closing it, the same one, where it outlives its process. */
  open(lengths: SlotLengths): Promise<History>;
  readonly survives: boolean;
}

/** Rows by number, as hashes far apart. */
function rows(...numbers: number[]): Distinct {
  const distinct = new Distinct();
  for (const number of numbers) distinct.add(Math.imul(number + 1, 0x9e3779b1) >>> 0);
  return distinct;
}

function activity(table: TableName, atMs: number | null, changes: number, seen: Distinct): SlotActivity {
  return { table, atMs, changes, bytes: changes * 100, rows: seen };
}

const nothing: Observation = { counted: null, observed: null, activity: [], load: [] };
const observing = (fromMs: number, untilMs: number, ...each: SlotActivity[]): Observation => ({
  ...nothing,
  observed: { fromMs, untilMs },
  activity: each,
});

/** What every history promises (`history.ts`). */
export function describeHistory(name: string, make: () => Promise<HistoryFixture>): void {
  describe(`history contract: ${name}`, () => {
    let fixture: HistoryFixture;
    let history: History;
    const lengths = slotLengths(24 * HOUR);

    beforeEach(async () => {
      fixture = await make();
      history = await fixture.open(lengths);
    });

    afterEach(async () => {
      await history[Symbol.asyncDispose]();
      await fixture[Symbol.asyncDispose]();
    });

    const shown = async (table: TableName, stepMs: number, fromMs: number, untilMs: number) => {
      const found = (await history.activity({ stepMs, fromMs, untilMs }, [table])).get(table);
      return found === undefined ? null : [[...found.changes.values], [...found.distinct.values]];
    };

    test('an idle minute is zero, one that nobody observed is a gap', async () => {
      await history.add(observing(START, START + MINUTE, activity(ORDERS, START + 1, 3, rows(1, 2))));
      await history.add(observing(START + MINUTE, START + 2 * MINUTE));
      await history.add(observing(START + 3 * MINUTE, START + 4 * MINUTE, activity(NOTES, START + 3 * MINUTE, 1, rows(1))));
      const gap = Number.NaN;
      expect(await shown(ORDERS, MINUTE, START, START + 4 * MINUTE)).toEqual([
        [3, 0, gap, 0],
        [2, 0, gap, 0],
      ]);
      expect(await shown(NOTES, MINUTE, START, START + 4 * MINUTE)).toEqual([
        [gap, gap, gap, 1],
        [gap, gap, gap, 1],
      ]);
      // Not half of the hour was observed.
      expect(await shown(ORDERS, HOUR, START, START + HOUR)).toEqual([[gap], [gap]]);
      expect((await history.known()).tables.map(({ table }) => table)).toEqual([NOTES, ORDERS]);
    });

    test('a row changed in two minutes counts once in their hour', async () => {
      await history.add(observing(START, START + HOUR, activity(ORDERS, START, 2, rows(1, 2))));
      await history.add({ ...nothing, activity: [activity(ORDERS, START + MINUTE, 2, rows(2, 3)), activity(ORDERS, START, 1, rows(1))] });
      expect(await shown(ORDERS, MINUTE, START, START + 2 * MINUTE)).toEqual([
        [3, 2],
        [2, 2],
      ]);
      expect(await shown(ORDERS, HOUR, START, START + HOUR)).toEqual([[5], [3]]);
      const range = { stepMs: MINUTE, fromMs: START, untilMs: START + 2 * MINUTE };
      expect([...(await history.totals(range))]).toEqual([[ORDERS, { changes: 5, bytes: 500, distinct: 3 }]]);
    });

    test('a slot that was observed in part is scaled up', async () => {
      await history.add(observing(START + 15_000, START + MINUTE, activity(ORDERS, START + 20_000, 6, rows(1, 2, 3))));
      expect(await shown(ORDERS, MINUTE, START, START + MINUTE)).toEqual([[8], [4]]);
    });

    test('changes of a time nobody knows are counted in all, and in no slot', async () => {
      await history.add(observing(START, START + MINUTE, activity(ORDERS, null, 7, rows(1))));
      expect((await history.known()).tables).toEqual([{ table: ORDERS, undated: 7 }]);
      expect(await shown(ORDERS, MINUTE, START, START + MINUTE)).toEqual([[Number.NaN], [Number.NaN]]);
      expect((await history.activity({ stepMs: MINUTE, fromMs: START, untilMs: START + MINUTE })).size).toBe(0);
    });

    test('keeps what the loop did, the newest of it, in the order of time', async () => {
      expect(await history.turns(0, 10)).toEqual([]);
      const turns = Array.from({ length: 5 }, (_, index) => ({ atMs: START + index * MINUTE, document: `{"turn":${index}}` }));
      for (const turn of turns.toReversed()) await history.keepTurn(turn);
      expect(await history.turns(0, 10)).toEqual(turns);
      expect(await history.turns(START + MINUTE, 3)).toEqual(turns.slice(2));
      await history.keepTurn({ atMs: START, document: 'again' });
      expect(await history.turns(0, 5)).toEqual([{ atMs: START, document: 'again' }, ...turns.slice(1)]);
    });

    test('keeps no more turns than it says', async () => {
      for (let turn = 0; turn <= TURNS_KEPT; turn++) await history.keepTurn({ atMs: turn, document: '' });
      expect((await history.turns(0, TURNS_KEPT + 2)).map(({ atMs }) => atMs).slice(0, 2)).toEqual([1, 2]);
    });

    test('keeps what was learned of rows, the newest of it, and nothing too large', async () => {
      expect(await history.learned()).toBeNull();
      await history.keepLearned('{"rows":1}');
      await history.keepLearned('{"rows":2}');
      await expect(history.keepLearned('x'.repeat(LEARNED_LENGTH_MAX + 1))).rejects.toThrow(RangeError);
      if (fixture.survives) {
        await history[Symbol.asyncDispose]();
        history = await fixture.open(lengths);
      }
      expect(await history.learned()).toBe('{"rows":2}');
    });

    test('remembers where counting stands, with what was counted', async () => {
      expect(await history.counted()).toBeNull();
      const counted = { journal: 'j', at: position(7n), observedToMs: START };
      await history.add({ ...nothing, counted });
      await history.add({ ...nothing, load: [{ resource: 'cpu', atMs: START, lengthMs: 1, value: 1 }] });
      expect(await history.counted()).toEqual(counted);
      await history.add({ ...nothing, counted: { journal: 'j', at: ORIGIN, observedToMs: null } });
      expect(await history.counted()).toEqual({ journal: 'j', at: ORIGIN, observedToMs: null });
    });

    test('is the same after it was closed', async () => {
      if (!fixture.survives) return;
      const counted = { journal: 'j', at: position(9n), observedToMs: START + MINUTE };
      const loaded = { resource: 'cpu', atMs: START, lengthMs: MINUTE, value: 40 };
      await history.add({ ...observing(START, START + MINUTE, activity(ORDERS, START, 2, rows(1, 2))), counted, load: [loaded] });
      await history[Symbol.asyncDispose]();
      history = await fixture.open(lengths);
      await history.add({ ...nothing, activity: [activity(ORDERS, START, 2, rows(2, 3))] });
      expect(await history.counted()).toEqual(counted);
      expect(await shown(ORDERS, MINUTE, START, START + MINUTE)).toEqual([[4], [3]]);
    });

    test('load is the mean over what was sampled, with its peak', async () => {
      const sample = (atMs: number, lengthMs: number, value: number) => ({ resource: 'cpu', atMs, lengthMs, value });
      await history.add({ ...nothing, load: [sample(START, 20_000, 10), sample(START + 20_000, 20_000, 40)] });
      await history.add({ ...nothing, load: [sample(START + MINUTE, 10_000, 99)] });
      const found = (await history.load({ stepMs: MINUTE, fromMs: START, untilMs: START + 2 * MINUTE })).get('cpu');
      expect([...(found?.mean.values ?? [])]).toEqual([25, Number.NaN]);
      expect([...(found?.peak.values ?? [])]).toEqual([40, Number.NaN]);
      expect((await history.known()).resources).toEqual(['cpu']);
    });

    test('seeds fill what was not observed, roll up, and can be given again', async () => {
      const live = START + 2 * HOUR;
      await history.add(observing(live, live + HOUR, activity(ORDERS, live, 5, rows(1))));
      const seed = {
        stepMs: HOUR,
        observed: null,
        activity: [0, 1, 2].map((hour) => ({ table: ORDERS, atMs: START + hour * HOUR, changes: 10, distinct: 4, bytes: 1000 })),
        load: [{ resource: 'cpu', atMs: START, value: 30 }],
      };
      for (let twice = 0; twice < 2; twice++) {
        await history.seed(seed);
        expect(await shown(ORDERS, HOUR, START, START + 4 * HOUR)).toEqual([
          [10, 10, 5, Number.NaN],
          [4, 4, 1, Number.NaN],
        ]);
      }
      const all = await history.totals({ stepMs: HOUR, fromMs: START, untilMs: START + 4 * HOUR });
      expect([...all]).toEqual([[ORDERS, { changes: 25, bytes: 2500, distinct: null }]]);
      await history.seed({
        ...seed,
        activity: [3, 4, 5, 6, 7, 8, 9, 10, 11].map((hour) => ({
          ...seed.activity[0],
          table: ORDERS,
          atMs: START + hour * HOUR,
          changes: 1,
          distinct: 1,
          bytes: 9,
        })),
      });
      // Twelve hours of the day: ten, ten, five and nine changes.
      expect(await shown(ORDERS, 24 * HOUR, START, START + 24 * HOUR)).toEqual([[68], [36]]);
      expect((await history.load({ stepMs: HOUR, fromMs: START, untilMs: START + HOUR })).get('cpu')?.mean.values).toEqual(
        new Float64Array([30]),
      );
    });

    test('slots of a seed in which nothing is named are zero where it says that it saw them', async () => {
      const one = { table: ORDERS, atMs: START + MINUTE, changes: 3, distinct: 2, bytes: 1 };
      const observed = { fromMs: START, untilMs: START + 4 * MINUTE };
      await history.seed({ stepMs: MINUTE, observed, activity: [one], load: [] });
      const gap = Number.NaN;
      expect((await shown(ORDERS, MINUTE, START, START + 5 * MINUTE))?.[0]).toEqual([gap, 3, 0, 0, gap]);
      await history.add({ ...nothing, activity: [activity(ORDERS, START + 2 * MINUTE, 4, rows(1))] });
      expect((await shown(ORDERS, MINUTE, START, START + 5 * MINUTE))?.[0]).toEqual([gap, 3, 4, 0, gap]);
    });

    test('a clock that was wrong for a while loses no more than the slots it made', async () => {
      await history.add(observing(START, START + MINUTE, activity(ORDERS, START, 1, rows(1))));
      const wrong = START + 70 * 365 * 24 * HOUR;
      await history.add(observing(wrong, wrong + MINUTE, activity(ORDERS, wrong, 1, rows(2))));
      await history.add(observing(START, wrong));
      await history.add(observing(START - HOUR, START - HOUR + MINUTE, activity(ORDERS, START - HOUR, 1, rows(3))));
      expect(await shown(ORDERS, MINUTE, START, START + 2 * MINUTE)).toEqual([
        [1, Number.NaN],
        [1, Number.NaN],
      ]);
      expect(await shown(ORDERS, MINUTE, START - HOUR, START - HOUR + MINUTE)).toEqual([[1], [1]]);
      await expect(history.activity({ stepMs: MINUTE, fromMs: START, untilMs: wrong * 1e6 })).rejects.toThrow(RangeError);
    });

    test('keeps the newest slots', async () => {
      const [minutes] = SLOTS_KEPT;
      const at = (index: number): number => START + index * MINUTE;
      const seeded = Array.from({ length: minutes + 50 }, (_, index) => ({
        table: ORDERS,
        atMs: at(index),
        changes: 1,
        distinct: 1,
        bytes: 1,
      }));
      await history.seed({ stepMs: MINUTE, observed: null, activity: seeded, load: [] });
      for (let i = 0; i < 40; i++) await history.add(observing(at(minutes + 50 + i), at(minutes + 51 + i)));
      expect(await shown(ORDERS, MINUTE, at(40), at(42))).toEqual([
        [Number.NaN, Number.NaN],
        [Number.NaN, Number.NaN],
      ]);
      expect((await shown(ORDERS, MINUTE, at(200), at(201)))?.[0]).toEqual([1]);
      expect((await shown(ORDERS, HOUR, START, START + HOUR))?.[0]).toEqual([60]);
    });

    test('whatever is added, in whatever order, hours and days are the sums of their minutes', async () => {
      const one = fc.record({
        minute: fc.nat(2 * 24 * 60 - 1),
        changes: fc.integer({ min: 1, max: 5 }),
        row: fc.nat(40),
        again: fc.boolean(),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(fc.array(one, { maxLength: 12 }), { maxLength: 6 }), async (batches) => {
          await using own = await make();
          let each = await own.open(lengths);
          for (const batch of batches) {
            await each.add({
              ...nothing,
              activity: batch.map(({ minute, changes, row }) => activity(ORDERS, START + minute * MINUTE, changes, rows(row))),
            });
            if (own.survives && batch[0]?.again === true) {
              await each[Symbol.asyncDispose]();
              each = await own.open(lengths);
            }
          }
          // Last, for the sketches of older minutes are then forgotten.
          await each.add(observing(START, START + 48 * HOUR));
          const all = batches.flat();
          for (const stepMs of all.length === 0 ? [] : stepsOf(lengths)) {
            const first = Math.min(...all.map(({ minute }) => Math.floor((minute * MINUTE) / stepMs)));
            const slots = Array.from({ length: (48 * HOUR) / stepMs }, (_, slot) =>
              all.filter(({ minute }) => Math.floor((minute * MINUTE) / stepMs) === slot),
            );
            const sums = slots.map((within) => within.reduce((sum, { changes }) => sum + changes, 0));
            const distinct = slots.map((within) => new Set(within.map(({ row }) => row)).size);
            const found = (await each.activity({ stepMs, fromMs: START, untilMs: START + 48 * HOUR }, [ORDERS])).get(ORDERS);
            const gaps = (values: number[]): number[] => values.map((value, slot) => (slot < first ? Number.NaN : value));
            expect([...(found?.changes.values ?? [])]).toEqual(gaps(sums));
            expect([...(found?.distinct.values ?? [])]).toEqual(gaps(distinct));
          }
          await each[Symbol.asyncDispose]();
        }),
        { numRuns: 15 },
      );
    });

    test('a day of another length has slots of its own', async () => {
      const quick = slotLengths(24 * MINUTE);
      await history[Symbol.asyncDispose]();
      history = await fixture.open(quick);
      await history.add(observing(START, START + MINUTE, activity(ORDERS, START + 500, 3, rows(1, 2))));
      expect(await shown(ORDERS, 1000, START, START + 2000)).toEqual([
        [3, 0],
        [2, 0],
      ]);
      expect(await shown(ORDERS, MINUTE, START, START + MINUTE)).toEqual([[3], [2]]);
      await expect(history.activity({ stepMs: HOUR, fromMs: START, untilMs: START + HOUR })).rejects.toThrow(RangeError);
    });
  });
}
