import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text as textOf } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { queryRange } from './prometheus.ts';

const { signal } = new AbortController();
const MINUTE = 60_000;
const START = 1_763_800_020_000;
const range = { fromMs: START, untilMs: START + 4 * MINUTE, stepMs: MINUTE };

let server: Server;
let url: string;
let answer: (request: IncomingMessage, body: URLSearchParams, response: ServerResponse) => void;

beforeEach(async () => {
  server = createServer((request, response) => {
    void textOf(request).then((body) => answer(request, new URLSearchParams(body), response));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterEach(() => {
  server.closeAllConnections();
  server.close();
});

function matrix(...series: (readonly [number, string])[][]): string {
  return JSON.stringify({ status: 'success', data: { resultType: 'matrix', result: series.map((values) => ({ metric: {}, values })) } });
}

const at = (minute: number): number => START / 1000 + 60 * minute;
const asked = (options: { token?: string; at?: string; timeoutMs?: number } = {}) =>
  queryRange({ url: options.at ?? url, token: options.token ?? null, timeoutMs: options.timeoutMs ?? 5000 }, 'avg(load)', range, signal);

test('asks for a range as Prometheus wants it, and gives its points', async () => {
  let seen: unknown = null;
  answer = (request, body, response) => {
    seen = [request.method, request.url, Object.fromEntries(body), request.headers.authorization];
    response.end(
      matrix([
        [at(0), '1.5'],
        [at(1), '2'],
        [at(3), '0'],
      ]),
    );
  };
  expect(await asked({ token: 'a-token', at: `${url}/prometheus/` })).toEqual([
    { atMs: START, value: 1.5 },
    { atMs: START + MINUTE, value: 2 },
    { atMs: START + 3 * MINUTE, value: 0 },
  ]);
  const form = { query: 'avg(load)', start: `${at(0)}`, end: `${at(3)}`, step: '60' };
  expect(seen).toEqual(['POST', '/prometheus/api/v1/query_range', form, 'Bearer a-token']);
  await asked({ at: url.replace('//', '//me:p%40ss@') });
  expect(seen).toEqual(['POST', '/api/v1/query_range', form, `Basic ${Buffer.from('me:p@ss').toString('base64')}`]);
});

test('what is no number, out of order or out of the range is a gap', async () => {
  answer = (_, __, response) => {
    const lies: [number, string][] = [
      [at(-9), '9'],
      [at(0), 'NaN'],
      [at(1), '+Inf'],
      [at(2), '7'],
      [at(1), '8'],
      [at(2), '6'],
      [at(3), 'x'],
      [at(99), '5'],
    ];
    response.end(matrix(lies));
  };
  expect(await asked()).toEqual([{ atMs: START + 2 * MINUTE, value: 7 }]);
  answer = (_, __, response) => response.end(matrix());
  expect(await asked()).toEqual([]);
});

test('long ranges are asked for in parts', async () => {
  const parts: string[] = [];
  answer = (_, body, response) => {
    parts.push(`${body.get('start')} ${body.get('end')}`);
    response.end(matrix([[Number(body.get('start')), '1']]));
  };
  const long = { fromMs: START, untilMs: START + 15_000 * MINUTE, stepMs: MINUTE };
  expect(await queryRange({ url, token: null }, 'x', long, signal)).toHaveLength(2);
  expect(parts).toEqual([`${at(0)} ${at(9999)}`, `${at(10_000)} ${at(14_999)}`]);
});

test.each<[string, (response: ServerResponse) => void, RegExp]>([
  [
    'a page',
    (response) => response.setHeader('content-type', 'text/html').end('<html>sign in</html>'),
    /no answer to a range query \(text\/html\)/,
  ],
  ['JSON of something else', (response) => response.end('{"status":"success","data":{"resultType":"vector","result":[]}}'), /no answer/],
  [
    'an error',
    (response) => response.writeHead(400).end('{"status":"error","errorType":"bad_data","error":"parse error"}'),
    /could not run a query: parse error/,
  ],
  ['a redirect', (response) => response.writeHead(302, { location: 'http://elsewhere.invalid/' }).end(), /sends elsewhere/],
  ['a refusal', (response) => response.writeHead(401).end('who are you'), /refuses us \(HTTP 401\)/],
  ['several series', (response) => response.end(matrix([[at(0), '1']], [[at(0), '2']])), /has 2 series/],
  ['nothing, and the line goes dead', (response) => response.socket?.destroy(), /cannot be reached/],
  ['silence', () => {}, /did not answer in time/],
  [
    'no end',
    (response) => {
      const more = (): void => {
        while (!response.destroyed && response.write(Buffer.alloc(1 << 20, 'x')));
      };
      response.on('drain', more);
      more();
    },
    /far more than was asked for/,
  ],
])('%s is told as what it is, without secrets', async (_, act, message) => {
  answer = (__, ___, response) => act(response);
  const failing = asked({ token: 'secret-token', at: url.replace('//', '//me:secret-password@'), timeoutMs: 1500 });
  await expect(failing).rejects.toMatchObject({ code: 'LOAD_SOURCE', message: expect.stringMatching(message) });
  const text = await failing.catch((error: unknown) => `${String(error)} ${JSON.stringify(error)}`);
  expect(text).not.toContain('secret');
});

test('one that is not there', async () => {
  await expect(asked({ at: 'http://127.0.0.1:1' })).rejects.toMatchObject({ code: 'LOAD_SOURCE', retry: 'later' });
});
