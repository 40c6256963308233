import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type LoadReading, type LoadSample, OwnUse, ratesBetween } from './load.ts';

const sample = (...readings: LoadReading[]): LoadSample => ({ atMs: 0, readings });
const counter = (total: bigint, epoch = 'e', unit = 1): LoadReading => ({
  kind: 'counter',
  resource: 'c',
  total,
  epoch,
  unit,
  includesOurs: false,
});
const gauge = (value: number, includesOurs = false): LoadReading => ({ kind: 'gauge', resource: 'g', value, includesOurs });

test('a counter is its rate a second, a gauge is itself', () => {
  const far = 2n ** 62n;
  expect(ratesBetween(sample(counter(far), gauge(9)), sample(counter(far + 50n), gauge(3)), 5000, true)).toEqual([
    { resource: 'c', value: 10 },
    { resource: 'g', value: 3 },
  ]);
  expect(ratesBetween(sample(counter(0n, 'e', 0.5)), sample(counter(8n, 'e', 0.5)), 1000, true)).toEqual([{ resource: 'c', value: 4 }]);
});

test('a counter that began anew says nothing, and neither does nonsense', () => {
  const nothing: [LoadSample, LoadSample, number][] = [
    [sample(counter(5n)), sample(counter(4n)), 1000],
    [sample(counter(5n)), sample(counter(9n, 'another')), 1000],
    [sample(), sample(counter(9n)), 1000],
    [sample(counter(5n)), sample(counter(9n)), 0],
    [sample(counter(5n)), sample(counter(9n)), -3],
    [sample(), sample(gauge(Number.NaN)), 1000],
    [sample(), sample(gauge(Number.POSITIVE_INFINITY)), 1000],
    [sample(), sample(gauge(-1)), 1000],
  ];
  for (const [before, now, elapsedMs] of nothing) expect(ratesBetween(before, now, elapsedMs, true)).toEqual([]);
});

test('what includes our own work is left out while we work', () => {
  expect(ratesBetween(sample(gauge(1, true)), sample(gauge(1, true)), 1000, false)).toEqual([]);
  expect(ratesBetween(sample(gauge(1, true)), sample(gauge(1, true)), 1000, true)).toHaveLength(1);
});

test('what ended processes of ours had used still counts', () => {
  const steps = fc.array(fc.record({ process: fc.constantFrom('a', 'b', 'c'), more: fc.bigInt(0n, 1000n), ends: fc.boolean() }), {
    maxLength: 30,
  });
  fc.assert(
    fc.property(steps, (all) => {
      const own = new OwnUse();
      const living = new Map<string, bigint>();
      let used = 0n;
      let started = 0;
      for (const { process, more, ends } of all) {
        const name = `${process} ${started}`;
        living.set(name, (living.get(name) ?? 0n) + more);
        used += more;
        expect(own.of(living)).toBe(used);
        if (ends) living.delete(name);
        if (ends) started++;
      }
    }),
  );
});
