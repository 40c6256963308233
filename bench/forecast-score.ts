import { CHALLENGERS } from '../src/app/challengers.ts';
import { MEDIAN_OF_FIVE, OURS, SINGLE } from './forecast-backtest.ts';
import { randomIntegers } from './measuring.ts';
import { check, shown } from './recording.ts';
import type { Check, ResultTable } from './recording.ts';

/** What everybody else is held to be, in the order of the tables. */
export const RIVALS: readonly string[] = [...Object.keys(SINGLE), MEDIAN_OF_FIVE, ...CHALLENGERS];

/** No further behind the best of them than this. */
const WITHIN = 1.02;
/** On fewer series or periods than this nothing is judged. */
const UNITS_MIN = 5;
const RESAMPLES = 1_000;

/** One measure of several methods. */
export interface Line {
  readonly what: string;
  readonly of: ReadonlyMap<string, number>;
  /** Whether less is better: errors, or more: shares found. */
  readonly isLess: boolean;
  /** Of how many series or periods it is made, all methods of the same. */
  readonly units: number;
  /** The same measure of one method over some of the units, by number. */
  readonly over: (method: string, units: Iterable<number>) => number;
}

/** Per method and unit (a series, a stretch of time) what is added up above and below the line. */
export class Parts {
  readonly #of = new Map<string, Map<number, [top: number, bottom: number]>>();

  add(method: string, unit: number, top: number, bottom = 1): void {
    let parts = this.#of.get(method);
    if (parts === undefined) this.#of.set(method, (parts = new Map()));
    const part = parts.get(unit) ?? [0, 0];
    part[0] += top;
    part[1] += bottom;
    parts.set(unit, part);
  }

  /** Per method one part for each of the units there are of any. */
  get of(): Map<string, (readonly [top: number, bottom: number])[]> {
    const units = [...new Set([...this.#of.values()].flatMap((parts) => [...parts.keys()]))];
    return new Map([...this.#of].map(([method, parts]) => [method, units.map((unit) => parts.get(unit) ?? [0, 0])]));
  }
}

/** Sums over all units, divided: the large ones count most. */
export function ratioLine(what: string, parts: Parts, isLess: boolean): Line {
  return lineOf(what, parts.of, isLess, (chosen) => {
    let [top, bottom] = [0, 0];
    for (const part of chosen) {
      top += part[0];
      bottom += part[1];
    }
    return top / bottom;
  });
}

/** A number per unit, and the middle of them: all units count alike. */
export function middleLine(
  what: string,
  values: ReadonlyMap<string, readonly number[]>,
  isLess: boolean,
  middle: (values: readonly number[]) => number,
): Line {
  return lineOf(what, values, isLess, (chosen) => middle(chosen));
}

function lineOf<Unit>(
  what: string,
  each: ReadonlyMap<string, readonly Unit[]>,
  isLess: boolean,
  measure: (chosen: readonly Unit[]) => number,
): Line {
  const found = [...each].filter(([, units]) => units.length > 0);
  return {
    what,
    isLess,
    of: new Map(found.map(([method, units]) => [method, measure(units)])),
    units: found[0]?.[1].length ?? 0,
    over: (method, units) => measure(Array.from(units, (unit) => (each.get(method) as readonly Unit[])[unit] as Unit)),
  };
}

/** Lines as a table, methods as columns; those no line has are left out. */
export function tableOf(title: string, lines: readonly Line[], methods: readonly string[] = [OURS, ...RIVALS]): ResultTable {
  const columns = methods.filter((method) => lines.some(({ of }) => of.has(method)));
  const rows = lines.map(({ what, of }) => [what, ...columns.map((method) => figure(of.get(method)))]);
  return { title, columns: ['', ...columns], rows };
}

function figure(value: number | undefined): string {
  return value === undefined ? '–' : Number.isFinite(value) ? shown(value) : 'none';
}

/** Ours beside the best of the others, on one line. */
export function checkLine(where: string, line: Line): Check {
  const { what, of, isLess } = line;
  const rivals = [...of].filter(([name, value]) => name !== OURS && Number.isFinite(value));
  const best = rivals.toSorted(([, a], [, b]) => (isLess ? a - b : b - a))[0];
  const title = `${where}, ${what}: as good as the best of the others within 2 %`;
  if (best === undefined) return check(title, null, 'nothing to hold it against');
  const [name, value] = best;
  return judge(title, line, `${shown(of.get(OURS) ?? null)} beside ${shown(value)} (${name})`, (measure) =>
    isLess ? measure(OURS) <= measure(name) * WITHIN : measure(OURS) * WITHIN >= measure(name),
  );
}

/**
 * What has to hold of a line. Where it does not it is told in how many of the folders made by drawing as many of the same series (or periods) at
 * random it would: one machine may make most of what all of them write.
 */
export function judge(
  title: string,
  { units, of, over }: Line,
  found: string,
  holds: (measure: (method: string) => number) => boolean,
): Check {
  if (units < UNITS_MIN) return check(title, null, `${found}; of ${units} series or periods, too few to judge by`);
  if (holds((method) => of.get(method) ?? Number.NaN)) return check(title, true, found);
  const next = randomIntegers(1);
  let held = 0;
  for (let sample = 0; sample < RESAMPLES; sample++) {
    const drawn = Array.from({ length: units }, () => next(units));
    if (holds((method) => over(method, drawn))) held++;
  }
  return check(title, false, `${found}; holds in ${shown((100 * held) / RESAMPLES)} % of resamples`);
}

export function mean(values: readonly number[] | Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}
