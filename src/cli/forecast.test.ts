import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { text as textOf } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import type { ForecastReport } from '../app/forecast-report.ts';
import { openSqliteHistory } from '../stores/sqlite/history.ts';
import { slotLengths, slotStart } from '../tracking/history.ts';
import { DRAWN } from './drawing.ts';
import { Output } from './output.ts';
import { runProgram } from './program.ts';

const HOUR = 3_600_000;

const CONFIG = 'dataSet: shop\nprimary: sqlite:shop.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-forecast-cli-'));
  await writeFile(join(directory, 'foreshadow.yaml'), CONFIG);
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

test('says which forecasts are given, and by which of them and ours start goes', async () => {
  const end = slotStart(Date.now(), HOUR);
  // Not so that an hour ends meanwhile.
  onTestFinished(() => void vi.useRealTimers());
  vi.useFakeTimers({ toFake: ['Date'], now: end + HOUR / 2 });
  const given = (resource: string, hours: number, value: number): string[] =>
    Array.from({ length: hours }, (_, hour) => `${end + hour * HOUR},${resource},${value}`);
  await writeFile(
    join(directory, 'given.csv'),
    ['time,resource,value', ...given('host.cpu', 6, 0.4), ...given('host.cqu', 24, 0.4), ...given('host.disk', 24, 40)].join('\n'),
  );
  const asked: string[] = [];
  const server = createServer((request, response) => {
    void textOf(request).then((body) => {
      const { query, start, end: last, step } = Object.fromEntries(new URLSearchParams(body)) as Record<string, string>;
      asked.push(query ?? '');
      const points = 1 + (Number(last) - Number(start)) / Number(step);
      const values = Array.from({ length: points }, (_, point) => [Number(start) + point * Number(step), '0.5']);
      response.end(JSON.stringify({ status: 'success', data: { resultType: 'matrix', result: [{ metric: {}, values }] } }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await writeFile(
    join(directory, 'foreshadow.yaml'),
    `${CONFIG}prediction:
  loadForecast: given.csv
  prometheus: { url: "http://127.0.0.1:${port}", forecast: { host.cpu: cpu_ahead, writer: writer_ahead } }
`,
  );
  const history = openSqliteHistory(join(directory, '.foreshadow', 'history.db'), slotLengths(24 * HOUR));
  const sampled = ['host.cpu', 'host.disk', 'writer'].map((resource) => ({ resource, atMs: end - HOUR, value: 0.2 }));
  await history.seed({ stepMs: HOUR, observed: null, activity: [], load: sampled });
  await history[Symbol.asyncDispose]();
  try {
    const { load, troubles } = JSON.parse(await printed('--json')) as ForecastReport;
    expect(asked).toEqual(['cpu_ahead', 'writer_ahead']);
    const nothing = Array.from({ length: 18 }, () => null);
    expect(Object.fromEntries(load.map(({ resource, given: each }) => [resource, each]))).toEqual({
      // A file says it before a Prometheus does.
      'host.cpu': { by: 'prediction.loadForecast', counts: true, values: [...Array.from({ length: 6 }, () => 0.4), ...nothing] },
      'host.disk': { by: 'prediction.loadForecast', counts: false, values: Array.from({ length: 24 }, () => 40) },
      'host.cqu': { by: 'prediction.loadForecast', counts: false, values: Array.from({ length: 24 }, () => 0.4) },
      writer: { by: 'prediction.prometheus.forecast', counts: true, values: Array.from({ length: 24 }, () => 0.5) },
    });
    expect(load.find(({ resource }) => resource === 'host.cqu')).toMatchObject({ basis: 'none', middle: [null, ...Array(23).fill(null)] });
    expect(troubles).toEqual([
      'the forecast that is given of host.cqu counts for nothing: no load of that name is seen (but host.cpu, host.disk, writer)',
      'the forecast of host.disk that is given is beyond all belief: our own counts',
    ]);
    const text = await printed();
    expect(text).toMatch(/^ {2}prediction\.loadForecast: start goes by it, for 6 of 24, else by ours +0\.4 +[▁-█]{6} *$/mu);
    expect(text).toMatch(/^ {2}prediction\.prometheus\.forecast: start goes by it +0\.5 +[▁-█]{24}$/mu);
    expect(text.match(/^ {2}prediction\.loadForecast: start goes by ours/gmu)).toHaveLength(2);
    expect(text).toContain(troubles.join('\n'));
  } finally {
    server.closeAllConnections();
    server.close();
  }
  // Nobody answers there any more.
  const [lost] = (JSON.parse(await printed('--json')) as ForecastReport).troubles;
  expect(lost).toMatch(/^the forecast of host\.cpu could not be asked: /);
});
