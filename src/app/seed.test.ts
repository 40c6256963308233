import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { slotLengths } from '../tracking/history.ts';
import { readSeed } from './seed.ts';

const HOUR = 3_600_000;
const TEN = Date.UTC(2026, 10, 22, 10);
const lengths = slotLengths(24 * HOUR);

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'foreshadow-seed-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function read(text: string): ReturnType<typeof readSeed> {
  const path = join(directory, 'seed');
  writeFileSync(path, text);
  return await readSeed(path, lengths);
}

test('CSV with its header, in any order, with quotes, a mark of its encoding, and both ends of lines', async () => {
  const seed = await read(
    '\uFEFFelement,time,rows,distinct\r\n"public.""odd, one""",2026-11-22T10:00:00Z,5,2\r\n\r\norders,2026-11-22 12:00:00+01:00,7,\norders,2026-11-22T10:30:00Z,1,1',
  );
  expect(seed).toEqual({
    stepMs: lengths.minuteMs,
    observed: { fromMs: TEN, untilMs: TEN + HOUR + 60_000 },
    activity: [
      { table: 'public."odd, one"', atMs: TEN, changes: 5, distinct: 2, bytes: 0 },
      { table: 'orders', atMs: TEN + HOUR, changes: 7, distinct: 7, bytes: 0 },
      { table: 'orders', atMs: TEN + HOUR / 2, changes: 1, distinct: 1, bytes: 0 },
    ],
    load: [],
  });
});

test('NDJSON, in seconds and in milliseconds, hour by hour; lines of one slot add up', async () => {
  const line = (time: number, rows: number): string => JSON.stringify({ time, element: 'orders', rows, bytes: 10 * rows });
  const seed = await read([line(TEN / 1000, 1), line(TEN, 2), line(TEN + HOUR, 3), line(TEN + 3 * HOUR, 4)].join('\n'));
  expect(seed.stepMs).toBe(HOUR);
  expect(seed.observed).toEqual({ fromMs: TEN, untilMs: TEN + 4 * HOUR });
  expect(seed.activity.map(({ atMs, changes, bytes }) => [(atMs - TEN) / HOUR, changes, bytes])).toEqual([
    [0, 3, 30],
    [1, 3, 30],
    [3, 4, 40],
  ]);
});

test('load is averaged over its slot, and alone tells nothing of tables', async () => {
  const seed = await read(`time,resource,value\n${TEN},cpu,0.5\n${TEN + 1},cpu,1\n${TEN + 24 * HOUR},cpu,0.25\n`);
  expect(seed).toMatchObject({ stepMs: 24 * HOUR, observed: null, activity: [] });
  expect(seed.load.map(({ value }) => value)).toEqual([0.75, 0.25]);
});

describe('what is wrong is told with its line', () => {
  test.each([
    ['', /holds no line of data/],
    ['time,element,rows\n', /holds no line of data/],
    ['when,what\n1,2\n', /line 1: it is no header/],
    ['time,element,rows\n2026-11-22T10:00:00,orders,1\n', /line 2: its time is not one/],
    ['time,element,rows\n1763800000,orders,many\n', /line 2: rows is no number/],
    ['time,element,rows\n1763800000,orders,-1\n', /line 2: rows is no number/],
    ['time,element,rows\n1763800000,orders,1.5\n', /line 2: rows is no whole number/],
    ['time,element,rows\n1763800000,,1\n', /line 2: it names no element/],
    ['time,element,rows\n1763800000,a,b,1\n', /line 2: it has 4 fields, and the header 3/],
    ['time,element,rows\n1763800000,"a,1\n', /line 2: its quotes do not match/],
    ['time,element,rows,distinct\n1763800000,a,1,2\n', /line 2: distinct is more than rows/],
    ['{"time":1763800000,"element":"a","rows":1}\n{"time":', /line 2: it is not JSON/],
    ['{"time":1763800000,"resource":"cpu","value":null}', /line 1: value is no number/],
  ])('%j', async (text, message) => {
    await expect(read(text)).rejects.toMatchObject({ code: 'SEED_INVALID', message: expect.stringMatching(message) });
  });

  test('a file that is not there', async () => {
    await expect(readSeed(join(directory, 'absent'), lengths)).rejects.toMatchObject({ code: 'SEED_INVALID' });
  });
});
