import { CHALLENGERS } from '../src/app/challengers.ts';
import { MEDIAN_OF_FIVE, OURS, SINGLE } from './forecast-backtest.ts';
import { check, shown } from './recording.ts';
import type { Check, ResultTable } from './recording.ts';

/** What everybody else is held to be, in the order of the tables. */
export const RIVALS: readonly string[] = [...Object.keys(SINGLE), MEDIAN_OF_FIVE, ...CHALLENGERS];

/** No further behind the best of them than this. */
const WITHIN = 1.02;

/** One measure of several methods. */
export interface Line {
  readonly what: string;
  readonly of: ReadonlyMap<string, number>;
  /** Whether less is better: errors, or more: shares found. */
  readonly isLess: boolean;
}

/** Lines as a table, methods as columns; those no line has are left out. */
export function tableOf(title: string, lines: readonly Line[], methods: readonly string[] = [OURS, ...RIVALS]): ResultTable {
  const columns = methods.filter((method) => lines.some(({ of }) => of.has(method)));
  const rows = lines.map(({ what, of }) => [what, ...columns.map((method) => figure(of.get(method)))]);
  return { title, columns: ['', ...columns], rows };
}

function figure(value: number | undefined): string {
  return value === undefined ? '–' : Number.isNaN(value) ? 'none' : shown(value);
}

/** Ours beside the best of the others, on one line. */
export function checkLine(where: string, { what, of, isLess }: Line, others?: readonly string[]): Check {
  const ours = of.get(OURS) ?? Number.NaN;
  const rivals = [...of].filter(([name]) => (others === undefined ? name !== OURS : others.includes(name)));
  const [best, name] = rivals.reduce<[number, string]>(
    ([least, who], [other, value]) => ((isLess ? value < least : value > least) ? [value, other] : [least, who]),
    [isLess ? Infinity : -Infinity, 'nobody'],
  );
  const passed = isLess ? ours <= best * WITHIN : ours * WITHIN >= best;
  return check(`${where}, ${what}: as good as the best of the others within 2 %`, passed, `${shown(ours)} beside ${shown(best)} (${name})`);
}

export function mean(values: readonly number[] | Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}
