import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openSqliteHistory } from '../stores/sqlite/history.ts';
import { slotLengths, slotStart } from '../tracking/history.ts';
import { DRAWN } from './drawing.ts';
import { Output } from './output.ts';
import { runProgram } from './program.ts';

const HOUR = 3_600_000;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-forecast-cli-'));
  await writeFile(join(directory, 'foreshadow.yaml'), 'dataSet: shop\nprimary: sqlite:shop.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n');
});
afterAll(() => rm(directory, { recursive: true, force: true }));

async function printed(...given: string[]): Promise<string> {
  const out = new PassThrough();
  let text = '';
  out.on('data', (part: Buffer) => (text += part.toString()));
  const exit = await runProgram(['forecast', ...given], {
    env: {},
    directory,
    out: new Output(out),
    err: new Output(new PassThrough()),
    signal: new AbortController().signal,
    systems: async () => ({}) as never,
  });
  expect(exit).toBe(0);
  return text;
}

test('draws all of the time that was asked for, in as many characters as fit', async () => {
  expect(await printed()).toMatch(/^nothing can be forecast yet: the first 1 h 00 m has to be over/);
  const history = openSqliteHistory(join(directory, '.foreshadow', 'history.db'), slotLengths(24 * HOUR));
  const end = slotStart(Date.now(), HOUR);
  // Two weeks, busy for half of each day.
  const load = Array.from({ length: 336 }, (_, ago) => {
    const atMs = end - (ago + 1) * HOUR;
    return { resource: 'host.cpu', atMs, value: new Date(atMs).getHours() < 12 ? 0.8 : 0.1 };
  });
  await history.seed({ stepMs: HOUR, observed: null, activity: [], load });
  await history[Symbol.asyncDispose]();
  const picture = async (ahead: string): Promise<[title: string | undefined, drawn: string]> => {
    const text = await printed('--ahead', ahead);
    return [/time in ten, by (.*)$/m.exec(text)?.[1], /^host\.cpu.* ([▁-█]+)$/mu.exec(text)?.[1] ?? ''];
  };
  const [title, day] = await picture('24h');
  expect([title, day.length]).toEqual(['1 h 00 m', 24]);
  const [longTitle, week] = await picture('7d');
  expect([longTitle, week.length]).toEqual(['4 h 00 m', 42]);
  expect(week.length).toBeLessThanOrEqual(DRAWN);
});
