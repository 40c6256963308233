import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as textOf } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openMemoryHistory } from '../stores/memory/history.ts';
import { slotLengths } from '../tracking/history.ts';
import { GivenForecasts, type GivenParts } from './given-forecasts.ts';
import { LoadOutlook } from './load-outlook.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const NOW = Date.UTC(2026, 10, 22, 12);
const lengths = slotLengths(24 * HOUR);
const { signal } = new AbortController();
const GAP = Number.NaN;

let directory: string;
const server = createServer((request, response) => {
  void textOf(request).then((body) => answer(new URLSearchParams(body), response));
});
let answer: (body: URLSearchParams, response: ServerResponse) => void;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-given-'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await rm(directory, { recursive: true, force: true });
});

function given(over: Partial<GivenParts> = {}): GivenForecasts {
  return new GivenForecasts({ prometheus: null, file: null, lengths, now: () => NOW, ...over });
}

/** The time it has to answer is for a machine that does much else; where it never does, little is enough. */
function asking(timeoutMs = 20_000): GivenForecasts {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const forecast = new Map([['host.cpu', 'forecast']]);
  return given({ prometheus: { url, token: null, load: new Map(), activity: new Map(), forecast }, timeoutMs });
}

/** Points so many minutes from now. */
function matrix(...points: readonly [minute: number, value: string][]): string {
  const values = points.map(([minute, value]) => [NOW / 1000 + 60 * minute, value]);
  return JSON.stringify({ status: 'success', data: { resultType: 'matrix', result: [{ metric: {}, values }] } });
}

async function file(name: string, ...lines: readonly string[]): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, ['time,resource,value', ...lines].join('\n'));
  return path;
}

