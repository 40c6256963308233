import { type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text as textOf } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openMemoryHistory } from '../stores/memory/history.ts';
import { slotLengths, slotStart } from '../tracking/history.ts';
import { LoadQueries } from './load-queries.ts';

const MINUTE = 60_000;
const lengths = slotLengths(1440 * MINUTE);

const held: ServerResponse[] = [];
/** Answers a point a minute, refuses a query that is none, and is silent about one. */
const server = createServer((request, response) => {
  void textOf(request).then((body) => {
    const asked = new URLSearchParams(body);
    const [from, last, step] = ['start', 'end', 'step'].map((name) => Number(asked.get(name))) as [number, number, number];
    if (asked.get('query') === 'silent') return held.push(response);
    if (asked.get('query') !== 'busy') {
      response.writeHead(400);
      return response.end(JSON.stringify({ status: 'error', errorType: 'bad_data', error: 'no such function' }));
    }
    const values = Array.from({ length: Math.round((last - from) / step) + 1 }, (_, index) => [from + index * step, '0.5']);
    return response.end(JSON.stringify({ status: 'success', data: { resultType: 'matrix', result: [{ metric: {}, values }] } }));
  });
});
beforeAll(() => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)));
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

test('what answers is learned and known now, whatever becomes of the others, which are told by name', async () => {
  const history = openMemoryHistory(lengths);
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const load = new Map([
    ['asleep', 'silent'],
    ['wrong', 'cpu()'],
    ['amiss', 'cpu()'],
    ['cpu', 'busy'],
  ]);
  const queries = new LoadQueries({ url, token: null, load, forecast: new Map(), activity: new Map() }, history, lengths, () => {});
  const ending = new AbortController();
  const running = queries.run(MINUTE, ending.signal);
  // One that is waited for keeps nobody.
  while (queries.loadNow(Date.now()).size === 0 || queries.troubles.length === 0) await new Promise((resolve) => setTimeout(resolve, 2));
  expect(held).toHaveLength(1);
  expect([...queries.loadNow(Date.now())]).toEqual([['prometheus.cpu', 0.5]]);
  expect(queries.troubles).toEqual([
    expect.stringMatching(/^load of prometheus\.wrong, prometheus\.amiss: .*could not run a query: no such function/),
  ]);
  // A day of what was while nothing ran.
  const untilMs = slotStart(Date.now(), MINUTE);
  const { mean } = (await history.load({ stepMs: MINUTE, fromMs: untilMs - 1440 * MINUTE, untilMs })).get('prometheus.cpu') ?? {};
  expect(mean?.values.filter((value) => value === 0.5).length).toBeGreaterThan(1430);
  // What was long ago is not now.
  expect(queries.loadNow(Date.now() + 10 * MINUTE).size).toBe(0);
  ending.abort();
  await running;
});
