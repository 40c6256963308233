import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { aggregate, fromSamples, HOUR_MS, impute, indexAt, localSteps, quantile, slice, timeAt, tame, toLocal } from './series.ts';
import type { Series } from './series.ts';

const MINUTE_MS = 60_000;

function series(values: readonly number[], startMs = 0, stepMs = HOUR_MS): Series {
  return { startMs, stepMs, values: Float64Array.from(values) };
}

describe('a grid of samples', () => {
  test('leaves a gap where nothing was observed, and takes what is no number for nothing', () => {
    const made = fromSamples(
      [
        { atMs: 61_000, value: 1 },
        { atMs: 190_000, value: 4 },
        { atMs: 125_000, value: Number.NaN },
      ],
      MINUTE_MS,
    );
    expect(made.startMs).toBe(MINUTE_MS);
    expect([...made.values]).toEqual([1, Number.NaN, 4]);
  });

  test('a clock set back rewrites what it lived through twice, and nothing else', () => {
    const times = [0, 1, 2, 3, 1, 2, 3, 4];
    const made = fromSamples(
      times.map((minute, order) => ({ atMs: minute * MINUTE_MS, value: order })),
      MINUTE_MS,
    );
    expect([...made.values]).toEqual([0, 4, 5, 6, 7]);
  });

  test('one sample from another century does not take all memory', () => {
    const samples = [
      { atMs: 0, value: 1 },
      { atMs: 4e15, value: 1 },
    ];
    expect(() => fromSamples(samples, MINUTE_MS)).toThrow(RangeError);
  });

  test('of no samples is empty', () => {
    expect(fromSamples([], MINUTE_MS).values).toHaveLength(0);
  });

  test('finds a step by its time', () => {
    const made = series([1, 2, 3], 5 * HOUR_MS);
    expect(indexAt(made, timeAt(made, 2) + 1)).toBe(2);
    expect(indexAt(made, made.startMs - 1)).toBe(-1);
    expect(slice(made, 1).startMs).toBe(6 * HOUR_MS);
  });
});

