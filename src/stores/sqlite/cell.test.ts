import { DatabaseSync } from 'node:sqlite';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { cellsOf, packTuple } from '../../model/tuple.ts';
import { decodeCell, encodeCell, isBrokenText, mayBeBroken, packValues, textBytes, textCell, unpackValues } from './cell.ts';

const value = fc.oneof(
  fc.constant(null),
  fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
  fc.double({ noNaN: true }),
  fc.string({ unit: 'binary' }),
  fc.uint8Array(),
);

test('every storage class survives SQLite, a tuple, and SQLite again', () => {
  using db = new DatabaseSync(':memory:', { readBigInts: true });
  db.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, v)');
  const insert = db.prepare('INSERT INTO t VALUES (1, ?)');
  const read = db.prepare('SELECT v, typeof(v) FROM t WHERE id = 1');
  read.setReturnArrays(true);
  const bytes = db.prepare('SELECT CAST(v AS BLOB) IS CAST(? AS BLOB) AND typeof(v) = typeof(?) AS same FROM t');
  fc.assert(
    fc.property(value, (before) => {
      db.exec('DELETE FROM t');
      insert.run(before);
      const [found] = read.get() as unknown as [never];
      const [back] = unpackValues(packValues([found])) as [never];
      expect(bytes.get(back, back)).toEqual({ same: 1n });
      expect(decodeCell(encodeCell(found))).toEqual(back);
      expect(packValues([found])).toEqual(packTuple([encodeCell(found)]));
    }),
  );
});

test('an integer and the real of the same value are different cells', () => {
  expect(encodeCell(1n)).toEqual(Buffer.from('010000000000000001', 'hex'));
  expect(encodeCell(1)).toEqual(Buffer.from('023ff0000000000000', 'hex'));
  expect(encodeCell(-0)).not.toEqual(encodeCell(0));
});

test('text keeps NUL, blobs and text of the same bytes are different cells', () => {
  expect(encodeCell('a\0b')).toEqual(Buffer.from('03610062', 'hex'));
  expect(encodeCell(Buffer.from('a\0b'))).toEqual(Buffer.from('04610062', 'hex'));
  expect(decodeCell(Buffer.from('03610062', 'hex'))).toBe('a\0b');
});

test('large values grow the scratch buffer without harm to earlier columns', () => {
  const big = 'ž'.repeat(100_000);
  expect(unpackValues(packValues(['first', big, 7n]))).toEqual(['first', big, 7n]);
  expect(cellsOf(packValues(['a', 'b', 'c'], 1, 2))).toEqual([Buffer.from('\x03b')]);
});

test('text that is not valid UTF-8 is noticed on either side and carried as bytes', () => {
  using db = new DatabaseSync(':memory:');
  const { s, b } = db.prepare("SELECT CAST(x'fffe41' AS TEXT) AS s, x'fffe41' AS b").get() as { s: string; b: Uint8Array };
  expect(mayBeBroken(s)).toBe(true);
  expect(mayBeBroken('sound')).toBe(false);
  const cell = textCell(b);
  expect(isBrokenText(cell)).toBe(true);
  expect(isBrokenText(encodeCell('�'))).toBe(false);
  expect(db.prepare("SELECT CAST(? AS TEXT) = CAST(x'fffe41' AS TEXT) AS same").get(textBytes(cell))).toEqual({ same: 1 });
});
