import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Distinct, finishHash, hashBytes } from './distinct.ts';

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function hashOf(number: number): number {
  const bytes = Buffer.alloc(12);
  bytes.writeInt32BE(8);
  bytes.writeBigInt64BE(BigInt(number), 4);
  return finishHash(hashBytes(viewOf(bytes), 0, 12, 0));
}

function seeing(numbers: Iterable<number>): Distinct {
  const distinct = new Distinct();
  for (const number of numbers) distinct.add(hashOf(number));
  return distinct;
}

const range = (from: number, until: number): number[] => Array.from({ length: until - from }, (_, index) => from + index);

test('counts exactly up to its bound', () => {
  for (const count of [0, 1, 2, 100, 1000, 1023]) {
    const distinct = seeing([...range(0, count), ...range(0, count)]);
    expect(distinct.count).toBe(count);
    expect(distinct.isExact).toBe(true);
  }
});

test.each([1024, 3000, 20_000, 300_000])('%d are estimated within four standard errors', (count) => {
  const distinct = seeing(range(7, 7 + count));
  expect(distinct.isExact).toBe(false);
  expect(Math.abs(distinct.count / count - 1)).toBeLessThan(4 * 0.0163);
});

test('merged, it is what one would be that saw both; stored, it is what it was', () => {
  const stretch = fc.tuple(fc.nat(3000), fc.nat(3000));
  fc.assert(
    fc.property(stretch, stretch, ([from, more], [other, others]) => {
      const [a, b] = [range(from, from + more), range(other, other + others)];
      const merged = Distinct.read(seeing(a).bytes());
      merged.merge(Distinct.read(seeing(b).bytes()));
      const both = seeing([...a, ...b]);
      expect(merged.count).toBe(both.count);
      expect(merged.isExact).toBe(both.isExact);
      expect(Distinct.read(merged.bytes()).count).toBe(merged.count);
    }),
    { numRuns: 20 },
  );
});

test('bytes of something else are refused', () => {
  expect(() => Distinct.read(new Uint8Array(7))).toThrow(RangeError);
  expect(() => Distinct.read(new Uint8Array(9000))).toThrow(RangeError);
  expect(() => Distinct.read(new Uint8Array(4096).fill(200))).toThrow(RangeError);
});

test('every byte and every length counts in a hash', () => {
  const bytes = Buffer.from([1, 2, 3, 4, 5, 6, 7]);
  const hashes = new Set([0, 1, 2, 3, 4, 5, 6, 7].map((end) => finishHash(hashBytes(viewOf(bytes), 0, end, 0))));
  expect(hashes.size).toBe(8);
  for (let at = 0; at < 7; at++) {
    const other = Buffer.from(bytes);
    other[at] = 99;
    expect(hashBytes(viewOf(other), 0, 7, 0)).not.toBe(hashBytes(viewOf(bytes), 0, 7, 0));
  }
});
