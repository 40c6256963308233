import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { initSync as initMstl, MSTL } from '@bsull/augurs/mstl';
import { initSync as initProphet, Prophet } from '@bsull/augurs/prophet';
import { optimizer } from '@bsull/augurs-prophet-wasmstan';
import ARIMA from 'arima';
import { tame } from '../prediction/series.ts';
import type { ChallengerName, Question } from './challengers.ts';

/**
 * The models of kept libraries. What they do on series they were not made for was tried, and is kept from them here: Prophet traps on a
 * constant one, MSTL throws below two seasons, ARIMA diverges under its default method and answers a short series with silence or nonsense.
 */

/** The middle, and of models that say so the value that one in ten exceeds. */
export interface Answer {
  readonly point: Float64Array;
  readonly upper: Float64Array | null;
}

/** Two-sided: one in ten above. */
const WIDTH = 0.8;
const BELIEVED = 3;

const MODELS: Readonly<Record<ChallengerName, (values: Float64Array, question: Question) => Answer>> = {
  MSTL: mstl,
  Prophet: prophet,
  ARIMA: arima,
};

/** Null where the series is not one to ask about: constant, or shorter than two days. Throws what the library throws. */
export function answer(question: Question): Answer | null {
  const { values, season, model } = question;
  if (values.length < Math.max(2 * season.day, 24) || values.every((value) => value === values[0])) return null;
  const tamed = tame(values);
  const said = MODELS[model](tamed, question);
  const most = BELIEVED * tamed.reduce((found, value) => Math.max(found, value), 0);
  // An additive model may dip below nothing, which cannot be; what is above all belief is left as it is, and rejected by who asked.
  const clip = (each: Float64Array) => each.map((value) => Math.max(0, value));
  return { point: clip(said.point), upper: said.upper === null ? null : clip(said.upper).map((value) => Math.min(value, most)) };
}

function mstl(values: Float64Array, { steps, season }: Question): Answer {
  using model = MSTL.ets(values.length >= 4 * season.week ? [season.day, season.week] : [season.day], { impute: true });
  model.fit(values);
  const { point, intervals } = model.predict(steps, WIDTH);
  return { point: Float64Array.from(point), upper: intervals === undefined ? null : Float64Array.from(intervals.upper) };
}

function prophet(values: Float64Array, { steps, season, startMs, stepMs }: Question): Answer {
  // Prophet thinks in days and weeks of real seconds: a day of another length is told to it as one of 24 hours.
  const stepS = 86_400 / season.day;
  const beginS = Math.floor(startMs / stepMs) * stepS;
  using model = new Prophet({ optimizer, intervalWidth: WIDTH, uncertaintySamples: 200 });
  model.fit({ ds: Array.from(values, (_, index) => beginS + index * stepS), y: [...values] }, { seed: 1 });
  const { yhat } = model.predict({ ds: Array.from({ length: steps }, (_, step) => beginS + (values.length + step) * stepS) });
  return { point: Float64Array.from(yhat.point), upper: yhat.intervals === undefined ? null : Float64Array.from(yhat.intervals.upper) };
}

function arima(values: Float64Array, { steps }: Question): Answer {
  // The conditional sum of squares: the exact likelihood diverges.
  const model = new ARIMA({ p: 2, d: 1, q: 2, method: 1, verbose: false });
  try {
    model.train([...values]);
    const [point, variance] = model.predict(steps);
    const upper = point.map((middle, step) => middle + 1.2816 * Math.sqrt(Math.max(0, variance[step] ?? Number.NaN)));
    return { point: Float64Array.from(point), upper: Float64Array.from(upper) };
  } finally {
    model.destroy();
  }
}

function bytesOf(name: string): Uint8Array {
  return readFileSync(fileURLToPath(import.meta.resolve('@bsull/augurs').replace(/core\.js$/, `${name}_bg.wasm`)));
}

initMstl({ module: bytesOf('mstl') });
initProphet({ module: bytesOf('prophet') });
