import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { fromSamples, HOUR_MS } from '../src/prediction/series.ts';
import type { Series } from '../src/prediction/series.ts';

export interface Named {
  readonly name: string;
  readonly series: Series;
}

/** Modifications of rows: when, in seconds, and which. In the order of time. */
export interface Edits {
  readonly seconds: Float64Array;
  readonly rows: Int32Array;
  readonly rowCount: number;
}

/** What is not scored, by the reason. */
export class LeftOut {
  readonly #names = new Map<string, string[]>();

  add(name: string, reason: string): void {
    const names = this.#names.get(reason) ?? [];
    if (!names.includes(name)) this.#names.set(reason, [...names, name]);
  }

  /** How many, which (the first of them), and why. */
  get rows(): readonly (readonly [count: number, names: string, reason: string])[] {
    return [...this.#names].map(([reason, names]) => [
      names.length,
      names.length <= NAMED ? names.join(', ') : `${names.slice(0, NAMED).join(', ')} …`,
      reason,
    ]);
  }
}

const NAMED = 8;

/** What a folder of traces holds. What it does not hold is empty. */
export interface Traces {
  /** Per virtual machine, hourly. */
  readonly writes: readonly Named[];
  readonly cpu: readonly Named[];
  /** Per server, in steps of minutes. */
  readonly loads: readonly Named[];
  readonly edits: Edits | null;
}

const FIVE_MINUTES_MS = 300_000;
const HOUR_S = HOUR_MS / 1000;
const HOURS_MAX = 10_000;

/**
 * Reads every CSV file, packed or not, of a folder and the folders in it. What a file is, its header says: `vm,0,1,…` hourly values per
 * machine (load, where the file's name speaks of cpu), `timestamp,value` one server's load, `seconds,page` modifications of rows. What
 * cannot be read as any of these is left out, and said to be.
 */
export function readTraces(directory: string, leftOut: LeftOut): Traces {
  const found: { writes: Named[]; cpu: Named[]; loads: Named[]; edits: Edits | null } = { writes: [], cpu: [], loads: [], edits: null };
  for (const path of filesOf(directory)) {
    const file = relative(directory, path);
    try {
      const bytes = readFileSync(path);
      const text = (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8');
      const [header = '', ...lines] = text
        .replace(/^\uFEFF/, '')
        .trimEnd()
        .split(/\r?\n/);
      const name = basename(path).replace(/\.csv(\.gz)?$/, '');
      if (lines.length === 0) leftOut.add(file, 'holds nothing but a header');
      else if (/^timestamp,value/i.test(header)) found.loads.push({ name, series: loadOf(lines) });
      else if (/^seconds,/i.test(header) && found.edits === null) found.edits = editsOf(lines);
      else if (/^seconds,/i.test(header)) leftOut.add(file, 'a second file of modifications: rows of two are not told apart');
      else if (/^\w+,\d+,\d+,/.test(header)) (/cpu/i.test(name) ? found.cpu : found.writes).push(...lines.map(hourlyOf));
      else leftOut.add(file, 'its header is none of those that bench/README.md tells of');
    } catch (error) {
      leftOut.add(file, `cannot be read: ${(error as Error).message}`);
    }
  }
  return found;
}

function filesOf(directory: string): string[] {
  return (readdirSync(directory, { recursive: true }) as string[])
    .map((name) => join(directory, name))
    .filter((path) => /\.csv(\.gz)?$/.test(path) && statSync(path).isFile())
    .toSorted();
}

function hourlyOf(line: string): Named {
  const [name = '', ...cells] = line.split(',');
  const values = Float64Array.from(cells, numberOf);
  return { name, series: { startMs: 0, stepMs: HOUR_MS, values } };
}

function loadOf(lines: readonly string[]): Series {
  const samples = lines.map((line) => {
    const [time = '', value = ''] = line.split(',');
    const at = time.trim().replace(' ', 'T');
    return { atMs: Date.parse(/Z$|[+-]\d\d:\d\d$/i.test(at) ? at : `${at}Z`), value: numberOf(value) };
  });
  return fromSamples(samples, FIVE_MINUTES_MS);
}

/** What is blank, or no number, was not observed. */
function numberOf(cell: string): number {
  const value = cell.trim() === '' ? Number.NaN : Number(cell);
  return Number.isFinite(value) ? value : Number.NaN;
}

/** In the order of time, from the hour of the first on. A trace of many years, as one wrong clock makes it, is refused. */
function editsOf(lines: readonly string[]): Edits {
  const ids = new Map<string, number>();
  const edits: { second: number; row: number }[] = [];
  for (const line of lines) {
    const [at = '', row = ''] = line.split(',');
    const second = numberOf(at);
    if (Number.isNaN(second)) continue;
    let id = ids.get(row);
    if (id === undefined) ids.set(row, (id = ids.size));
    edits.push({ second, row: id });
  }
  edits.sort((a, b) => a.second - b.second);
  const first = Math.floor((edits[0]?.second ?? 0) / HOUR_S) * HOUR_S;
  const hours = ((edits.at(-1)?.second ?? 0) - first) / HOUR_S;
  if (hours > HOURS_MAX) throw new RangeError(`its modifications span ${Math.ceil(hours)} hours, more than ${HOURS_MAX}`);
  return {
    seconds: Float64Array.from(edits, ({ second }) => second - first),
    rows: Int32Array.from(edits, ({ row }) => row),
    rowCount: ids.size,
  };
}
