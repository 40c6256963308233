import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockWriter } from '../journal/frame.ts';
import type { EndedTransaction, OpenBlock, TransactionId, TransactionRef } from '../model/change.ts';
import { position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import { type KeyTuple, type Tuple, packTuple } from '../model/tuple.ts';
import { Activity } from './activity.ts';

const T = 't' as TableName;
const MINUTE = 60_000;
const START = Date.UTC(2026, 10, 22);

function int(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt(value));
  return bytes;
}

/** The key is the third and the first column, in that order. */
const KEY = [2, 0];
const row = (id: number, text = 'text'): Tuple => packTuple([Buffer.from(`k${id}`), Buffer.from(text), int(id)]);
const keyOf = (id: number): KeyTuple => packTuple([int(id), Buffer.from(`k${id}`)]) as KeyTuple;

function reference(id: number, atMs: number): TransactionRef {
  return { id: BigInt(id) as TransactionId, at: position(BigInt(id)), committedAtMicros: BigInt(atMs) * 1000n + 999n };
}

const newActivity = (key: readonly number[] | null = KEY): Activity => new Activity({ minuteMs: MINUTE, keyOf: () => key });

function shown(activity: Activity): Record<string, [changes: number, rows: number]> {
  const taken = activity
    .take()
    .map(({ table, atMs, changes, rows }) => [`${table} ${atMs === null ? 'undated' : (atMs - START) / MINUTE}`, [changes, rows.count]]);
  return Object.fromEntries(taken) as Record<string, [number, number]>;
}

function batch(writer: BlockWriter, adopts: readonly EndedTransaction[] = []): Parameters<Activity['batch']>[0] {
  const block = writer.take();
  return { through: position(99n), blocks: block === null ? [] : [block], adopts, events: [] };
}

test('counts changes, rows and minutes; a key that moves is two rows, and its deletion is the same row', () => {
  const writer = new BlockWriter(T);
  writer.transaction(reference(1, START));
  writer.insert(row(1));
  writer.update(row(1, 'other'), null);
  writer.update(row(2), keyOf(1));
  writer.delete(keyOf(2));
  writer.transaction(reference(2, START + MINUTE - 1));
  writer.insert(row(3));
  writer.transaction(reference(3, START + MINUTE));
  writer.delete(keyOf(3));
  writer.truncate();
  const activity = newActivity();
  activity.batch(batch(writer));
  expect(activity.lastCommitMs).toBeCloseTo(START + MINUTE, -1);
  expect(shown(activity)).toEqual({ 't 0': [5, 3], 't 1': [2, 1] });
  expect(shown(activity)).toEqual({});
});

test('what comes in pieces counts when it is adopted, at its commit, without what was rolled back', () => {
  const piece = (part: number, ...ids: number[]): OpenBlock => {
    const writer = new BlockWriter(T);
    writer.part(part);
    for (const id of ids) writer.insert(row(id));
    return writer.takeOpen() as OpenBlock;
  };
  const id = 7n as TransactionId;
  const other = 8n as TransactionId;
  const activity = newActivity();
  activity.piece({ transaction: id, blocks: [piece(0, 1, 2), piece(5, 3, 4, 5)] });
  activity.piece({ transaction: other, blocks: [piece(0, 1, 2, 3)] });
  activity.piece({ transaction: id, blocks: [piece(6, 6), piece(0, 2)] });
  activity.rolledBack(id, 6);
  activity.rolledBack(other, null);
  expect(shown(activity)).toEqual({});
  const rest = new BlockWriter(T);
  rest.part(5);
  rest.insert(row(9));
  rest.part(0);
  rest.insert(row(10));
  const ended = { transaction: reference(7, START + 5 * MINUTE), dropped: new Set([5, 6]) };
  const last = rest.takeWithin(ended);
  activity.batch({ through: position(7n), blocks: last === null ? [] : [last], adopts: [ended], events: [] });
  expect(shown(activity)).toEqual({ 't 5': [4, 3] });
  activity.piece({ transaction: id, blocks: [piece(0, 1)] });
  activity.abandon();
  activity.batch({ through: position(8n), blocks: [], adopts: [ended], events: [] });
  expect(shown(activity)).toEqual({});
});

test('a thousand savepoints and more: each change counts or not, by what became of it', () => {
  const activity = newActivity();
  const id = 7n as TransactionId;
  for (let part = 1; part <= 3000; part++) {
    const writer = new BlockWriter(T);
    writer.part(part);
    writer.insert(row(part));
    activity.piece({ transaction: id, blocks: [writer.takeOpen() as OpenBlock] });
  }
  const dropped = new Set(Array.from({ length: 1000 }, (_, index) => 3 * index + 1));
  activity.batch({ through: position(7n), blocks: [], adopts: [{ transaction: reference(7, START), dropped }], events: [] });
  const [counted] = activity.take();
  expect(counted?.changes).toBe(2000);
  // Of parts beyond the bound rows that were rolled back are not told apart.
  expect(counted?.rows.count).toBeGreaterThan(1900);
  expect(counted?.rows.count).toBeLessThan(3100);
});

test('changes of a time nobody knows, and of a table whose key nobody knows', () => {
  const writer = new BlockWriter(T);
  writer.transaction(reference(1, START));
  writer.insert(row(1));
  const activity = newActivity(null);
  activity.undated = true;
  activity.batch(batch(writer));
  expect(shown(activity)).toEqual({ 't undated': [1, 0] });
});

test('a recount takes the transactions in its range alone', () => {
  const writer = new BlockWriter(T);
  for (const id of [1, 2, 3, 4]) {
    writer.transaction(reference(id, START + id * MINUTE));
    writer.insert(row(id));
  }
  const block = writer.take();
  const activity = newActivity();
  if (block !== null) activity.recount(block, position(1n), position(3n));
  expect(shown(activity)).toEqual({ 't 2': [1, 1], 't 3': [1, 1] });
});

test('any transactions, in any blocks: what a plain count says', () => {
  const change = fc.record({ id: fc.nat(30), kind: fc.constantFrom('insert', 'update', 'delete', 'move') });
  const transaction = fc.record({ minute: fc.integer({ min: -3, max: 3 }), changes: fc.array(change, { maxLength: 8 }) });
  fc.assert(
    fc.property(fc.array(fc.array(transaction, { maxLength: 5 }), { maxLength: 5 }), (batches) => {
      const activity = newActivity();
      const expected = new Map<number, { changes: number; rows: Set<number> }>();
      let next = 0;
      for (const transactions of batches) {
        const writer = new BlockWriter(T);
        for (const { minute, changes } of transactions) {
          next++;
          const slot = expected.get(minute) ?? { changes: 0, rows: new Set() };
          for (const { id, kind } of changes) {
            writer.transaction(reference(next, START + minute * MINUTE));
            if (kind === 'insert') writer.insert(row(id));
            else if (kind === 'update') writer.update(row(id), null);
            else if (kind === 'delete') writer.delete(keyOf(id));
            else writer.update(row(id), keyOf(id + 1));
            slot.changes++;
            slot.rows.add(id);
            if (kind === 'move') slot.rows.add(id + 1);
            expected.set(minute, slot);
          }
        }
        activity.batch(batch(writer));
      }
      expect(shown(activity)).toEqual(
        Object.fromEntries([...expected].map(([minute, { changes, rows }]) => [`t ${minute}`, [changes, rows.size]])),
      );
    }),
  );
});
