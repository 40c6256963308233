/** Slots drawn at the end of a line. */
export const DRAWN = 48;
const BARS = '▁▂▃▄▅▆▇█';

/** One character for each of the last slots, a blank for a gap. `most` is what a full character stands for, unless there is more. */
export function drawn(values: readonly (number | null)[], most = 0): string {
  const shown = values.slice(-DRAWN);
  const top = Math.max(most, ...shown.map((value) => value ?? 0));
  return shown
    .map((value) => {
      if (value === null) return ' ';
      return BARS[top === 0 ? 0 : Math.round((value / top) * (BARS.length - 1))];
    })
    .join('');
}

/** Means of so many slots at a time; of those that are known. */
export function gathered(values: readonly (number | null)[], each: number): (number | null)[] {
  return Array.from({ length: Math.ceil(values.length / each) }, (_, index) => {
    const known = values.slice(index * each, (index + 1) * each).filter((value) => value !== null);
    return known.length === 0 ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
  });
}
