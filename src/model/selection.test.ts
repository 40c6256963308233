import { expect, test } from 'vitest';
import type { TableName } from './schema.ts';
import { selects } from './selection.ts';

test.each([
  ['orders', ['orders'], [], true],
  ['orders', ['order'], [], false],
  ['orders', ['rders'], [], false],
  ['orders', ['*'], [], true],
  ['orders', [], [], false],
  ['public.orders', ['public.*'], [], true],
  ['public_orders', ['public.*'], [], false],
  ['audit_2024', ['*'], ['audit_*'], false],
  ['audits', ['*'], ['audit_*'], true],
  ['a b\nc', ['a*c'], [], true],
  ['orders', ['o*d*s'], [], true],
  ['Orders', ['orders'], [], false],
  ['a+b', ['a+b'], [], true],
  ['aab', ['a+b'], [], false],
  ['x[1]', ['x[1]'], [], true],
])('%s is selected by %j without %j: %s', (table, include, exclude, expected) => {
  expect(selects({ include, exclude }, table as TableName)).toBe(expected);
});
