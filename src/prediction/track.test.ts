import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { persistence, seasonalNaive } from './forecasters/naive.ts';
import { FORECASTERS } from './forecasters/pool.ts';
import { HOUR_MS } from './series.ts';
import type { Series } from './series.ts';
import { scaleOf, Track } from './track.ts';
import type { Forecast, TrackSettings } from './track.ts';

const SETTINGS: TrackSettings = { season: { day: 24, week: 168 }, steps: 24, zone: 'UTC', reach: 672 };

function series(length: number, of: (index: number) => number): Series {
  return { startMs: 0, stepMs: HOUR_MS, values: Float64Array.from({ length }, (_, index) => of(index)) };
}

/** Goes through a series as time does, a forecast every few hours; the last one. */
function goThrough(track: Track, whole: Series, from: number, every = 5): Forecast {
  let forecast: Forecast | undefined;
  for (let at = from; at <= whole.values.length; at += every) forecast = track.turn({ ...whole, values: whole.values.slice(0, at) });
  if (forecast === undefined) throw new Error('the series is shorter than its first turn');
  return forecast;
}

const daily = (index: number) => 100 + 80 * Math.sin((index / 24) * 2 * Math.PI);
/** Repeats itself, and looks like noise. */
const noise = (index: number) => 20 * ((Math.sin(index * 12.9898) * 43_758.5453) % 1) ** 2;

describe('what a forecast rests on', () => {
  test('nothing, where nothing was ever observed', () => {
    for (const values of [series(0, daily), series(50, () => Number.NaN)]) {
      const forecast = new Track(SETTINGS).turn(values);
      expect(forecast.basis).toBe('none');
      expect(forecast.point.every(Number.isNaN)).toBe(true);
    }
  });

  test('the level, on the first day', () => {
    const forecast = new Track(SETTINGS).turn(series(5, () => 40));
    expect(forecast.basis).toBe('cold');
    expect([...forecast.point].every((value) => Math.abs(value - 40) < 1)).toBe(true);
  });

  test('the mean rate, of a series that hardly ever does anything', () => {
    const forecast = goThrough(
      new Track(SETTINGS),
      series(400, (index) => (index % 100 === 0 ? 336 : 0)),
      390,
    ); // three in two weeks
    expect(forecast.basis).toBe('sparse');
    expect(forecast.point[0]).toBeCloseTo(3, 5);
  });

  test('those that erred least, once errors are known', () => {
    const forecast = goThrough(
      new Track(SETTINGS),
      series(600, (index) => daily(index) + noise(index)),
      200,
    );
    expect(forecast.basis).toBe('measured');
    const truth = Float64Array.from({ length: 24 }, (_, step) => daily(forecast.startMs / HOUR_MS + step) + 10);
    for (const [step, value] of forecast.point.entries()) expect(Math.abs(value - (truth[step] as number))).toBeLessThan(20);
  });

  test('the plain median of all, where each is right in turn and nobody knows whose turn it is', () => {
    const whole = series(600, (index) => daily(index) + noise(index));
    let at = 200;
    const inTurn = (place: number) => ({
      name: `number ${place}`,
      needs: () => 1,
      forecast: (_: Float64Array, steps: number) => {
        const off = [0, 60, -60][(at + place) % 3] as number;
        return Float64Array.from({ length: steps }, (__, step) => Math.max(0, (whole.values[at + step] as number) + off));
      },
    });
    const track = new Track({ ...SETTINGS, forecasters: [inTurn(0), inTurn(1), inTurn(2)] });
    let forecast: Forecast | undefined;
    for (; at < 500; at += 5) forecast = track.turn({ ...whole, values: whole.values.slice(0, at) });
    expect(forecast?.voices[0]).toBe('median of all');
    expect(forecast?.point).toEqual(whole.values.slice(495, 519));
  });

  test('seasonal naive, where those that were believed turn out worse, or fail', () => {
    const whole = series(700, (index) => daily(index) + noise(index));
    let at = 200;
    // Right in everything until hour 500; from then on far off, with the credit of before.
    const gifted = {
      name: 'gifted',
      needs: () => 1,
      forecast: (_: Float64Array, steps: number) =>
        Float64Array.from({ length: steps }, (__, step) => (at < 500 ? (whole.values[at + step] as number) : 190)),
    };
    const track = new Track({ ...SETTINGS, forecasters: [gifted, seasonalNaive('day before', 'day')] });
    const bases: string[] = [];
    for (; at < 600; at += 5) {
      const forecast = track.turn({ ...whole, values: whole.values.slice(0, at) });
      bases.push(forecast.basis);
      if (forecast.basis === 'known-good') expect(forecast.voices).toEqual(['day before']);
    }
    expect(bases.slice(10, 60)).not.toContain('known-good');
    expect(bases.slice(60)).toContain('known-good');
    const broken = { ...gifted, forecast: (_: Float64Array, steps: number) => new Float64Array(steps).fill(Number.NaN) };
    const alone = new Track({ ...SETTINGS, forecasters: [broken] }).turn(series(100, daily));
    expect(alone.basis).toBe('known-good');
    expect(alone.point.every((value) => Number.isFinite(value))).toBe(true);
  });
});

