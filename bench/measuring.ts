import { readFileSync } from 'node:fs';

/** What something took. CPU is of this whole process, all its threads; bytes are those handed to write calls (Linux only, else null). */
export interface Cost {
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly writtenBytes: number | null;
}

/** Begins to measure; each call of what it returns gives the cost so far. */
export function startMeter(): () => Cost {
  const cpu = process.cpuUsage();
  const written = writtenBytes();
  const begunMs = performance.now();
  return () => {
    const wallMs = performance.now() - begunMs;
    const { user, system } = process.cpuUsage(cpu);
    const now = writtenBytes();
    return { wallMs, cpuMs: (user + system) / 1000, writtenBytes: now === null || written === null ? null : now - written };
  };
}

function writtenBytes(): number | null {
  if (process.platform !== 'linux') return null;
  const found = /^wchar: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'));
  return found?.[1] === undefined ? null : Number(found[1]);
}

/** Nearest rank: `share` 0.5 is the median, 1 the largest. Throws where there are no values. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const found = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)];
  if (found === undefined) throw new Error('there is no percentile of no values');
  return found;
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  return (
    (percentile(values, 0.5) +
      -percentile(
        values.map((value) => -value),
        0.5,
      )) /
    2
  );
}

/**
 * The noise band of a run, from an A/A control: how far the ratios of two measurements of the same thing lie apart, and from 1.
 * A factor is reached when its median less half the band is at or above it.
 */
export function noiseBand(first: readonly number[], second: readonly number[]): number {
  const ratios = first.map((value, index) => value / (second[index] ?? value));
  return Math.max(1, ...ratios) - Math.min(1, ...ratios);
}

export function reached(ratio: number, band: number, target: number): boolean {
  return ratio * (1 - band / 2) >= target;
}

/** Repeats itself for the same seed: mulberry32 (public domain, Tommy Ettinger). Integers in [0, below). */
export function randomIntegers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
