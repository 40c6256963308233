import { assert, bigInt, oneof, property, string, tuple } from 'fast-check';
import { expect, test } from 'vitest';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, packTuple } from '../../model/tuple.ts';
import { compareKeys, memoryCell, memoryValues } from './values.ts';

const column = { nullable: true, generated: false, hidden: false };
const SCHEMA: TableSchema = {
  table: 'items' as TableName,
  columns: [
    { ...column, name: 'rowid', type: 'integer', hidden: true },
    { ...column, name: 'id', type: 'integer' },
    { ...column, name: 'name', type: 'text' },
  ],
  key: [1, 0],
  keyOrderShared: true,
  shape: '',
  create: [],
  finish: [],
};

const INT64 = { min: -(1n << 63n), max: (1n << 63n) - 1n };

test('the order of keys is the order of values', () => {
  assert(
    property(
      oneof(tuple(bigInt(INT64), bigInt(INT64)), tuple(string({ unit: 'grapheme-ascii' }), string({ unit: 'grapheme-ascii' }))),
      ([a, b]) => {
        const order = compareKeys(packTuple([memoryCell(a)]) as KeyTuple, packTuple([memoryCell(b)]) as KeyTuple);
        expect(Math.sign(order)).toBe(a < b ? -1 : a > b ? 1 : 0);
      },
    ),
  );
  const nothing = packTuple([null]) as KeyTuple;
  expect(compareKeys(nothing, packTuple([memoryCell(INT64.min)]) as KeyTuple)).toBe(-1);
  expect(compareKeys(nothing, nothing)).toBe(0);
});

test('values are shown exactly, hidden and absent columns left out', () => {
  const row = packTuple([memoryCell(1n), memoryCell(INT64.max), memoryCell('o’hara')]);
  expect(memoryValues.row(SCHEMA, row)).toEqual({ id: '9223372036854775807', name: 'o’hara' });
  expect(memoryValues.row(SCHEMA, packTuple([null, memoryCell(-5n), undefined]))).toEqual({ id: -5 });
  expect(memoryValues.row(SCHEMA, packTuple([null, null, null]))).toEqual({ id: null, name: null });
  expect(memoryValues.key(SCHEMA, packTuple([memoryCell(7n), memoryCell(1n)]) as KeyTuple)).toEqual({ id: 7, rowid: 1 });
});
