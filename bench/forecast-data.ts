import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
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

/**
 * Reads every CSV file, packed or not, of a folder and the folders in it. What a file is, its header says: `vm,0,1,…` hourly values per
 * machine (load, where the file's name speaks of cpu), `timestamp,value` one server's load, `seconds,page` modifications of rows.
 */
export function readTraces(directory: string): Traces {
  const found: { writes: Named[]; cpu: Named[]; loads: Named[]; edits: Edits | null } = { writes: [], cpu: [], loads: [], edits: null };
  for (const path of filesOf(directory)) {
    const bytes = readFileSync(path);
    const lines = (path.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8').trimEnd().split(/\r?\n/);
    const header = lines.shift() ?? '';
    const name = basename(path).replace(/\.csv(\.gz)?$/, '');
    if (/^timestamp,value/i.test(header)) found.loads.push({ name, series: loadOf(lines) });
    else if (/^seconds,/i.test(header)) found.edits = editsOf(lines);
    else if (/^\w+,0,1,/.test(header)) (/cpu/i.test(name) ? found.cpu : found.writes).push(...lines.map(hourlyOf));
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
  const values = Float64Array.from(cells, (cell) => (cell === '' ? Number.NaN : Number(cell)));
  return { name, series: { startMs: 0, stepMs: HOUR_MS, values } };
}

function loadOf(lines: readonly string[]): Series {
  const samples = lines.map((line) => {
    const [time = '', value = ''] = line.split(',');
    return { atMs: Date.parse(`${time.trim().replace(' ', 'T')}Z`), value: value === '' ? Number.NaN : Number(value) };
  });
  return fromSamples(samples, FIVE_MINUTES_MS);
}

function editsOf(lines: readonly string[]): Edits {
  const ids = new Map<string, number>();
  const seconds = new Float64Array(lines.length);
  const rows = new Int32Array(lines.length);
  for (const [index, line] of lines.entries()) {
    const [at = '', row = ''] = line.split(',');
    seconds[index] = Number(at);
    let id = ids.get(row);
    if (id === undefined) ids.set(row, (id = ids.size));
    rows[index] = id;
  }
  return { seconds, rows, rowCount: ids.size };
}
