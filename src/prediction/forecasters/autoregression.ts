import type { Forecaster, Season } from './forecaster.ts';
import { dot, Regression } from './linear.ts';

const RIDGE = 0.05;

/**
 * Ridge autoregression: the next value from those of the last day, the same step two days and a week ago; further steps from its own
 * forecasts. Meant for logs (`onLogs`).
 */
export const autoregression: Forecaster = {
  name: 'autoregression',
  needs: ({ day }) => 4 * day,
  forecast(values, steps, season) {
    const lags = lagsOf(season, values.length);
    const longest = lags.at(-1) as number;
    const regression = new Regression(lags.length);
    const row = new Float64Array(lags.length + 1);
    row[0] = 1;
    for (let at = longest; at < values.length; at++) {
      fill(row, lags, values, at);
      regression.add(row, values[at] as number);
    }
    const coefficients = regression.solve(RIDGE);
    if (coefficients === null) return new Float64Array(steps).fill(values.at(-1) as number);
    const [low, high] = rangeOf(values);
    const whole = new Float64Array(values.length + steps);
    whole.set(values);
    for (let at = values.length; at < whole.length; at++) {
      fill(row, lags, whole, at);
      // A forecast that feeds on itself is kept where the series has been: it cannot run away.
      whole[at] = Math.min(high, Math.max(low, dot(row, coefficients)));
    }
    return whole.slice(values.length);
  },
};

/** A week back only where that leaves as many rows again to learn from. Of long days, the last two hours and the day's quarters. */
function lagsOf({ day, week }: Season, length: number): number[] {
  const fine = Math.min(day, 24);
  const lags = Array.from({ length: fine }, (_, index) => index + 1);
  if (day > fine) lags.push(day - 1, day, day + 1);
  lags.push(2 * day);
  if (length >= 2 * week) lags.push(week);
  return lags;
}

function fill(row: Float64Array, lags: readonly number[], values: Float64Array, at: number): void {
  for (let index = 0; index < lags.length; index++) row[index + 1] = values[at - (lags[index] as number)] as number;
}

function rangeOf(values: Float64Array): readonly [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}
