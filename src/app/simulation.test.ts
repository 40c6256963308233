import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { simulateTrace } from './simulation.ts';
import type { SimulationRequest } from './simulation.ts';

const MINUTE_MS = 60_000;
let directory: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-simulation-'));
});

afterAll(() => rm(directory, { recursive: true, force: true }));

async function request(text: string | Buffer, name: string, over: Partial<SimulationRequest> = {}): Promise<SimulationRequest> {
  const tracePath = join(directory, name);
  await writeFile(tracePath, text);
  return {
    tracePath,
    captureEveryMs: 60 * MINUTE_MS,
    slotMs: 5 * MINUTE_MS,
    capacity: { demand: 2 },
    toleranceMs: Infinity,
    headroom: false,
    ...over,
  };
}

/** A day: 5 rows change every few minutes, 60 now and then. */
function day(): string {
  const lines = ['seconds,table,row,bytes'];
  for (let minute = 0; minute < 1440; minute++) {
    lines.push(`${minute * 60},orders,${minute % 5},100`);
    if (minute % 3 === 0) lines.push(`${minute * 60 + 30},users,${(minute * 7) % 60},300`);
  }
  return lines.join('\n');
}

test('a recorded trace is scored on captures that settings were not chosen on, and says what tolerances save', async () => {
  const steps: number[] = [];
  const given = await request(gzipSync(day()), 'day.csv.gz');
  const report = await simulateTrace(given, ({ done }) => steps.push(done), AbortSignal.timeout(60_000));
  expect(report.trace).toMatchObject({ changes: 1920, elements: 2 });
  expect(report.captures).toMatchObject({ apart: true });
  expect(report.captures.chosenOn + report.captures.scored).toBe(22);
  expect(report.chosen?.policy).toBe('predictive');
  expect(report.regret?.forecast.rowsPerDistinct).toBeGreaterThanOrEqual(0);
  expect(report.policies.filter(({ onFrontier }) => onFrontier).map(({ policy }) => policy)).toContain('stream-everything');
  expect(report.tolerances.map(({ toleranceMs }) => toleranceMs / MINUTE_MS)).toEqual([5, 10, 30]);
  // Each of the rows that change all the time changes once in five minutes.
  expect(report.tolerances.map(({ fewerRowsShare }) => Math.sign(fewerRowsShare))).toEqual([0, 1, 1]);
  expect(steps.length).toBeGreaterThan(10);
  expect(JSON.parse(JSON.stringify(report))).toEqual(report);
});

test('tolerances are kept, as in earnest, however little may move ahead of them', async () => {
  const given = await request(day(), 'scarce.csv', { capacity: { rows: 1 } });
  const { tolerances } = await simulateTrace(given, () => undefined, AbortSignal.timeout(60_000));
  expect(tolerances).not.toEqual([]);
  for (const { toleranceMs, lagMaxMs, kept } of tolerances) {
    expect(kept).toBe(true);
    expect(lagMaxMs).toBeLessThanOrEqual(toleranceMs + given.slotMs);
  }
  // What may wait longer moves less often.
  const fewer = tolerances.map(({ fewerRowsShare }) => fewerRowsShare);
  expect(fewer).toEqual(fewer.toSorted((a, b) => a - b));
});

test('what is no trace, too short, or not there is refused by name', async () => {
  const run = async (given: SimulationRequest): Promise<unknown> => simulateTrace(given, () => undefined, new AbortController().signal);
  const short = await request('seconds,row\n0,1\n100,2', 'short.csv');
  await expect(run(short)).rejects.toMatchObject({ code: 'TRACE_INVALID', message: 'short.csv spans less than three captures' });
  await expect(run({ ...short, tracePath: join(directory, 'none.csv') })).rejects.toMatchObject({ code: 'TRACE_INVALID' });
  await expect(run(await request(Buffer.from('no gzip'), 'bad.csv.gz'))).rejects.toMatchObject({ code: 'TRACE_INVALID' });
  await expect(run({ ...short, tracePath: join(directory, 'none.csv.gz') })).rejects.toMatchObject({ code: 'TRACE_INVALID' });
});

test('ends when it is aborted', async () => {
  const given = await request(day(), 'day.csv');
  const end = new AbortController();
  await expect(simulateTrace(given, () => end.abort(new Error('ended')), end.signal)).rejects.toThrow('ended');
});
