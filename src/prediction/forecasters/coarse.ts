import type { Forecaster } from './forecaster.ts';

/**
 * The same forecaster on the means of longer steps, `perDay` of them a day: a day ahead in minutes is not foretold by going on minute by
 * minute. Where the steps are as long already, or do not divide a day so, it has nothing to say.
 */
export function coarse(inner: Forecaster, perDay: number): Forecaster {
  return {
    name: `${inner.name} by ${perDay}ths of a day`,
    needs({ day }) {
      const ratio = day / perDay;
      if (!Number.isInteger(ratio) || ratio < 2) return Infinity;
      return (inner.needs({ day: perDay, week: 7 * perDay }) + 1) * ratio;
    },
    forecast(values, steps, { day }) {
      const ratio = day / perDay;
      // Whole long steps counted from the newest value back: the last one is as fresh as can be.
      const count = Math.floor(values.length / ratio);
      const first = values.length - count * ratio;
      const means = Float64Array.from({ length: count }, (_, long) => {
        let sum = 0;
        for (let step = 0; step < ratio; step++) sum += values[first + long * ratio + step] as number;
        return sum / ratio;
      });
      const ahead = inner.forecast(means, Math.ceil(steps / ratio), { day: perDay, week: 7 * perDay });
      return Float64Array.from({ length: steps }, (_, step) => ahead[Math.floor(step / ratio)] as number);
    },
  };
}
