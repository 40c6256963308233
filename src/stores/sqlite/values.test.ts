import { expect, test } from 'vitest';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { keyTuple } from '../../model/tuple.ts';
import { packValues } from './cell.ts';
import { sqliteValues } from './values.ts';

const column = (name: string, hidden = false) => ({ name, type: '', nullable: true, generated: false, hidden });
const table: TableSchema = {
  table: 't' as TableName,
  columns: [column('a'), column('__proto__'), column('c'), column('d'), column('_foreshadow_rowid', true)],
  key: [4],
  keyOrderShared: true,
  shape: '',
  create: [],
  finish: [],
};

test('values are shown without losing digits, hidden columns only as a key', () => {
  const row = packValues([9007199254740993n, 5n, Infinity, Buffer.from('ab', 'hex'), 12n]);
  expect(Object.entries(sqliteValues.row(table, row))).toEqual([
    ['a', '9007199254740993'],
    ['__proto__', 5],
    ['c', 'Infinity'],
    ['d', '\\xab'],
  ]);
  expect(sqliteValues.key(table, keyTuple(row, table.key))).toEqual({ _foreshadow_rowid: 12 });
});
