import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ForecastReport } from '../src/app/forecast-report.ts';
import { foreshadow, succeeds } from './command.ts';

const HOUR_MS = 3_600_000;
const HOURS = 21 * 24;

let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-forecast-'));
  const config = 'dataSet: foretold\nprimary: sqlite:primary.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n';
  await writeFile(join(directory, 'foreshadow.yaml'), config);
});
afterAll(() => rm(directory, { recursive: true, force: true }));

/** The load and three tables of three weeks of hours, the last of which is just over. */
function seed(): string {
  const end = Math.floor(Date.now() / HOUR_MS) * HOUR_MS;
  const lines = Array.from({ length: HOURS }, (_, index) => {
    const at = end - (HOURS - index) * HOUR_MS;
    const busy = 1 + Math.sin((at / HOUR_MS / 24) * 2 * Math.PI);
    const of = (element: string, rows: number) => `${at},${element},${Math.round(rows)},${Math.round(rows / 2)},${Math.round(rows * 100)}`;
    return [of('orders', 400 * busy + (index % 7)), of('audit_log', 900 * busy + (index % 5)), of('settings', index % 50 === 0 ? 2 : 0)];
  });
  return ['time,element,rows,distinct,bytes', ...lines.flat()].join('\n');
}

test('nothing learned is nothing foretold', async () => {
  expect(await succeeds(directory, ['forecast'])).toMatchObject({ hotspots: [], held: null, load: [] });
  expect(await foreshadow(directory, ['forecast', '--ahead', '30d'])).toMatchObject({ code: 2 });
});

test('the hottest tables of the coming hours are named, with how well that held before', async () => {
  await writeFile(join(directory, 'seed.csv'), seed());
  await succeeds(directory, ['history', '--seed', 'seed.csv']);
  const report = (await succeeds(directory, ['forecast', '--limit', '2'])) as unknown as ForecastReport;
  expect(report.hotspots.map(({ rank, table }) => [rank, table])).toEqual([
    [1, 'audit_log'],
    [2, 'orders'],
  ]);
  const [audit, orders] = report.hotspots;
  for (const [found, mean] of [
    [audit, 450],
    [orders, 200],
  ] as const) {
    expect(found?.distinctRows).toBeGreaterThan(24 * mean * 0.7);
    expect(found?.distinctRows).toBeLessThan(24 * mean * 1.3);
  }
  expect(report.held?.recall).toBeGreaterThan(0.9);
  const fewer = (await succeeds(directory, ['forecast', '--exclude', 'audit_*', '--by', 'bytes'])) as unknown as ForecastReport;
  expect(fewer.hotspots[0]?.table).toBe('orders');
  expect(fewer.hotspots.map(({ table }) => table)).not.toContain('audit_log');
});

test('hotspots are looked for among tables of some sizes, and without some types', async () => {
  const primary = new DatabaseSync(join(directory, 'primary.db'));
  primary.exec(`CREATE TABLE orders (id INTEGER PRIMARY KEY, note VARCHAR(20)); CREATE TABLE settings (id INTEGER PRIMARY KEY);
    CREATE TABLE audit_log (id INTEGER PRIMARY KEY, body BLOB); INSERT INTO audit_log VALUES (1, zeroblob(100000))`);
  primary.close();
  const named = async (...filter: string[]): Promise<string[]> =>
    ((await succeeds(directory, ['forecast', ...filter])) as unknown as ForecastReport).hotspots.map(({ table }) => table);
  expect((await named()).slice(0, 2)).toEqual(['audit_log', 'orders']);
  expect(await named('--min-size', '50kB')).toEqual(['audit_log']);
  expect((await named('--max-size', '50kB'))[0]).toBe('orders');
  expect((await named('--without-type', 'blob'))[0]).toBe('orders');
  expect(await named('--without-type', 'blob', 'varchar')).not.toContain('orders');
  expect(await foreshadow(directory, ['forecast', '--min-size', 'large'])).toMatchObject({ code: 2 });
  expect(await foreshadow(directory, ['forecast', '--without-type', 'bytea'])).toMatchObject({ code: 2 });
});

test('the load ahead is foretold with a bound, and by whom', async () => {
  const end = Math.floor(Date.now() / HOUR_MS) * HOUR_MS;
  const loadAt = (at: number) => 50 + 40 * Math.sin((at / HOUR_MS / 24) * 2 * Math.PI);
  const lines = Array.from(
    { length: HOURS },
    (_, index) => `${end - (HOURS - index) * HOUR_MS},cpu,${loadAt(end - (HOURS - index) * HOUR_MS) + (index % 3)}`,
  );
  await writeFile(join(directory, 'load.csv'), ['time,resource,value', ...lines].join('\n'));
  await succeeds(directory, ['history', '--seed', 'load.csv']);
  const report = (await succeeds(directory, ['forecast', '--ahead', '12h'])) as unknown as ForecastReport;
  const [cpu] = report.load;
  expect(cpu).toMatchObject({ resource: 'cpu', basis: 'measured' });
  expect(cpu?.middle).toHaveLength(12);
  for (const [step, middle] of (cpu?.middle ?? []).entries()) {
    expect(Math.abs((middle ?? Infinity) - loadAt(Date.parse(report.from) + step * HOUR_MS))).toBeLessThan(15);
    expect(cpu?.upper[step]).toBeGreaterThanOrEqual(middle ?? Infinity);
  }
  expect(cpu?.voices.length).toBeGreaterThan(0);
});