describe('nothing is known before its time', () => {
  test('no forecast depends on what comes after it', () => {
    const values = fc.array(fc.option(fc.integer({ min: 0, max: 50 }), { nil: Number.NaN, freq: 10 }), {
      minLength: 120,
      maxLength: 200,
      size: 'max',
    });
    fc.assert(
      fc.property(values, values, (past, future) => {
        const [one, other] = [new Track(SETTINGS), new Track(SETTINGS)];
        const longer = Float64Array.from([...past, ...future]);
        for (let at = 60; at <= past.length; at += 7) {
          const alone = one.turn({ startMs: 0, stepMs: HOUR_MS, values: Float64Array.from(past.slice(0, at)) });
          // A view on memory that goes on with the future.
          const viewed = other.turn({ startMs: 0, stepMs: HOUR_MS, values: longer.subarray(0, at) });
          expect(viewed.point).toEqual(alone.point);
          expect(viewed.upper).toEqual(alone.upper);
        }
      }),
      { numRuns: 10 },
    );
  });

  test('an error counts only once all it is about has come', () => {
    const track = new Track({ ...SETTINGS, forecasters: [persistence, seasonalNaive('day before', 'day')] });
    const whole = series(200, daily);
    const until = (at: number) => track.turn({ ...whole, values: whole.values.slice(0, at) });
    until(100);
    expect(track.errorOf('persistence', 0)).toBeNull();
    until(101);
    expect(track.errorOf('persistence', 0)).not.toBeNull();
    expect(track.errorOf('persistence', 23)).toBeNull();
    until(124);
    expect(track.errorOf('persistence', 23)).not.toBeNull();
  });
});