describe('longer steps', () => {
  test('begin at multiples of themselves, and scale what was observed in part', () => {
    const minutes = series([1, 1, 1, 1, Number.NaN, 3], 2 * MINUTE_MS, MINUTE_MS);
    const made = aggregate(minutes, 4 * MINUTE_MS, 'sum');
    expect(made.startMs).toBe(0);
    expect([...made.values]).toEqual([4, (5 * 4) / 3]);
    expect([...aggregate(minutes, 4 * MINUTE_MS, 'mean').values]).toEqual([1, 5 / 3]);
    expect([...aggregate(minutes, 4 * MINUTE_MS, 'max').values]).toEqual([1, 3]);
  });

  test('are a gap where less than half was observed', () => {
    expect([...aggregate(series([5, Number.NaN, Number.NaN, Number.NaN]), 4 * HOUR_MS, 'sum').values]).toEqual([Number.NaN]);
  });

  test('keep the total where nothing is missing', () => {
    const values = fc.array(fc.integer({ min: 0, max: 1e6 }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(values, fc.integer({ min: 1, max: 6 }), fc.integer({ min: 0, max: 5 }), (each, ratio, offset) => {
        const whole = [...Array<number>(offset).fill(0), ...each];
        while (whole.length % ratio !== 0) whole.push(0);
        const made = aggregate(series(whole), ratio * HOUR_MS, 'sum');
        expect(made.values.reduce((sum, value) => sum + value, 0)).toBe(each.reduce((sum, value) => sum + value, 0));
      }),
    );
  });

  test('that the shorter do not fill are refused', () => {
    expect(() => aggregate(series([1]), 1.5 * HOUR_MS, 'sum')).toThrow(RangeError);
  });
});

describe('gaps', () => {
  test('are filled from the past alone', () => {
    const [none] = [Number.NaN];
    const made = impute(series([none, 1, 2, 3, none, none, 6]), 2);
    expect(made.startMs).toBe(HOUR_MS);
    expect([...made.values]).toEqual([1, 2, 3, 2, 3, 6]);
    expect(impute(series([none, none]), 2).values).toHaveLength(0);
  });

  test('no filled value depends on anything after it', () => {
    const values = fc.array(fc.option(fc.integer({ min: 0, max: 9 }), { nil: Number.NaN }), { minLength: 2, maxLength: 40 });
    fc.assert(
      fc.property(values, fc.nat(), (each, at) => {
        const cut = 1 + (at % (each.length - 1));
        const [whole, part] = [impute(series(each), 3), impute(series(each.slice(0, cut)), 3)];
        expect([...whole.values.subarray(0, part.values.length)]).toEqual([...part.values]);
      }),
    );
  });

  test('stay where an absurd value is put at the edge of the rest', () => {
    const made = tame(Float64Array.from([...Array(199).keys(), 1e6, Number.NaN]));
    expect(made.at(-2)).toBeCloseTo(10 * 197.01, 6);
    expect(made.at(-1)).toBeNaN();
    expect([...made.subarray(0, 199)]).toEqual([...Array(199).keys()]);
    expect([...tame(Float64Array.from({ length: 151 }, (_, index) => (index === 150 ? 9 : 0)))]).toContain(9);
  });
});

test('a quantile lies between its neighbours', () => {
  expect(quantile([1, 2, 3, 4], 0.5)).toBe(2.5);
  expect(quantile([7], 0.9)).toBe(7);
  expect(quantile([], 0.9)).toBeNaN();
});

describe('the clock on the wall', () => {
  // Two days around each change in Berlin: 2026-03-29 has no 02:00, 2026-10-25 has two.
  const spring = Date.UTC(2026, 2, 28, 0);
  const autumn = Date.UTC(2026, 9, 24, 0);
  const hours = (startMs: number) => series([...Array(48).keys()], startMs);

  test('an hour that a spring day leaves out is a gap', () => {
    const local = toLocal(hours(spring), 'Europe/Berlin');
    const missing = indexAt(local, Date.UTC(2026, 2, 29, 2));
    expect(local.values[missing]).toBeNaN();
    expect(local.values).toHaveLength(49);
    expect(local.values[missing + 1]).toBe((local.values[missing - 1] as number) + 1);
  });

  test('an hour that an autumn day has twice is their mean', () => {
    const local = toLocal(hours(autumn), 'Europe/Berlin');
    const twice = indexAt(local, Date.UTC(2026, 9, 25, 2));
    expect(local.values[twice]).toBe((local.values[twice - 1] as number) + 1.5);
    expect(local.values).toHaveLength(47);
  });

  test('what depends on the local hour keeps a season of 24 through both', () => {
    for (const startMs of [spring, autumn]) {
      const hour = new Intl.DateTimeFormat('en-US', { timeZone: 'Europe/Berlin', hour: 'numeric', hourCycle: 'h23' });
      const values = hours(startMs).values.map((_, index) => Number(hour.format(startMs + index * HOUR_MS)));
      const local = toLocal({ startMs, stepMs: HOUR_MS, values }, 'Europe/Berlin');
      const first = new Date(local.startMs).getUTCHours();
      for (const [index, value] of local.values.entries()) if (!Number.isNaN(value)) expect(value).toBe((first + index) % 24);
    }
  });

  test('steps of UTC find their places in a local series: none, one or two to a place', () => {
    const local = toLocal(hours(autumn), 'Europe/Berlin');
    const { places, count } = localSteps(autumn, HOUR_MS, 48, local.startMs, 'Europe/Berlin');
    expect(count).toBe(47);
    expect([...places].filter((place) => place === indexAt(local, Date.UTC(2026, 9, 25, 2)))).toHaveLength(2);
    const ahead = localSteps(spring, HOUR_MS, 48, toLocal(hours(spring), 'Europe/Berlin').startMs, 'Europe/Berlin');
    expect(new Set(ahead.places).size).toBe(48);
    expect(ahead.count).toBe(49);
  });

  test('UTC and zones of half hours change nothing but the start', () => {
    const utc = hours(spring);
    expect(toLocal(utc, 'UTC')).toEqual(utc);
    expect(toLocal(utc, 'Asia/Kolkata').startMs - utc.startMs).toBe(5.5 * HOUR_MS);
    expect([...toLocal(utc, 'Asia/Kolkata').values]).toEqual([...utc.values]);
    expect(() => toLocal(utc, 'Nowhere/At_All')).toThrow(RangeError);
  });
});
