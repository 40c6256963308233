import { array, assert, constant, nat, oneof, property, uint8Array } from 'fast-check';
import { expect, test } from 'vitest';
import {
  type Cell,
  type KeyTuple,
  cellAt,
  cellsOf,
  fillAbsent,
  hasAbsent,
  identityOf,
  keyOfIdentity,
  keyTuple,
  packTuple,
  projectTuple,
} from './tuple.ts';

const someCell = oneof(
  uint8Array({ maxLength: 12 }).map((bytes): Cell => Buffer.from(bytes)),
  constant<Cell>(null),
  constant<Cell>(undefined),
);
const someCells = array(someCell, { maxLength: 6 });

test('without absent columns it is a row of PostgreSQL’s binary COPY', () => {
  const bytes = packTuple([Buffer.from('ab'), null, Buffer.alloc(0)]);
  expect(bytes.toString('hex')).toBe('0003000000026162ffffffff00000000');
  expect(packTuple([undefined]).toString('hex')).toBe('0001fffffffe');
});

test('NULL, absent and empty stay what they are', () => {
  assert(
    property(someCells, (cells) => {
      const packed = packTuple(cells);
      expect(cellsOf(packed)).toEqual(cells);
      for (const [index, cell] of cells.entries()) expect(cellAt(packed, index)).toEqual(cell);
      expect(hasAbsent(packed)).toBe(cells.includes(undefined));
    }),
  );
});

test('absent columns are taken from the older row, all others from the newer', () => {
  assert(
    property(array(array(someCell, { minLength: 2, maxLength: 2 }), { maxLength: 6 }), (pairs) => {
      const filled = fillAbsent(packTuple(pairs.map(([newer]) => newer)), packTuple(pairs.map(([, older]) => older)));
      expect(cellsOf(filled)).toEqual(pairs.map(([newer, older]) => (newer === undefined ? older : newer)));
    }),
  );
});

test('a projection takes the columns asked for, in the order asked', () => {
  assert(
    property(array(someCell, { minLength: 1, maxLength: 6 }), array(nat(), { maxLength: 6 }), (cells, picks) => {
      const columns = picks.map((pick) => pick % cells.length);
      expect(cellsOf(projectTuple(packTuple(cells), columns))).toEqual(columns.map((index) => cells[index]));
    }),
  );
  expect(cellsOf(keyTuple(packTuple([Buffer.from('a'), Buffer.from('b')]), [1]))).toEqual([Buffer.from('b')]);
});

test('identities are equal exactly where the bytes of the keys are, and give them back', () => {
  assert(
    property(someCells, someCells, (a, b) => {
      const [left, right] = [packTuple(a) as KeyTuple, packTuple(b) as KeyTuple];
      expect(identityOf(left) === identityOf(right)).toBe(left.equals(right));
      expect(keyOfIdentity(identityOf(left)).equals(left)).toBe(true);
    }),
  );
});
