import type { Forecaster } from './forecaster.ts';

const ALPHAS = [0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9];
const GAMMAS = [0.02, 0.08, 0.2, 0.4];

/** Simple exponential smoothing: a level that follows. How fast is what would have missed least, in absolute terms, one step ahead. */
export const smoothing: Forecaster = {
  name: 'smoothing',
  needs: () => 3,
  forecast(values, steps) {
    let best = { missed: Infinity, level: 0 };
    for (const alpha of ALPHAS) {
      const tried = smooth(values, alpha);
      if (tried.missed < best.missed) best = tried;
    }
    return new Float64Array(steps).fill(best.level);
  },
};

function smooth(values: Float64Array, alpha: number): { missed: number; level: number } {
  let level = values[0] as number;
  let missed = 0;
  for (let index = 1; index < values.length; index++) {
    const error = (values[index] as number) - level;
    missed += Math.abs(error);
    level += alpha * error;
  }
  return { missed, level };
}

/** Holt-Winters without trend: a level that follows, and what each step of the day adds to it. */
export const holtWinters: Forecaster = {
  name: 'Holt-Winters',
  needs: ({ day }) => 2 * day,
  forecast(values, steps, { day }) {
    const { level, seasonal } = firstSeason(values, day);
    let best = { missed: Infinity, level, seasonal };
    for (const alpha of ALPHAS) {
      for (const gamma of GAMMAS) {
        const tried = follow(values, seasonal, level, alpha, gamma);
        if (tried.missed < best.missed) best = tried;
      }
    }
    return Float64Array.from({ length: steps }, (_, step) => {
      return Math.max(0, best.level + (best.seasonal[(values.length + step) % day] as number));
    });
  },
};

/** The means of the first days, up to a week of them: one odd first day would be remembered for long. */
function firstSeason(values: Float64Array, day: number): { level: number; seasonal: Float64Array } {
  const days = Math.min(7, Math.floor(values.length / day));
  const seasonal = new Float64Array(day);
  for (let index = 0; index < days * day; index++)
    seasonal[index % day] = (seasonal[index % day] as number) + (values[index] as number) / days;
  const level = seasonal.reduce((sum, value) => sum + value, 0) / day;
  return { level, seasonal: seasonal.map((value) => value - level) };
}

function follow(values: Float64Array, first: Float64Array, from: number, alpha: number, gamma: number) {
  const seasonal = first.slice();
  const day = seasonal.length;
  let [level, missed] = [from, 0];
  for (let index = 0, slot = 0; index < values.length; index++, slot = slot + 1 === day ? 0 : slot + 1) {
    const season = seasonal[slot] as number;
    const error = (values[index] as number) - level - season;
    // The first days made the season themselves: how well it meets them says nothing.
    if (index >= day) missed += Math.abs(error);
    level += alpha * error;
    seasonal[slot] = season + gamma * (1 - alpha) * error;
  }
  return { missed, level, seasonal };
}
