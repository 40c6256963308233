/** How many steps of a series make a day and a week: the periods in which it may repeat itself. */
export interface Season {
  readonly day: number;
  readonly week: number;
}

/**
 * Says from the values of a series how it goes on. Deterministic, without memory: the same values give the same forecast.
 * What comes is the middle of what may come; how far it may be off is learned from matured errors (`intervals.ts`), in one way for all.
 */
export interface Forecaster {
  readonly name: string;
  /** With fewer values than this it has nothing to say. */
  needs(season: Season): number;
  /** One number per step ahead. `values` has no gaps, the newest value last, and at least what is needed. */
  forecast(values: Float64Array, steps: number, season: Season): Float64Array;
}

/** The largest forecast that is believed, as a multiple of the most there ever was. */
const BELIEVED = 3;

/** A forecast that can be used: as long as asked, of finite numbers, none of them negative, none absurd. Else null. */
export function believable(forecast: Float64Array, values: Float64Array, steps: number): Float64Array | null {
  if (forecast.length !== steps) return null;
  let most = 0;
  for (const value of values) most = Math.max(most, value);
  for (const value of forecast) if (!(value >= 0 && value <= BELIEVED * most)) return null;
  return forecast;
}

/** The same forecaster on log(1 + value): for what varies by factors, where its middle is the median and not the mean. */
export function onLogs(inner: Forecaster): Forecaster {
  return {
    name: `${inner.name} on logs`,
    needs: (season) => inner.needs(season),
    forecast(values, steps, season) {
      const logs = values.map((value) => Math.log1p(Math.max(0, value)));
      let most = 0;
      for (const log of logs) most = Math.max(most, log);
      // A sum of logs that runs away would be infinite once it is taken back.
      return inner.forecast(logs, steps, season).map((log) => Math.max(0, Math.expm1(Math.min(log, most + 1))));
    },
  };
}
