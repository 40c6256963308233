import { z } from 'zod';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import { redactUrl } from './config.ts';

export interface PrometheusOptions {
  /** Its address, perhaps with a user and password: shown only through `redactUrl`. */
  readonly url: string;
  /** Sent as a bearer token; null: none. Never shown. */
  readonly token: string | null;
  readonly timeoutMs?: number;
}

export interface Point {
  readonly atMs: number;
  readonly value: number;
}

const TIMEOUT_MS = 10_000;
/** An answer of ten thousand points takes some 300 kB. */
const ANSWER_BYTES_MAX = 8 << 20;
/** A server refuses to give more than 11 000 at once. */
const POINTS_MAX = 10_000;
const TEXT_SHOWN = 300;

const answerSchema = z.union([
  z.object({ status: z.literal('error'), error: z.string() }),
  z.object({
    status: z.literal('success'),
    data: z.object({
      resultType: z.literal('matrix'),
      result: z.array(z.object({ values: z.array(z.tuple([z.number(), z.string()])) })),
    }),
  }),
]);

/**
 * The one series that a query gives from `fromMs` to before `untilMs`, a point each `stepMs`
 * (https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries). Points that are no finite number are left out, and so are those
 * out of order or out of the range: what is not known is a gap. Throws LOAD_SOURCE, to be tried again where that may help.
 */
export async function queryRange(
  options: PrometheusOptions,
  query: string,
  range: { readonly fromMs: number; readonly untilMs: number; readonly stepMs: number },
  signal: AbortSignal,
): Promise<Point[]> {
  const points: Point[] = [];
  const { stepMs } = range;
  for (let fromMs = range.fromMs; fromMs < range.untilMs; fromMs += POINTS_MAX * stepMs) {
    const lastMs = Math.min(range.untilMs, fromMs + POINTS_MAX * stepMs) - stepMs;
    for (const [seconds, text] of await ask(options, query, { fromMs, lastMs, stepMs }, signal)) {
      const [atMs, value] = [Math.round(seconds * 1000), Number(text)];
      const isNext = atMs >= fromMs && atMs <= lastMs && atMs > (points.at(-1)?.atMs ?? Number.NEGATIVE_INFINITY);
      if (isNext && Number.isFinite(value)) points.push({ atMs, value });
    }
  }
  return points;
}

async function ask(
  options: PrometheusOptions,
  query: string,
  { fromMs, lastMs, stepMs }: { readonly fromMs: number; readonly lastMs: number; readonly stepMs: number },
  signal: AbortSignal,
): Promise<readonly (readonly [number, string])[]> {
  const patience = AbortSignal.timeout(options.timeoutMs ?? TIMEOUT_MS);
  let response: Response;
  let text: string;
  try {
    const { url, headers } = requestOf(options);
    const body = new URLSearchParams({ query, start: `${fromMs / 1000}`, end: `${lastMs / 1000}`, step: `${stepMs / 1000}` });
    // A redirect could take the token to another host.
    response = await fetch(url, { method: 'POST', headers, body, redirect: 'manual', signal: AbortSignal.any([signal, patience]) });
    text = await bounded(response, options);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof ForeshadowError) throw error;
    const why = patience.aborted ? 'did not answer in time' : `cannot be reached: ${reasonOf(error)}`;
    throw trouble(options, why, 'Check that it runs, and prediction.prometheus.url.');
  }
  if (response.status >= 300 && response.status < 400) {
    throw trouble(options, 'sends elsewhere (a redirect)', 'Write the address it sends to in prediction.prometheus.url.', 'never');
  }
  if (response.status === 401 || response.status === 403) {
    throw trouble(options, `refuses us (HTTP ${response.status})`, 'Correct prediction.prometheus.token, or the user in its URL.');
  }
  const answer = answerSchema.safeParse(jsonOf(text));
  if (!answer.success) {
    const kind = response.headers.get('content-type') ?? 'nothing it names';
    const what = `answered with HTTP ${response.status} and something that is no answer to a range query (${kind})`;
    throw trouble(options, what, 'Check prediction.prometheus.url: it ends before /api/v1.');
  }
  if (answer.data.status === 'error') {
    throw trouble(
      options,
      `could not run a query: ${answer.data.error.slice(0, TEXT_SHOWN)}`,
      'Correct the query in prediction.prometheus.',
    );
  }
  const [series, ...others] = answer.data.data.result;
  if (others.length > 0) {
    const what = `has ${others.length + 1} series for a query that must give one: ${query.slice(0, TEXT_SHOWN)}`;
    throw trouble(options, what, 'Sum them up: sum(…).', 'never');
  }
  return series?.values ?? [];
}

/** User and password of the URL go into a header: a request cannot carry them. */
function requestOf({ url, token }: PrometheusOptions): { readonly url: URL; readonly headers: Headers } {
  const address = new URL(url);
  const headers = new Headers();
  if (address.username !== '') {
    const user = `${decodeURIComponent(address.username)}:${decodeURIComponent(address.password)}`;
    headers.set('authorization', `Basic ${Buffer.from(user).toString('base64')}`);
  }
  if (token !== null) headers.set('authorization', `Bearer ${token}`);
  address.username = '';
  address.password = '';
  address.pathname = `${address.pathname.replace(/\/+$/, '')}/api/v1/query_range`;
  return { url: address, headers };
}

async function bounded(response: Response, options: PrometheusOptions): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += (chunk as Uint8Array).length;
    if (bytes > ANSWER_BYTES_MAX) throw trouble(options, 'answered with far more than was asked for', 'Check the address and the query.');
    chunks.push(chunk as Uint8Array);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Not JSON: no answer of Prometheus's, and told as that.
    return null;
  }
}

function reasonOf(error: unknown): string {
  return messageOf(error instanceof Error && error.cause !== undefined ? error.cause : error);
}

function trouble(options: PrometheusOptions, what: string, remedy: string, retry: 'later' | 'never' = 'later'): ForeshadowError {
  return new ForeshadowError('LOAD_SOURCE', `the Prometheus ${redactUrl(options.url)} ${what}`, { remedy, retry });
}
