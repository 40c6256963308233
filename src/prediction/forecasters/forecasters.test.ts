import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { believable, onLogs } from './forecaster.ts';
import { dot, Regression } from './linear.ts';
import { persistence } from './naive.ts';
import { FORECASTERS } from './pool.ts';

const HOURS = { day: 24, week: 168 };

function series(length: number, of: (index: number) => number): Float64Array {
  return Float64Array.from({ length }, (_, index) => of(index));
}

function worst(said: Float64Array, came: Float64Array): number {
  return said.reduce((most, value, step) => Math.max(most, Math.abs(value - (came[step] as number))), 0);
}

describe.each(FORECASTERS.map((forecaster) => [forecaster.name, forecaster] as const))('%s', (_, forecaster) => {
  const seasons = Number.isFinite(forecaster.needs(HOURS)) ? HOURS : { day: 96, week: 672 };

  test('says a constant where there is nothing else, from its first value on', () => {
    for (const length of [forecaster.needs(seasons), forecaster.needs(seasons) + 1, 4 * seasons.week]) {
      const values = new Float64Array(Math.max(1, length)).fill(7);
      expect(worst(forecaster.forecast(values, seasons.day, seasons), new Float64Array(seasons.day).fill(7))).toBeLessThan(1e-6);
    }
  });

  test('says nothing of nothing', () => {
    const said = forecaster.forecast(new Float64Array(2 * seasons.week), 5, seasons);
    expect(worst(said, new Float64Array(5))).toBeLessThan(1e-9);
  });

  test('is finite, as long as asked, and the same again, whatever the values', () => {
    const value = fc.oneof(
      fc.integer({ min: 0, max: 1000 }),
      fc.constantFrom(0, 1e-300, 1e12),
      fc.double({ min: 0, max: 1e6, noNaN: true }),
    );
    const values = fc.array(value, { minLength: Math.max(1, forecaster.needs(seasons)), maxLength: 2 * seasons.week + 60, size: 'max' });
    fc.assert(
      fc.property(values, fc.integer({ min: 1, max: 300 }), (each, steps) => {
        const known = Float64Array.from(each);
        const said = forecaster.forecast(known, steps, seasons);
        expect(said).toHaveLength(steps);
        expect(said.every((number) => Number.isFinite(number))).toBe(true);
        expect(forecaster.forecast(known, steps, seasons)).toEqual(said);
        expect([...known]).toEqual(each);
      }),
      { numRuns: 4 },
    );
  });
});

test('those that know the hour tell a daily pattern, and go on with it where it stands', () => {
  const daily = (index: number) => 100 + 80 * Math.sin((index / 24) * 2 * Math.PI);
  const came = series(24, (step) => daily(700 + step));
  const good = FORECASTERS.filter((each) => 700 >= each.needs(HOURS) && worst(each.forecast(series(700, daily), 24, HOURS), came) < 8);
  for (const name of [
    'Holt-Winters',
    'autoregression',
    'day before',
    'week before',
    'mean of 7 days',
    'mean of 4 weeks',
    'median of 7 days',
  ])
    expect(good.map((each) => each.name)).toContain(name);
});

test('on logs the middle is that of the factors', () => {
  expect([...onLogs(persistence).forecast(Float64Array.of(1, 9), 2, HOURS)].map((value) => Math.round(value))).toEqual([9, 9]);
});

test('what is absurd, negative, no number or too short is not believed', () => {
  const values = Float64Array.of(1, 2, 10);
  expect(believable(Float64Array.of(30, 0), values, 2)).not.toBeNull();
  for (const said of [[31, 0], [-1, 0], [Number.NaN, 0], [Infinity, 0], [1]])
    expect(believable(Float64Array.from(said), values, 2)).toBeNull();
});

describe('least squares', () => {
  test('find the line that made the rows, through any scales', () => {
    const numbers = fc.array(fc.double({ min: -10, max: 10, noNaN: true }), { minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(numbers, fc.array(numbers, { minLength: 30, maxLength: 60 }), (truth, rows) => {
        const regression = new Regression(3);
        const made = rows.map(([a = 0, b = 0, c = 0], index) =>
          Float64Array.of(1, a + Math.sin(index * 7), 1000 * (b + Math.cos(index * 3)), c + Math.sin(index * 11)),
        );
        const line = Float64Array.of(truth[0] as number, truth[1] as number, (truth[2] as number) / 1000, truth[3] as number);
        for (const row of made) regression.add(row, dot(row, line));
        const found = regression.solve(1e-12) as Float64Array;
        for (const row of made) expect(dot(row, found)).toBeCloseTo(dot(row, line), 3);
      }),
    );
  });

  test('pass over columns that never vary, and say nothing of no rows', () => {
    const regression = new Regression(2);
    expect(regression.solve(0.1)).toBeNull();
    for (let x = 0; x < 10; x++) regression.add(Float64Array.of(1, x, 5), 3 + 2 * x);
    const found = regression.solve(0) as Float64Array;
    expect([...found].map((value) => Math.round(value * 1000) / 1000)).toEqual([3, 2, 0]);
  });

  test('forget what faded', () => {
    const regression = new Regression(1);
    for (let x = 0; x < 10; x++) regression.add(Float64Array.of(1, x), 100 - x);
    regression.fade(1e-9);
    for (let x = 0; x < 10; x++) regression.add(Float64Array.of(1, x), x);
    expect(regression.solve(0)?.[1]).toBeCloseTo(1, 3);
  });
});
