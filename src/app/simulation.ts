import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { createGunzip } from 'node:zlib';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import { everyPolicy, predictive, tolerating } from '../prediction/policies.ts';
import type { PolicyName } from '../prediction/policies.ts';
import { chosen, frontier, scoreNamed, scoreOf } from '../prediction/scores.ts';
import type { Score } from '../prediction/scores.ts';
import { simulate } from '../prediction/simulate.ts';
import { distinctPerCycle, slotsOf, TraceReader } from '../prediction/trace.ts';
import type { Trace } from '../prediction/trace.ts';
import type { ProgressListener } from './operations.ts';

/** Policies compared on recorded changes. Nothing of a data set is touched. */

export interface SimulationRequest {
  readonly tracePath: string;
  readonly captureEveryMs: number;
  readonly slotMs: number;
  /** A multiple of the rows that change per cycle, or rows per slot. */
  readonly capacity: { readonly demand: number } | { readonly rows: number };
  /** Infinity: until the capture. */
  readonly toleranceMs: number;
  /** Whether load, as changes show it, takes from the capacity. */
  readonly headroom: boolean;
}

export interface PolicyReport {
  readonly policy: PolicyName;
  readonly settings: Readonly<Record<string, number>>;
  readonly residualRows: number;
  readonly residualRowsP95: number;
  readonly rowsPerDistinct: number;
  readonly bytesPerDistinct: number;
  readonly underLoadShare: number;
  readonly lagP50Ms: number;
  readonly lagP99Ms: number;
  readonly lagMaxMs: number;
  /** Whether no policy that knows only the past leaves as little and moves as little. */
  readonly onFrontier: boolean;
}

export interface SimulationReport {
  readonly trace: { readonly changes: number; readonly rows: number; readonly elements: number; readonly spanMs: number };
  readonly captureEveryMs: number;
  readonly slotMs: number;
  readonly capacityRows: number;
  /** Captures that settings were chosen on, and that policies were scored on: the same where there are too few to part them. */
  readonly captures: { readonly chosenOn: number; readonly scored: number; readonly apart: boolean };
  readonly policies: readonly PolicyReport[];
  /** The settings of the predictive policy that served best; null where no whole cycle was recorded after the first. */
  readonly chosen: PolicyReport | null;
  /** Residual rows, and rows moved per distinct row, lost by the plan were every forecast right, and by forecasting. */
  readonly regret: {
    readonly policy: { readonly residualRows: number; readonly rowsPerDistinct: number };
    readonly forecast: { readonly residualRows: number; readonly rowsPerDistinct: number };
  } | null;
  /** What other lag tolerances would have come to, with the settings chosen, beside moving every change as it comes. */
  readonly tolerances: readonly {
    readonly toleranceMs: number;
    readonly fewerRowsShare: number;
    readonly residualRows: number;
    readonly lagP99Ms: number;
    /** To a slot. False where it was not: ages reached `lagMaxMs`. */
    readonly kept: boolean;
    readonly lagMaxMs: number;
  }[];
}

/** Of `prediction.reserve`, its default among them. */
const RESERVES = [1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 4];
/** Residual that the fewest moves are looked for at, beside quiet-first's. */
const ALLOWED = 1.02;
const CEILING = 0.7;
/** Fewer than this many captures are not parted into some to choose on and some to score. */
const PARTED_MIN = 20;
const TOLERANCE_SLOTS = [1, 2, 6, 12, 36];

