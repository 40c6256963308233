import type { Forecaster, Season } from './forecaster.ts';

/** What it was last. */
export const persistence: Forecaster = {
  name: 'persistence',
  needs: () => 1,
  forecast: (values, steps) => new Float64Array(steps).fill(values.at(-1) as number),
};

/** What it was a season ago: a day, or a week. */
export function seasonalNaive(name: string, season: keyof Season): Forecaster {
  return {
    name,
    needs: (seasons) => seasons[season],
    forecast(values, steps, seasons) {
      const period = seasons[season];
      const last = values.subarray(values.length - period);
      return Float64Array.from({ length: steps }, (_, step) => last[step % period] as number);
    },
  };
}

/** The mean, or the median, of the same step in the last `count` seasons, or in as many as there are. */
export function profile(name: string, season: keyof Season, count: number, middle: 'mean' | 'median'): Forecaster {
  return {
    name,
    needs: (seasons) => 2 * seasons[season],
    forecast(values, steps, seasons) {
      const period = seasons[season];
      const slots = Float64Array.from({ length: Math.min(period, steps) }, (_, slot) => {
        const same: number[] = [];
        for (let back = 1; back <= count; back++) {
          const at = values.length - back * period + slot;
          if (at >= 0) same.push(values[at] as number);
        }
        return middle === 'mean' ? same.reduce((sum, value) => sum + value, 0) / same.length : medianOf(same);
      });
      return Float64Array.from({ length: steps }, (_, step) => slots[step % period] as number);
    },
  };
}

/** The median of the last steps, whatever the hour: for what has a level and no season. Of fewer than three it would be nothing new. */
export function recentMedian(name: string, steps: (season: Season) => number): Forecaster {
  return {
    name,
    needs: (season) => (steps(season) < 3 ? Infinity : 3),
    forecast: (values, ahead, season) => new Float64Array(ahead).fill(medianOf([...values.subarray(-steps(season))])),
  };
}

/** The value at which half of the weight lies below and half above; between two where it falls on an edge. */
export function weightedMedian(values: readonly number[], weights: readonly number[]): number {
  const order = Array.from(values, (_, index) => index).toSorted((a, b) => (values[a] as number) - (values[b] as number));
  const half = weights.reduce((sum, weight) => sum + weight, 0) / 2;
  let below = 0;
  for (const [place, index] of order.entries()) {
    below += weights[index] as number;
    const value = values[index] as number;
    if (below > half) return value;
    if (below === half) return (value + (values[order[place + 1] ?? index] as number)) / 2;
  }
  return values[order.at(-1) ?? -1] ?? Number.NaN;
}

/** Step by step the median of several forecasts, at least one. */
export function medianForecast(each: readonly Float64Array[]): Float64Array {
  return Float64Array.from(each[0] as Float64Array, (_, step) => medianOf(each.map((said) => said[step] as number)));
}

/** Sorts what it is given. NaN of nothing. */
export function medianOf(values: number[]): number {
  values.sort((a, b) => a - b);
  const half = values.length >> 1;
  return values.length % 2 === 1 ? (values[half] as number) : ((values[half - 1] ?? Number.NaN) + (values[half] as number)) / 2;
}