describe('trouble', () => {
  test('a clock set back: what was forecast from later moments is forgotten', () => {
    const [track, fresh] = [new Track(SETTINGS), new Track(SETTINGS)];
    const whole = series(400, (index) => daily(index) + noise(index));
    goThrough(fresh, { ...whole, values: whole.values.slice(0, 250) }, 200);
    goThrough(track, { ...whole, values: whole.values.slice(0, 250) }, 200);
    track.turn({ ...whole, values: whole.values.slice(0, 253) });
    const again = { ...whole, values: whole.values.slice(0, 251) };
    expect(track.turn(again).point).toEqual(fresh.turn(again).point);
  });

  test('gaps are no errors, and a hole in the history is bridged', () => {
    const gappy = series(700, (index) => (index % 10 === 3 || (index > 400 && index < 470) ? Number.NaN : daily(index)));
    const forecast = goThrough(new Track(SETTINGS), gappy, 200);
    for (const [step, value] of forecast.point.entries())
      expect(Math.abs(value - daily(forecast.startMs / HOUR_MS + step))).toBeLessThan(15);
  });

  test('a constant stays one, and its bound with it', () => {
    const forecast = goThrough(
      new Track(SETTINGS),
      series(500, () => 12),
      100,
    );
    expect([...forecast.point, ...forecast.upper].every((value) => Math.abs(value - 12) < 1e-6)).toBe(true);
  });

  test('one absurd value does not decide the next day', () => {
    const forecast = goThrough(
      new Track(SETTINGS),
      series(600, (index) => (index === 590 ? 1e9 : daily(index) + noise(index))),
      200,
    );
    for (const [step, value] of forecast.point.entries()) {
      expect(Math.abs(value - daily(forecast.startMs / HOUR_MS + step))).toBeLessThan(300);
    }
  });

  test('a daily pattern by the wall holds through a change of daylight saving', () => {
    // Busy at 9 by the clock of Berlin; the clocks change on 2026-03-29.
    const startMs = Date.UTC(2026, 2, 1);
    const hour = new Intl.DateTimeFormat('en-US', { timeZone: 'Europe/Berlin', hour: 'numeric', hourCycle: 'h23' });
    const at = (ms: number) => (Number(hour.format(ms)) === 9 ? 100 : 10);
    const length = (Date.UTC(2026, 2, 29) - startMs) / HOUR_MS;
    const whole = { ...series(length, (index) => at(startMs + index * HOUR_MS)), startMs };
    const forecast = goThrough(new Track({ ...SETTINGS, zone: 'Europe/Berlin' }), whole, length - 200);
    const said = [...forecast.point.keys()].filter((step) => (forecast.point[step] as number) > 50);
    expect(said.map((step) => at(forecast.startMs + step * HOUR_MS))).toEqual([100]);
  });
});

describe('challengers', () => {
  const whole = series(600, (index) => daily(index) + noise(index));
  const truth = (from: number, off: number) =>
    Float64Array.from({ length: 24 }, (_, step) => daily(from + step) + noise(from + step) + off);

  function withChallenger(off: number): Forecast {
    const track = new Track(SETTINGS);
    let forecast = track.turn({ ...whole, values: whole.values.slice(0, 200) });
    for (let at = 205; at <= 500; at += 5)
      forecast = track.turn({ ...whole, values: whole.values.slice(0, at) }, new Map([['oracle', truth(at, off)]]));
    return forecast;
  }

  test('are heard once they have been better for long enough', () => {
    expect(withChallenger(0).voices).toContain('oracle');
    expect(withChallenger(60).voices).not.toContain('oracle');
    const early = new Track(SETTINGS);
    for (let at = 200; at < 230; at += 5) {
      expect(early.turn({ ...whole, values: whole.values.slice(0, at) }, new Map([['oracle', truth(at, 0)]])).voices).not.toContain(
        'oracle',
      );
    }
  });

  test('that fail or say what cannot be are passed over', () => {
    const forecast = new Track(SETTINGS).turn(whole, new Map([['mad', new Float64Array(24).fill(Number.NaN)]]));
    expect(forecast.each.has('mad')).toBe(false);
  });
});

test('the upper bound lies at or above the middle, and holds about nine times in ten', () => {
  const track = new Track(SETTINGS);
  const whole = series(2_200, (index) => daily(index) + noise(index));
  let [held, count] = [0, 0];
  for (let at = 300; at + 24 <= 2_200; at += 25) {
    const forecast = track.turn({ ...whole, values: whole.values.slice(0, at) });
    for (let step = 0; step < 24; step++) {
      expect(forecast.upper[step]).toBeGreaterThanOrEqual(forecast.point[step] as number);
      if (at < 1_100) continue;
      count++;
      if ((whole.values[at + step] as number) <= (forecast.upper[step] as number)) held++;
    }
  }
  expect(held / count).toBeGreaterThan(0.84);
  expect(held / count).toBeLessThan(0.97);
});

test('errors are measured in something that is never nothing', () => {
  expect(scaleOf(Float64Array.of(1, 2, 4), 1)).toBe(1.5);
  expect(scaleOf(Float64Array.of(5, 5, 5), 1)).toBe(5);
  expect(scaleOf(new Float64Array(5), 1)).toBe(1);
  expect(scaleOf(Float64Array.of(1, Number.NaN, 4), 1)).toBe(4);
  expect(new Set(FORECASTERS.map(({ name }) => name)).size).toBe(FORECASTERS.length);
});
