import { afterAll, describe, expect, test } from 'vitest';
import { CHALLENGERS, Challengers } from './challengers.ts';
import type { ChallengerName, Question } from './challengers.ts';

const HOUR_MS = 3_600_000;

function question(model: ChallengerName, length: number, of: (index: number) => number): Question {
  const values = Float64Array.from({ length }, (_, index) => of(index));
  return { model, values, startMs: 0, stepMs: HOUR_MS, steps: 24, season: { day: 24, week: 168 } };
}

const daily = (index: number) => 100 + 60 * Math.sin((index / 24) * 2 * Math.PI) + ((index * 7) % 5);
const challengers = new Challengers(60_000);
const never = new AbortController().signal;
afterAll(() => challengers[Symbol.asyncDispose]());

describe.each(CHALLENGERS)('%s', (model) => {
  test('foretells a daily pattern, with something above it, and the same again', async () => {
    const { answer, failure } = await challengers.ask(question(model, 400, daily), never);
    expect(failure).toBeNull();
    expect(answer?.point).toHaveLength(24);
    const off = [...(answer?.point ?? [])].map((value, step) => Math.abs(value - daily(400 + step)));
    // ARIMA knows no season: it stays near the series.
    expect(Math.max(...off)).toBeLessThan(model === 'ARIMA' ? 300 : 30);
    expect((answer?.upper?.[0] ?? 0) > (answer?.point[0] ?? 0)).toBe(true);
    const again = await challengers.ask(question(model, 400, daily), never);
    expect([...(again.answer?.point ?? [])].map((value) => value.toFixed(3))).toEqual(
      [...(answer?.point ?? [])].map((value) => value.toFixed(3)),
    );
  });

  test('is not asked about what it was not made for', async () => {
    for (const asked of [
      question(model, 400, () => 5),
      question(model, 400, () => 0),
      question(model, 30, daily),
      question(model, 0, daily),
    ])
      expect(await challengers.ask(asked, never)).toMatchObject({ answer: null, failure: null });
  });

  test('is not bent by one absurd value, and never says less than nothing', async () => {
    const { answer } = await challengers.ask(
      question(model, 400, (index) => (index === 300 ? 1e9 : daily(index))),
      never,
    );
    expect(answer?.point.every((value) => value >= 0 && value < 6_000)).toBe(true);
  });
});

test('a model that takes too long loses its thread, and the next question gets another', async () => {
  await using hurried = new Challengers(1);
  expect((await hurried.ask(question('MSTL', 2_000, daily), never)).failure).toMatch(/longer than 1 ms/);
  expect((await hurried.ask(question('MSTL', 2_000, daily), never)).failure).toMatch(/longer than 1 ms/);
  const aborted = AbortSignal.abort(new Error('enough'));
  await expect(hurried.ask(question('MSTL', 400, daily), aborted)).rejects.toThrow('enough');
});
