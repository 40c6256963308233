import { describe, expect, test } from 'vitest';
import { Survival } from './survival.ts';

const MINUTE_MS = 60_000;

/** Rows below 10 change every 20 minutes, the others once a day; each is sampled every 20 minutes. */
function taught(minutes: number, options = { slots: 64, samples: 20_000 }): { readonly survival: Survival; readonly nowMs: number } {
  const survival = new Survival(options);
  for (let minute = 0; minute < minutes; minute += 5) {
    survival.mature(minute * MINUTE_MS);
    for (let row = 0; row < 30; row++) {
      const every = row < 10 ? 20 : 1440;
      if (minute % every === (row * 5) % every) survival.changed(row, minute * MINUTE_MS);
      if (minute % 20 === (row * 5) % 20) survival.sample(row, (minute + (row % 4)) * MINUTE_MS);
    }
  }
  return { survival, nowMs: minutes * MINUTE_MS };
}

describe('survival', () => {
  test('falls with the time asked for and rises with the time a row was quiet, before anything was learned', () => {
    const survival = new Survival({ slots: 8, samples: 10 });
    survival.changed(1, 0);
    survival.changed(2, 50 * MINUTE_MS);
    const nowMs = 60 * MINUTE_MS;
    expect(survival.clean(1, nowMs, 0)).toBe(1);
    const chances = [5, 20, 60, 600, 5000].map((minutes) => survival.clean(1, nowMs, minutes * MINUTE_MS));
    expect(chances).toEqual(chances.toSorted((a, b) => b - a));
    expect(Math.min(...chances)).toBeGreaterThan(0);
    expect(survival.clean(1, nowMs, 60 * MINUTE_MS)).toBeGreaterThan(survival.clean(2, nowMs, 60 * MINUTE_MS));
    // A row never seen to change has no age that could speak for it.
    expect(survival.clean(3, nowMs, 60 * MINUTE_MS)).toBeLessThan(survival.clean(2, nowMs, 60 * MINUTE_MS));
  });

  test('learns which rows change often, from outcomes', () => {
    const { survival, nowMs } = taught(3 * 1440);
    const busy = Array.from({ length: 10 }, (_, row) => survival.clean(row, nowMs, 60 * MINUTE_MS));
    const calm = Array.from({ length: 10 }, (_, row) => survival.clean(row + 20, nowMs, 60 * MINUTE_MS));
    expect(Math.max(...busy)).toBeLessThan(0.1);
    expect(Math.min(...calm)).toBeGreaterThan(0.7);
  });

  test('learns nothing from what is still open: an outcome counts when its time is over', () => {
    const early = new Survival({ slots: 8, samples: 100 });
    early.changed(1, 0);
    early.sample(1, 0);
    const before = early.clean(1, MINUTE_MS, 5 * MINUTE_MS);
    early.mature(5 * MINUTE_MS - 1);
    expect(early.clean(1, MINUTE_MS, 5 * MINUTE_MS)).toBe(before);
    early.mature(5 * MINUTE_MS);
    expect(early.clean(1, MINUTE_MS, 5 * MINUTE_MS)).not.toBe(before);
  });

  test('drops the oldest samples when it has no room, and goes on', () => {
    const { survival, nowMs } = taught(1440, { slots: 64, samples: 50 });
    for (let row = 0; row < 30; row++) {
      const chance = survival.clean(row, nowMs, 30 * MINUTE_MS);
      expect(chance).toBeGreaterThanOrEqual(0);
      expect(chance).toBeLessThanOrEqual(1);
    }
  });

  test('takes rows that share a slot for one', () => {
    const survival = new Survival({ slots: 4, samples: 10 });
    survival.changed(1, 0);
    expect(survival.clean(5, MINUTE_MS, MINUTE_MS)).toBe(survival.clean(1, MINUTE_MS, MINUTE_MS));
  });

  test('takes a clock that went back for time that did not pass', () => {
    const { survival, nowMs } = taught(1440);
    survival.changed(1, nowMs - 600 * MINUTE_MS);
    survival.mature(0);
    for (const at of [0, nowMs - 600 * MINUTE_MS, nowMs]) {
      const chance = survival.clean(1, at, 30 * MINUTE_MS);
      expect(chance).toBeGreaterThan(0);
      expect(chance).toBeLessThan(1);
    }
  });
});
