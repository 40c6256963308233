import { expect, test } from 'vitest';
import { ORIGIN } from '../../model/position.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, packTuple } from '../../model/tuple.ts';
import { type NeutralRow, allRows, describePrimary } from '../../tracking/primary.contract.ts';
import { type MemoryOperation, MemoryPrimary } from './primary.ts';
import { memoryCell } from './values.ts';

const column = (name: string, type: string) => ({ name, type, nullable: type === 'text', generated: false, hidden: false });
const THINGS = tableOf('things', [column('id', 'integer'), column('label', 'text')], [0]);
const LINKS = tableOf('links', [column('a', 'integer'), column('b', 'integer'), column('note', 'text')], [0, 1]);

function tableOf(name: string, columns: TableSchema['columns'], key: readonly number[]): TableSchema {
  return { table: name as TableName, columns, key, keyOrderShared: true, shape: `shape of ${name}`, create: [], finish: [] };
}

function operation({ table, key, text }: NeutralRow): MemoryOperation {
  const cells = key.map((value) => memoryCell(BigInt(value)));
  if (text === null) return { kind: 'delete', table: table as TableName, key: packTuple(cells) as KeyTuple };
  return { kind: 'put', table: table as TableName, row: packTuple([...cells, memoryCell(text)]) };
}

describePrimary('memory', async () => {
  const primary = new MemoryPrimary([THINGS, LINKS]);
  return {
    open: async () => primary,
    things: THINGS.table,
    links: LINKS.table,
    write: async (rows) => {
      primary.transaction(rows.map(operation));
    },
    traces: async () => [],
    [Symbol.asyncDispose]: async () => {},
  };
});

test('a transaction may be in the log and not in a snapshot, until it is released', async () => {
  await using primary = new MemoryPrimary([THINGS, LINKS]);
  const signal = AbortSignal.timeout(5000);
  await primary.install([THINGS, LINKS]);
  const fork = primary.transactionUnseen([operation({ table: 'things', key: [1], text: 'late' })]);
  const before = await primary.now();
  const seen = primary.transaction([operation({ table: 'things', key: [2], text: 'seen' })]);
  expect(() => primary.transaction([operation({ table: 'things', key: [1], text: 'x' })])).toThrow(/locked/);

  await using early = await primary.snapshot(ORIGIN, signal);
  expect(early.includes(seen)).toBe(true);
  expect(early.includes(fork.transaction)).toBe(false);
  expect(await allRows(early, THINGS)).toHaveLength(1);

  const late = primary.snapshot(before, signal);
  fork.release();
  await using snapshot = await late;
  expect(snapshot.includes(fork.transaction)).toBe(true);
  expect(await allRows(snapshot, THINGS)).toHaveLength(2);
});
