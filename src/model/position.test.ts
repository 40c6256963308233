import { assert, bigInt, nat, property, tuple } from 'fast-check';
import { expect, test } from 'vitest';
import { ORIGIN, commitEndOf, maxPosition, minPosition, parsePosition, position } from './position.ts';

const HIGHEST = (1n << 64n) - 1n;
const someEnd = bigInt({ min: 0n, max: HIGHEST });
const someOrdinal = nat(0xffff_ffff);

test.each([
  [0n, 0, '0000000000000000.00000000'],
  [1n, undefined, '0000000000000001.ffffffff'],
  [0x1_0000_0000n, 7, '0000000100000000.00000007'],
  [HIGHEST, undefined, 'ffffffffffffffff.ffffffff'],
])('commit end %s, ordinal %s is written as %s', (end, ordinal, text) => {
  expect(ordinal === undefined ? position(end) : position(end, ordinal)).toBe(text);
  expect(commitEndOf(parsePosition(text))).toBe(end);
});

test('the order of text is the order of commit ends, then of ordinals', () => {
  assert(
    property(tuple(someEnd, someOrdinal), tuple(someEnd, someOrdinal), (a, b) => {
      const isBefore = a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
      const [left, right] = [position(...a), position(...b)];
      expect(left < right).toBe(isBefore);
      expect(maxPosition(left, right)).toBe(isBefore ? right : left);
      expect(minPosition(left, right)).toBe(isBefore ? left : right);
    }),
  );
});

test('the boundary after a transaction lies above everything in it, and below the next', () => {
  assert(
    property(bigInt({ min: 0n, max: HIGHEST - 1n }), nat(0xffff_fffe), (end, ordinal) => {
      expect(position(end, ordinal) < position(end)).toBe(true);
      expect(position(end) < position(end + 1n, 0)).toBe(true);
      expect(ORIGIN <= position(end, ordinal)).toBe(true);
    }),
  );
});

test('what does not fit is refused', () => {
  expect(() => position(-1n)).toThrow(RangeError);
  expect(() => position(HIGHEST + 1n)).toThrow(RangeError);
  for (const ordinal of [-1, 0x1_0000_0000, 0.5, Number.NaN]) expect(() => position(1n, ordinal)).toThrow(RangeError);
});

test.each([
  '',
  '0',
  '0000000000000001',
  '0000000000000001.FFFFFFFF',
  '0000000000000001.ffffffff0',
  ' 0000000000000001.ffffffff',
  '0/16B3748',
])('stored text that position did not write is refused: "%s"', (text) => {
  expect(() => parsePosition(text)).toThrow(RangeError);
});
