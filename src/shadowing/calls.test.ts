import { expect, test } from 'vitest';
import type { TableName } from '../model/schema.ts';
import { Calls } from './calls.ts';
import { HeldOrder, HeldRows } from './held-rows.ts';

const [ITEMS, NOTES] = ['items' as TableName, 'notes' as TableName];
const FOREVER = new AbortController().signal;

/** Rows 0 and 2 of the one table, 1 and 3 of the other, ten bytes each. */
function held(): { readonly rows: HeldRows; readonly leave: (calls: Calls, row: number, written?: boolean) => void } {
  const rows = new HeldRows();
  const orders = [new HeldOrder(), new HeldOrder()] as const;
  for (let row = 0; row < 4; row++) {
    rows.enter(orders[row % 2] as HeldOrder, { table: row % 2 === 0 ? ITEMS : NOTES, identity: row, end: 1n, atMs: 0 }, row);
    rows.changed(row, 0, 10);
  }
  const leave = (calls: Calls, row: number, written = true): void => {
    calls.left(row, written);
    rows.leave(orders[row % 2] as HeldOrder, row);
  };
  return { rows, leave };
}

test('rows have their turn in the order in which they were called for, whatever became of those before', async () => {
  const { rows, leave } = held();
  const calls = new Calls(rows);
  const first = calls.add([2, 1], FOREVER);
  const second = calls.add([0, 2, 3], FOREVER);
  calls.next(2, 1000);
  expect([...calls.of(ITEMS)]).toEqual([2]);
  expect([...calls.of(NOTES)]).toEqual([1]);
  leave(calls, 1);
  calls.next(1000, 1);
  expect([...calls.of(ITEMS)]).toEqual([2, 0]);
  leave(calls, 2);
  expect(await first).toEqual({ rows: 2, bytes: 20 });
  calls.next(1000, 1000);
  expect([...calls.of(NOTES)]).toEqual([3]);
  leave(calls, 3, false);
  leave(calls, 0);
  expect(await second).toEqual({ rows: 2, bytes: 20 });
  expect(calls.isEmpty).toBe(true);
});

test('rows that are not held are done, and nobody waits for a call that was aborted or cannot be answered', async () => {
  const { rows, leave } = held();
  const calls = new Calls(rows);
  leave(calls, 3);
  expect(await calls.add([3, 17], FOREVER)).toEqual({ rows: 0, bytes: 0 });
  const stop = new AbortController();
  const aborted = calls.add([0, 1], stop.signal);
  const other = calls.add([1, 2], FOREVER);
  stop.abort(new Error('enough'));
  await expect(aborted).rejects.toThrow('enough');
  await expect(calls.add([0], stop.signal)).rejects.toThrow('enough');
  calls.next(1000, 1000);
  expect([...calls.of(ITEMS)]).toEqual([2]);
  calls.end(new Error('the engine stopped'));
  await expect(other).rejects.toThrow('the engine stopped');
  expect(calls.isEmpty).toBe(true);
});
