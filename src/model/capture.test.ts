import { expect, test } from 'vitest';
import { FOREIGN, NO_CAPTURE, captureNumber } from './capture.ts';

test('captures are numbered by whole numbers, and nothing else', () => {
  expect(captureNumber(42)).toBe(42);
  expect(NO_CAPTURE).toBe(0);
  for (const value of [-1, 0.5, Number.NaN, 2 ** 53]) expect(() => captureNumber(value)).toThrow(RangeError);
});

test('the mark of a foreign write stands above every number and fits a signed 64-bit column', () => {
  expect(FOREIGN > BigInt(Number.MAX_SAFE_INTEGER)).toBe(true);
  expect(BigInt.asIntN(64, FOREIGN)).toBe(FOREIGN);
});