/** @throws ForeshadowError TRACE_INVALID where the file cannot be read as a trace, or is shorter than three captures. */
export async function simulateTrace(
  request: SimulationRequest,
  progress: ProgressListener,
  signal: AbortSignal,
): Promise<SimulationReport> {
  const trace = await readTrace(request.tracePath, progress, signal);
  const { slotMs, captureEveryMs } = request;
  const { startMs } = slotsOf(trace, slotMs);
  const endMs = trace.atMs.at(-1) as number;
  if (endMs - startMs < 3 * captureEveryMs) {
    throw new ForeshadowError('TRACE_INVALID', `${basename(request.tracePath)} spans less than three captures`, {
      remedy: 'record for longer, or give --capture-every a shorter time',
    });
  }
  const distinct = distinctPerCycle(trace, startMs, captureEveryMs, endMs);
  const capacityRows = 'rows' in request.capacity ? request.capacity.rows : (request.capacity.demand * distinct * slotMs) / captureEveryMs;
  const tolerances = TOLERANCE_SLOTS.map((slots) => slots * slotMs).filter((ms) => ms < captureEveryMs);
  const policies = [
    ...everyPolicy(RESERVES, [0]),
    ...tolerances.flatMap((ms) => RESERVES.map((reserve) => tolerating(predictive({ reserve, worth: 0 }), ms))),
  ];
  const outcomes = await simulate(
    trace,
    policies,
    { slotMs, captureEveryMs, capacityRows, toleranceMs: request.toleranceMs, load: null, ceiling: CEILING, headroom: request.headroom },
    async (share) => {
      progress({ phase: 'simulating', table: null, done: Math.round(share * 100), total: 100, unit: '%' });
      // Between captures, Ctrl-C is heard.
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
    },
  );
  // The first cycle teaches what a cycle is.
  const due = (outcomes[0]?.cycles ?? []).slice(1).map(({ dueMs }) => dueMs);
  const apart = due.length >= PARTED_MIN;
  const chooseUntil = apart ? (due[Math.floor(due.length * 0.6)] as number) : endMs;
  const scoreAfter = apart ? chooseUntil : startMs + captureEveryMs;
  const isPlain = ({ policy }: Score): boolean => !('toleranceMs' in policy.settings);
  const known = outcomes.map((each) => scoreOf(each, startMs + captureEveryMs, chooseUntil)).filter(isPlain);
  const scores = outcomes.map((each) => scoreOf(each, scoreAfter));
  const pick = chosen(known, scoreNamed(known, 'quiet-first'), ALLOWED);
  const ours = scores.find(({ policy }) => policy === pick?.policy) ?? null;
  const plain = scores.filter(isPlain);
  const edge = new Set(frontier(plain.filter(({ policy }) => policy.name !== 'clairvoyant' && policy.name !== 'perfect-forecast')));
  return {
    trace: { changes: trace.atMs.length, rows: trace.rowElement.length, elements: trace.elements.length, spanMs: endMs - startMs },
    captureEveryMs,
    slotMs,
    capacityRows,
    captures: { chosenOn: known[0]?.cycles.length ?? 0, scored: scores[0]?.cycles.length ?? 0, apart },
    policies: plain.map((score) => reportOf(score, edge.has(score))),
    chosen: ours === null ? null : reportOf(ours, edge.has(ours)),
    regret: ours === null ? null : regretOf(plain, ours),
    tolerances: ours === null ? [] : tolerances.map((ms) => toleranceOf(scores, ours, ms, slotMs)),
  };
}

async function readTrace(path: string, progress: ProgressListener, signal: AbortSignal): Promise<Trace> {
  const name = basename(path);
  const reader = new TraceReader(name);
  const file = createReadStream(path, { signal });
  const bytes = path.endsWith('.gz') ? createGunzip() : file;
  if (bytes !== file) file.on('error', (error) => bytes.destroy(error)).pipe(bytes as ReturnType<typeof createGunzip>);
  let lines = 0;
  try {
    for await (const line of createInterface({ input: bytes, crlfDelay: Infinity })) {
      reader.take(line);
      if (++lines % 100_000 === 0) progress({ phase: 'reading', table: null, done: lines, total: null, unit: 'lines' });
    }
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof ForeshadowError) throw error;
    throw new ForeshadowError('TRACE_INVALID', `${name} cannot be read: ${messageOf(error)}`, {
      remedy: 'give a readable file of changes, plain or .gz',
      cause: error,
    });
  }
  return reader.finish();
}

function reportOf(score: Score, onFrontier: boolean): PolicyReport {
  return {
    policy: score.policy.name,
    settings: score.policy.settings,
    residualRows: score.residualRows,
    residualRowsP95: score.residualRowsP95,
    rowsPerDistinct: score.rowsPerDistinct,
    bytesPerDistinct: score.bytesPerDistinct,
    underLoadShare: score.underLoadShare,
    lagP50Ms: score.lagP50Ms,
    lagP99Ms: score.lagP99Ms,
    lagMaxMs: score.lagMaxMs,
    onFrontier,
  };
}

function regretOf(scores: readonly Score[], ours: Score): SimulationReport['regret'] {
  const perfect = scores.find(({ policy }) => policy.name === 'perfect-forecast') as Score;
  const best = scoreNamed(scores, 'clairvoyant');
  const less = (a: Score, b: Score): { residualRows: number; rowsPerDistinct: number } => ({
    residualRows: a.residualRows - b.residualRows,
    rowsPerDistinct: a.rowsPerDistinct - b.rowsPerDistinct,
  });
  return { policy: less(perfect, best), forecast: less(ours, perfect) };
}

function toleranceOf(scores: readonly Score[], ours: Score, toleranceMs: number, slotMs: number): SimulationReport['tolerances'][number] {
  const own = scores.find(
    ({ policy: { name, settings } }) =>
      name === 'predictive' && settings['toleranceMs'] === toleranceMs && settings['reserve'] === ours.policy.settings['reserve'],
  ) as Score;
  const streamed = scoreNamed(scores, 'stream-everything');
  return {
    toleranceMs,
    fewerRowsShare: 1 - own.rowsPerDistinct / streamed.rowsPerDistinct,
    residualRows: own.residualRows,
    lagP99Ms: own.lagP99Ms,
    kept: own.lagMaxMs <= toleranceMs + slotMs,
    lagMaxMs: own.lagMaxMs,
  };
}
