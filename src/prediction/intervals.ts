import { medianOf } from './forecasters/naive.ts';
import type { Season } from './forecasters/forecaster.ts';
import { quantile } from './series.ts';
import { Standing } from './standing.ts';

/** What is exceeded one time in ten, unless said otherwise. */
export const UPPER_SHARE = 0.9;
/** With the errors of fewer origins than this no quantile of them is taken. */
const ORIGINS_MIN = 28;
/** The newest errors kept, per group of leads: what is older is about another time. */
const RESIDUALS_MAX = 1_200;
/** Of one forecast, so many errors per group of leads are kept: neighbours of five minutes tell the same. */
const PER_ORIGIN = 24;
const KEEP = 0.95;
const VOICES = 3;

/**
 * How high it may go. Split conformal: the errors of matured forecasts, by lead, say how far above the middle one must go, in multiples of the
 * series' own variation and as a factor. What the same hour saw in the last days says it too, and from the first week on. Which of these
 * is heard is decided by what they would have cost (pinball loss, which is least for the true quantile).
 */
export class Bounds {
  readonly #share: number;
  readonly #groups: readonly { readonly differences: number[]; readonly factors: number[]; origins: number; readonly standing: Standing }[];

  constructor(groups: number, share = UPPER_SHARE) {
    this.#share = share;
    this.#groups = Array.from({ length: groups }, () => ({
      differences: [],
      factors: [],
      origins: 0,
      standing: new Standing(KEEP, Infinity),
    }));
  }

  /** Every bound there is to say of one group's leads `from` to before `until`. `point` and `upper` are of all leads. */
  candidates(group: number, point: Float64Array, from: number, until: number, scale: number, history: Float64Array, season: Season) {
    const { differences, factors, origins } = this.#at(group);
    const made = new Map<string, Float64Array>();
    const length = until - from;
    const same = Array.from({ length: Math.min(length, season.day) }, (_, step) => sameStep(history, from + step, season.day));
    const of = (value: (step: number) => number) => Float64Array.from({ length }, (_, step) => Math.max(0, value(step)));
    const bySlot = (value: (values: number[]) => number) => {
      const slots = same.map(value);
      return of((step) => slots[step % season.day] as number);
    };
    if (origins >= ORIGINS_MIN) {
      const [above, times] = [this.#quantile(differences), this.#quantile(factors)];
      made.set(
        'errors',
        of((step) => (point[from + step] as number) + above * scale),
      );
      made.set(
        'factors',
        of((step) => Math.expm1(Math.log1p(point[from + step] as number) + times)),
      );
    }
    if (same.every((values) => values.length > 0)) {
      made.set(
        'most of 7 days',
        bySlot((values) => Math.max(...values.slice(0, 7))),
      );
      if (history.length >= 14 * season.day) {
        made.set(
          'same hour',
          bySlot((values) =>
            quantile(
              values.toSorted((a, b) => a - b),
              this.#share,
            ),
          ),
        );
      }
    }
    const lately = quantile(history.slice(-2 * season.day).toSorted(), this.#share);
    made.set(
      'two days',
      of(() => lately),
    );
    return made;
  }

  /** The median of the candidates that cost least so far; before any cost is known, the most of the same hour in seven days. */
  choose(group: number, candidates: ReadonlyMap<string, Float64Array>, point: Float64Array, from: number): Float64Array {
    const { standing } = this.#at(group);
    const known = [...candidates.keys()].filter((name) => standing.of(name) !== null);
    const loss = (name: string) => standing.of(name)?.loss ?? Infinity;
    const voices = known.toSorted((a, b) => loss(a) - loss(b)).slice(0, VOICES);
    if (voices.length === 0) voices.push(candidates.has('most of 7 days') ? 'most of 7 days' : 'two days');
    const said = voices.map((name) => candidates.get(name) as Float64Array);
    // A bound below the middle would be none.
    return Float64Array.from(said[0] as Float64Array, (_, step) => {
      return Math.max(point[from + step] as number, medianOf(said.map((each) => each[step] as number)));
    });
  }

  /** What came for the leads of one group of one forecast. `came` is NaN where nothing is known. */
  score(
    group: number,
    point: Float64Array,
    from: number,
    scale: number,
    candidates: ReadonlyMap<string, Float64Array>,
    came: Float64Array,
    days: number,
  ): void {
    const { differences, factors, standing } = this.#at(group);
    const stride = Math.max(1, Math.ceil(came.length / PER_ORIGIN));
    let seen = false;
    for (let step = 0; step < came.length; step += stride) {
      const value = came[step] as number;
      if (Number.isNaN(value)) continue;
      seen = true;
      const middle = point[from + step] as number;
      differences.push((value - middle) / scale);
      factors.push(Math.log1p(value) - Math.log1p(middle));
    }
    if (!seen) return;
    this.#at(group).origins++;
    for (const kept of [differences, factors]) kept.splice(0, kept.length - RESIDUALS_MAX);
    standing.fade(days);
    for (const [name, said] of candidates) standing.add(name, pinball(said, came, this.#share) / scale);
  }

  /** Of errors, with the little more that makes it hold for a new one as often as it says. */
  #quantile(errors: readonly number[]): number {
    const sorted = errors.toSorted((a, b) => a - b);
    return quantile(sorted, Math.min(1, (this.#share * (sorted.length + 1)) / sorted.length));
  }

  #at(group: number) {
    const found = this.#groups[group];
    if (found === undefined) throw new RangeError(`there is no group ${group} of leads`);
    return found;
  }
}

/** The mean pinball loss: what lies above costs `share` of its distance, what lies below the rest. NaN where nothing is known. */
export function pinball(said: ArrayLike<number>, came: ArrayLike<number>, share = UPPER_SHARE): number {
  let [sum, count] = [0, 0];
  for (let step = 0; step < came.length; step++) {
    const above = (came[step] as number) - (said[step] as number);
    if (Number.isNaN(above)) continue;
    sum += above >= 0 ? share * above : (share - 1) * above;
    count++;
  }
  return sum / count;
}

/** What was seen at the same step of the day, the newest first. */
function sameStep(history: Float64Array, ahead: number, day: number): number[] {
  const values: number[] = [];
  for (let at = history.length + (ahead % day) - day; at >= 0; at -= day) values.push(history[at] as number);
  return values;
}
