import { beforeAll, describe, expect, test } from 'vitest';
import { clairvoyant, fifo, microBatch, none, perfectForecast, predictive, quietFirst, streamEverything } from './policies.ts';
import type { Moment, Policy } from './policies.ts';
import { chosen, frontier, pairedDifference, scoreNamed, scoreOf } from './scores.ts';
import type { Score } from './scores.ts';
import { simulate } from './simulate.ts';
import type { SimulationOptions } from './simulate.ts';
import type { Trace } from './trace.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

/** Days of a small application: 10 rows that change all the time, 200 that change in bursts of a few minutes now and then. */
function traceOf(days: number): Trace {
  let state = 7;
  const random = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
  const changes: { at: number; row: number }[] = [];
  for (let minute = 0; minute < days * 1440; minute++) {
    const at = minute * MINUTE_MS;
    if (random() < 0.7) changes.push({ at, row: Math.floor(random() * 10) });
    if (random() < 0.25) {
      const row = 10 + Math.floor(random() * 200);
      for (let burst = 0; burst < 1 + random() * 4; burst++) changes.push({ at: at + burst * 3 * MINUTE_MS, row });
    }
  }
  changes.sort((a, b) => a.at - b.at);
  return {
    atMs: Float64Array.from(changes, ({ at }) => at),
    row: Int32Array.from(changes, ({ row }) => row),
    rowElement: new Int32Array(210),
    rowBytes: new Float64Array(210).fill(100),
    elements: ['rows'],
  };
}

const OPTIONS: SimulationOptions = {
  slotMs: 5 * MINUTE_MS,
  captureEveryMs: 6 * HOUR_MS,
  capacityRows: 3.5,
  toleranceMs: Infinity,
  load: null,
  ceiling: 0.7,
  headroom: false,
};

async function scores(trace: Trace, policies: readonly Policy[], over: Partial<SimulationOptions> = {}): Promise<Score[]> {
  const outcomes = await simulate(trace, policies, { ...OPTIONS, ...over });
  return outcomes.map((outcome) => scoreOf(outcome, 18 * HOUR_MS));
}

const trace = traceOf(3);
const RESERVES = [1.5, 2, 2.5];

describe('a simulation', () => {
  let all: Score[];
  let moments: Moment[];

  beforeAll(async () => {
    moments = [];
    const watched: Policy = { ...none(), choose: (moment) => (moments.push(moment), []) };
    const plans = RESERVES.map((reserve) => predictive({ reserve, worth: 0 }));
    all = await scores(trace, [watched, streamEverything(), fifo(), quietFirst(), clairvoyant(), perfectForecast(), ...plans]);
  });

  test('counts every change once, whoever moves it', () => {
    const [nothing, stream] = all as [Score, Score];
    expect(nothing.rowsPerDistinct).toBe(1);
    expect(nothing.residualRows).toBe(nothing.cycles.reduce((sum, each) => sum + each.distinctRows, 0) / nothing.cycles.length);
    expect(nothing.bytesPerDistinct).toBe(1);
    expect(stream.residualRows).toBe(0);
    expect(stream.lagMaxMs).toBe(0);
    const counted = trace.atMs.filter((at) => at >= 18 * HOUR_MS && at < (stream.cycles.at(-1)?.dueMs ?? 0)).length;
    expect(stream.cycles.reduce((sum, each) => sum + each.movedRows, 0)).toBe(counted);
  });

  test('knows no policy that leaves less or moves less than the clairvoyant one, and no forecast better than a perfect one', () => {
    const best = scoreNamed(all, 'clairvoyant');
    expect(best.rowsPerDistinct).toBe(1);
    for (const score of all.filter(({ policy }) => !policy.streams)) {
      expect(score.residualRows).toBeGreaterThanOrEqual(best.residualRows);
      expect(score.rowsPerDistinct).toBeGreaterThanOrEqual(1);
    }
    expect(all.find(({ policy }) => policy.name === 'perfect-forecast')?.residualRows).toBe(best.residualRows);
  });

  test('shows that planning by survival moves fewer rows at no larger a residual', () => {
    const quiet = scoreNamed(all, 'quiet-first');
    const best = chosen(all, quiet, 1.03) as Score;
    expect(best.residualRows).toBeLessThanOrEqual(1.03 * quiet.residualRows);
    expect(best.rowsPerDistinct).toBeLessThan(0.9 * quiet.rowsPerDistinct);
  });

  test('is quiet-first until a first cycle has matured', async () => {
    const day = { ...trace, atMs: trace.atMs.slice(0, 1500), row: trace.row.slice(0, 1500) };
    const outcomes = await simulate(day, [quietFirst(), predictive({ reserve: 2, worth: 0 })], OPTIONS);
    const [quiet, ours] = outcomes.map(({ cycles }) => cycles[0]);
    expect(ours?.movedRows).toBe(quiet?.movedRows);
    expect(ours?.residualRows).toBe(quiet?.residualRows);
  });

  test('never moves more than the capacity, and lets no change pass its lag tolerance while capacity allows', async () => {
    const most: number[] = [];
    const watched = (policy: Policy): Policy => ({
      ...policy,
      choose: (moment) => {
        const rows = policy.choose(moment);
        expect(new Set(rows).size).toBe(rows.length);
        most.push(rows.length - (moment.capacity[0] as number));
        return rows;
      },
    });
    const policies = [fifo(), predictive({ reserve: 1.5, worth: 0.3 }), clairvoyant()].map(watched);
    for (const { lagMaxMs } of await scores(trace, policies, { toleranceMs: HOUR_MS, capacityRows: 9.5 })) {
      expect(lagMaxMs).toBeLessThanOrEqual(HOUR_MS);
    }
    expect(Math.max(...most)).toBe(0);
  });

  test('gives a policy nothing that has not happened', async () => {
    const cut = 32 * HOUR_MS;
    const until = trace.atMs.findIndex((at) => at >= cut);
    const policies = (): Policy[] => [quietFirst(), microBatch(6), predictive({ reserve: 2, worth: 0.1 })];
    const shorter: Trace = { ...trace, atMs: trace.atMs.slice(0, until), row: trace.row.slice(0, until) };
    // The load is given: that of a trace without one is measured by the busiest of its slots, later ones too.
    const options = { ...OPTIONS, load: new Float64Array(2000).fill(0.5) };
    const [long, short] = [await simulate(trace, policies(), options), await simulate(shorter, policies(), options)];
    for (const [index, { cycles }] of short.entries()) {
      expect(cycles).toHaveLength(5);
      expect(long[index]?.cycles.slice(0, 5)).toEqual(cycles);
    }
  });

  test('passes the spare part of a row on to the next slot', () => {
    expect(moments.slice(0, 4).map(({ capacity }) => capacity[0])).toEqual([3, 4, 3, 4]);
  });

  test('a frontier holds what nothing beats, and differences come with their interval', () => {
    const reactive = all.filter(({ policy }) => ['none', 'fifo', 'quiet-first', 'clairvoyant'].includes(policy.name));
    expect(frontier(reactive).map(({ policy }) => policy.name)).toEqual(['clairvoyant']);
    const [nothing, , first] = all as [Score, Score, Score];
    let drawn = 0;
    const next = (below: number): number => drawn++ % below;
    const { point, low, high } = pairedDifference(first.cycles, nothing.cycles, ({ residualRows }) => residualRows, next);
    expect(point).toBeLessThan(0);
    expect(low).toBeLessThanOrEqual(point + 1e-9);
    expect(high).toBeGreaterThanOrEqual(point - 1e-9);
  });
});
