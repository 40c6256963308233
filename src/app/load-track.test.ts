import { expect, test } from 'vitest';
import { Track } from '../prediction/track.ts';
import { type Ask, REACH, SEASON, asking, teach } from './load-track.ts';

const HOUR = 3_600_000;
const { signal } = new AbortController();

/** What no pattern tells: every value is another, and one model knows them. */
function valueAt(hour: number): number {
  return 50 + 40 * Math.sin(hour ** 2);
}

const mean = { startMs: 0, stepMs: HOUR, values: Float64Array.from({ length: 14 * 24 }, (_, hour) => valueAt(hour)) };
const oracle: Ask = async ({ values }) =>
  new Map([['oracle', Float64Array.from({ length: 24 }, (_, step) => valueAt(values.length + step))]]);

test('a model that would have been right of late is heard from the start', async () => {
  const track = new Track({ season: SEASON, steps: 24, zone: 'UTC', reach: REACH });
  await teach(track, mean, oracle, async (turn) => turn());
  expect(track.turn(mean, await oracle(mean)).voices[0]).toBe('oracle');
  expect(track.errorOf('oracle', 0)).toBe(0);
});

test('is not heard before it was put to the test', async () => {
  const track = new Track({ season: SEASON, steps: 24, zone: 'UTC', reach: REACH });
  await teach(
    track,
    mean,
    async () => new Map(),
    async (turn) => turn(),
  );
  expect(track.turn(mean, await oracle(mean)).voices).not.toContain('oracle');
});

test('a model that fails is asked no more, and none is where an hour is too short to wait for them', async () => {
  const asked: string[] = [];
  const challengers: Parameters<typeof asking>[0] = {
    ask: async ({ model }) => {
      asked.push(model);
      return { answer: null, failure: model === 'Prophet' ? 'of course' : null, cpuMs: 1 };
    },
  };
  const ask = asking(challengers, { steps: 24, zone: 'UTC' }, signal);
  await ask(mean);
  await ask(mean);
  expect(asked).toEqual(['MSTL', 'Prophet', 'ARIMA', 'MSTL', 'ARIMA']);
  await ask({ ...mean, stepMs: 1000 });
  expect(asked).toHaveLength(5);
  expect(await asking(null, { steps: 24, zone: 'UTC' }, signal)(mean)).toEqual(new Map());
});
