import { describe, expect, test } from 'vitest';
import { MoveCost, MoveRate } from './move-costs.ts';

describe('what moving a row costs', () => {
  test('is assumed to take an idle primary to its ceiling, and then what was seen', () => {
    const cost = new MoveCost();
    expect(cost.perRow(0.7, 100)).toBeCloseTo(0.007);
    for (let slot = 0; slot < 400; slot++) cost.learn(0.2 + (slot % 2) * 0.1, (slot % 2) * 100);
    expect(cost.perRow(0.7, 100)).toBeGreaterThan(0.001);
    expect(cost.perRow(0.7, 100)).toBeLessThan(0.0015);
  });

  test('is nothing where load falls as rows move, and unmoved by what is no number', () => {
    const cost = new MoveCost();
    for (let slot = 0; slot < 400; slot++) cost.learn(0.2 - (slot % 2) * 0.1, (slot % 2) * 100);
    expect(cost.perRow(0.7, 100)).toBe(0);
    const unknown = new MoveCost();
    for (let slot = 0; slot < 50; slot++) unknown.learn(slot % 3 === 0 ? Number.NaN : 0.2, 100);
    expect(unknown.perRow(0.7, 100)).toBeCloseTo(0.007);
  });
});

describe('how fast rows move', () => {
  test('is learned from moves that tell something, of which there can always be one', () => {
    const rate = new MoveRate();
    expect(rate.most(60_000)).toBe(30_000);
    rate.learn(5, 10_000);
    expect(rate.most(60_000)).toBe(30_000);
    for (let move = 0; move < 50; move++) rate.learn(1000, 100);
    expect(rate.most(60_000)).toBeCloseTo(300_000, -2);
    for (let move = 0; move < 50; move++) rate.learn(100, 60_000);
    expect(rate.most(60_000)).toBe(100);
  });
});
