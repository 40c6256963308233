import { describe, expect, test } from 'vitest';
import { DailyLoad, headroom } from './headroom.ts';
import type { ResourceOutlook } from './headroom.ts';

const HOUR_MS = 3_600_000;

function cpu(over: Partial<ResourceOutlook> = {}): ResourceOutlook {
  return { name: 'cpu', ceiling: 0.7, forecast: [0.2, 0.5, 0.9], measured: 0.3, costPerRow: 0.01, ...over };
}

describe('headroom', () => {
  test('is what the load leaves below the ceiling, by what a row costs, of the resource that leaves the least', () => {
    const io: ResourceOutlook = { name: 'io', ceiling: 100, forecast: [0, 95, 0], measured: 0, costPerRow: 1 };
    const { rows, boundBy } = headroom([cpu(), io], 3, { least: 2, most: 1000 });
    expect([...rows].map(Math.round)).toEqual([40, 5, 2]);
    expect(boundBy).toEqual(['cpu', 'io', 'cpu']);
  });

  test('takes what was measured for now, whether the forecast was higher or lower', () => {
    const limits = { least: 0, most: 1000 };
    expect(headroom([cpu({ measured: 0.7, forecast: [0, 0] })], 2, limits).rows[0]).toBe(0);
    expect(headroom([cpu({ measured: 0, forecast: [0.7, 0] })], 2, limits).rows[0]).toBeCloseTo(70);
  });

  test('goes on with what was measured where there is no forecast, and with half the ceiling where nothing is known', () => {
    const limits = { least: 0, most: 1000 };
    expect([...headroom([cpu({ forecast: [] })], 2, limits).rows].map(Math.round)).toEqual([40, 40]);
    const unknown = headroom([cpu({ forecast: [Number.NaN], measured: Number.NaN })], 1, limits);
    expect(unknown.rows[0]).toBeCloseTo(35);
  });

  test('is bounded by the stores alone where no resource is known, and never negative', () => {
    expect(headroom([], 2, { least: 1, most: 9 })).toEqual({ rows: new Float64Array([9, 9]), boundBy: [null, null] });
    expect(headroom([cpu({ measured: 5 })], 1, { least: 0, most: 9 }).rows[0]).toBe(0);
  });
});

describe('the usual load of a day', () => {
  test('is learned hour by hour, and its upper bound holds what varies', () => {
    const usual = new DailyLoad();
    expect(usual.upper(0)).toBeNaN();
    for (let hour = 0; hour < 24 * 20; hour++) usual.learn(hour * HOUR_MS, hour % 24 === 3 ? 0.8 + 0.1 * (hour % 2) : 0.2, HOUR_MS);
    expect(usual.upper(1000 * HOUR_MS * 24)).toBeCloseTo(0.2);
    expect(usual.upper(3 * HOUR_MS)).toBeGreaterThan(0.79);
  });

  test('takes the mean of what it saw for an hour it has not, and nothing from a load that is none', () => {
    const usual = new DailyLoad();
    usual.learn(0, 0.4, HOUR_MS);
    usual.learn(0, Number.NaN, HOUR_MS);
    expect(usual.upper(5 * HOUR_MS)).toBeCloseTo(0.4);
    expect(usual.upper(-19 * HOUR_MS)).toBeCloseTo(0.4);
  });
});