describe('a forecast that is given', () => {
  test('by a Prometheus, is asked for the days to come, and counts until its next point', async () => {
    let seen: unknown = null;
    answer = (body, response) => {
      seen = [body.get('query'), Number(body.get('start')), Number(body.get('end')), body.get('step')];
      response.end(matrix([0, '0.5'], [5, '0.25'], [10, 'NaN'], [15, '-1'], [20, '0.1']));
    };
    const forecasts = asking();
    await forecasts.ask(signal);
    expect(seen).toEqual(['forecast', NOW / 1000, NOW / 1000 + 48 * 3600 - 300, '300']);
    expect(forecasts.slots('host.cpu', NOW, 150_000, 11)).toEqual(Float64Array.of(0.5, 0.5, 0.25, 0.25, GAP, GAP, GAP, GAP, 0.1, 0.1, GAP));
    expect(forecasts.slots('host.disk', NOW, MINUTE, 1)).toBeNull();
    expect(forecasts.troubles).toEqual([]);
  });

  test.each([
    ['does not answer', () => {}, /did not answer in time/],
    ['breaks', (_: unknown, response: ServerResponse) => response.destroy(), /cannot be reached/],
    ['says what is no answer', (_: unknown, response: ServerResponse) => response.end('<html>'), /no answer to a range query/],
    ['has nothing to say', (_: unknown, response: ServerResponse) => response.end(matrix()), /has no point from now on: our own counts/],
    ['speaks of the past', (_: unknown, response: ServerResponse) => response.end(matrix([-60, '1'])), /has no point from now on/],
  ])('by a Prometheus that %s, gives way to our own, with the reason', async (_, act, reason) => {
    answer = act;
    const forecasts = asking(reason.source.includes('in time') ? 50 : undefined);
    await forecasts.ask(signal);
    expect(forecasts.slots('host.cpu', NOW, MINUTE, 1) ?? Float64Array.of(GAP)).toEqual(Float64Array.of(GAP));
    expect(forecasts.troubles).toEqual([expect.stringMatching(reason)]);
  });

  test('by a file, is read again when that changes', async () => {
    const path = await file('load.csv', `${NOW - HOUR},host.cpu,0.9`, `${NOW},host.cpu,0.3`, `${NOW + HOUR},host.cpu,0.6`);
    const forecasts = given({ file: path });
    await forecasts.readFile();
    expect(forecasts.slots('host.cpu', NOW, HOUR / 2, 5)).toEqual(Float64Array.of(0.3, 0.3, 0.6, 0.6, GAP));
    await file('load.csv', `${NOW},host.cpu,0.1`, `${NOW + HOUR},host.cpu,0.22`);
    await forecasts.readFile();
    expect(forecasts.slots('host.cpu', NOW, HOUR, 2)).toEqual(Float64Array.of(0.1, 0.22));
    await file('load.csv', 'no line at all');
    await forecasts.readFile();
    expect([forecasts.slots('host.cpu', NOW, HOUR, 1), forecasts.troubles[0]]).toEqual([null, expect.stringMatching(/line 2.*our own/)]);
  });

  test('by a file, counts from where its points are, on whatever grid', async () => {
    const half = HOUR / 2;
    const path = await file('half.csv', `${NOW - half},host.cpu,0.2`, `${NOW + half},host.cpu,0.6`, `${NOW + HOUR + half},host.cpu,0.4`);
    const forecasts = given({ file: path });
    await forecasts.readFile();
    expect(forecasts.slots('host.cpu', NOW, half, 5)).toEqual(Float64Array.of(0.2, 0.6, 0.6, 0.4, 0.4));
  });

  test('by a file that is over, or absent, gives way to our own', async () => {
    const old = given({ file: await file('old.csv', `${NOW - 3 * HOUR},host.cpu,0.9`, `${NOW - 2 * HOUR},host.cpu,0.3`) });
    await old.readFile();
    expect(old.troubles).toEqual(['the forecast of host.cpu that is given ended at 2026-11-22T11:00:00.000Z: our own counts']);
    const absent = given({ file: join(directory, 'absent.csv') });
    await absent.readFile();
    expect(absent.troubles).toEqual([expect.stringMatching(/absent\.csv.*our own/)]);
  });

  test('stands for a day of load that was not seen, but not where it has nothing to say', async () => {
    const knows = async (path: string): Promise<boolean> => {
      const forecasts = given({ file: path });
      await forecasts.readFile();
      const parts = {
        history: openMemoryHistory(lengths),
        lengths,
        ceiling: { share: 0.7, of: new Map() },
        challengers: null,
        now: () => NOW,
      };
      return new LoadOutlook({ ...parts, given: forecasts }).knowsDay('host.cpu');
    };
    expect(await knows(await file('ahead.csv', `${NOW},host.cpu,0.3`, `${NOW + HOUR},host.cpu,0.3`))).toBe(true);
    expect(await knows(await file('over.csv', `${NOW - 3 * HOUR},host.cpu,0.3`, `${NOW - 2 * HOUR},host.cpu,0.3`))).toBe(false);
  });

  test('counts instead of our own where it says something, and not where nobody could believe it', async () => {
    const of = (value: number, path: string) => file(path, `${NOW},host.cpu,${value}`, `${NOW + HOUR},host.cpu,${value}`);
    const outlookOf = async (path: string): Promise<LoadOutlook> => {
      const forecasts = given({ file: path });
      await forecasts.readFile();
      const history = openMemoryHistory(lengths);
      const load = Array.from({ length: 48 }, (_, hour) => ({ resource: 'host.cpu', atMs: NOW - (48 - hour) * HOUR, value: 0.4 }));
      await history.seed({ stepMs: HOUR, observed: null, activity: [], load });
      const parts = { history, lengths, ceiling: { share: 0.7, of: new Map() }, challengers: null, now: () => NOW };
      const outlook = new LoadOutlook({ ...parts, given: forecasts });
      await outlook.refresh(signal);
      return outlook;
    };
    const believed = await outlookOf(await of(0.9, 'high.csv'));
    expect(Array.from(believed.upper('host.cpu', NOW, HOUR, 3))).toEqual([0.9, 0.9, expect.closeTo(0.4, 1)]);
    expect(believed.troubles).toEqual([]);
    const absurd = await outlookOf(await of(90, 'percent.csv'));
    expect(absurd.upper('host.cpu', NOW, HOUR, 1)[0]).toBeCloseTo(0.4, 1);
    expect(absurd.troubles).toEqual([expect.stringMatching(/host\.cpu that is given is beyond all belief/)]);
  });
});
