import { array, assert, bigInt, constantFrom, property, record, subarray, uint8Array } from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Change, ChangeBlock, TransactionId, TransactionRef } from '../model/change.ts';
import { ORIGIN, type Position, position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import { type KeyTuple, type Tuple, packTuple } from '../model/tuple.ts';
import { BlockWriter, transactionIds, transactionsOf, walkBlock } from './frame.ts';

const TABLE = 'orders' as TableName;
const END = position((1n << 64n) - 1n);

const someTuple = array(uint8Array({ maxLength: 9 }), { maxLength: 3 }).map((cells) => packTuple(cells.map((cell) => Buffer.from(cell))));
const someChange = record({
  kind: constantFrom('insert', 'update', 'rekey', 'delete', 'truncate'),
  row: someTuple,
  key: someTuple,
}).map(({ kind, row, key }): Change => {
  if (kind === 'insert') return { kind, row };
  if (kind === 'update') return { kind, row, oldKey: null };
  if (kind === 'rekey') return { kind: 'update', row, oldKey: key as KeyTuple };
  return kind === 'delete' ? { kind, key: key as KeyTuple } : { kind: 'truncate' };
});
const someTransactions = array(
  record({
    id: bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    step: bigInt({ min: 1n, max: 1n << 40n }),
    committedAtMicros: bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
    changes: array(someChange, { minLength: 1, maxLength: 5 }),
  }),
  { minLength: 1, maxLength: 5 },
).map((drafts) => {
  let end = 0n;
  return drafts.map(({ id, step, committedAtMicros, changes }) => {
    end += step;
    return { ref: { id: id as TransactionId, at: position(end), committedAtMicros }, changes };
  });
});

function refTo(end: bigint): TransactionRef {
  return { id: end as TransactionId, at: position(end), committedAtMicros: 0n };
}

function fail(): never {
  expect.unreachable();
}

function write(writer: BlockWriter, change: Change): void {
  if (change.kind === 'insert') writer.insert(change.row);
  else if (change.kind === 'update') writer.update(change.row, change.oldKey);
  else if (change.kind === 'delete') writer.delete(change.key);
  else writer.truncate();
}

function walk(block: ChangeBlock, after: Position = ORIGIN, upTo: Position = END) {
  const seen: { ref: TransactionRef; changes: Change[] }[] = [];
  const put = (change: Change) => seen.at(-1)?.changes.push(change);
  const count = walkBlock(block, after, upTo, {
    transaction: (ref) => {
      seen.push({ ref, changes: [] });
      return true;
    },
    insert: (row) => put({ kind: 'insert', row }),
    update: (row, oldKey) => put({ kind: 'update', row, oldKey }),
    delete: (key) => put({ kind: 'delete', key }),
    truncate: () => put({ kind: 'truncate' }),
  });
  return { seen, count };
}

function blockOf(transactions: readonly { ref: TransactionRef; changes: readonly Change[] }[]): ChangeBlock {
  const writer = new BlockWriter(TABLE, 8);
  for (const { ref, changes } of transactions) {
    writer.transaction(ref);
    for (const change of changes) write(writer, change);
  }
  return writer.take() as ChangeBlock;
}

describe('frames', () => {
  test('what is written is walked, byte for byte', () => {
    assert(
      property(someTransactions, (transactions) => {
        const block = blockOf(transactions);
        const changes = transactions.flatMap((each) => each.changes).length;
        expect(walk(block)).toEqual({ seen: transactions, count: changes });
        expect(block).toMatchObject({ table: TABLE, first: transactions[0]?.ref.at, last: transactions.at(-1)?.ref.at, changes });
        expect(transactionsOf(block)).toEqual(transactions.map((each) => each.ref));
      }),
    );
  });

  test('walks exactly the transactions after the lower bound, up to the upper', () => {
    assert(
      property(someTransactions, bigInt({ min: 0n, max: 1n << 42n }), bigInt({ min: 0n, max: 1n << 42n }), (transactions, a, b) => {
        const [after, upTo] = a < b ? [position(a), position(b)] : [position(b), position(a)];
        const expected = transactions.filter(({ ref }) => ref.at > after && ref.at <= upTo);
        expect(walk(blockOf(transactions), after, upTo).seen).toEqual(expected);
      }),
    );
  });

  test('any cut of the bytes is damage, or ends exactly between two records', () => {
    assert(
      property(someTransactions, (transactions) => {
        const block = blockOf(transactions);
        const whole = walk(block).seen.flatMap((each) => [each.ref, ...each.changes]).length;
        let between = 0;
        for (let length = 1; length < block.bytes.length; length++) {
          const cut = { ...block, bytes: block.bytes.subarray(0, length) };
          try {
            walk(cut);
            between++;
            expect(() => transactionsOf(cut)).not.toThrow();
          } catch (error) {
            expect(String(error)).toContain('damaged block of orders');
            expect(() => transactionsOf(cut)).toThrow('damaged block of orders');
          }
        }
        expect(between).toBe(whole - 1);
      }),
      { numRuns: 30 },
    );
  });

  test('a visitor that declines a transaction is spared its changes', () => {
    const row = packTuple([Buffer.from('x')]);
    const block = blockOf([1n, 2n, 3n].map((end) => ({ ref: refTo(end), changes: [{ kind: 'insert', row }] })));
    const rows: Tuple[] = [];
    const count = walkBlock(block, ORIGIN, END, {
      transaction: (each) => each.id !== 2n,
      insert: (each) => rows.push(each),
      update: fail,
      delete: fail,
      truncate: fail,
    });
    expect([count, rows.length]).toEqual([2, 2]);
  });

  test('changes of a transaction that was open name only its parts; the block says the rest', () => {
    const parts = array(record({ part: constantFrom(0, 1, 7, 0xffff_ffff), changes: array(someChange, { minLength: 1, maxLength: 3 }) }), {
      minLength: 1,
      maxLength: 6,
    });
    assert(
      property(parts, subarray([1, 7, 0xffff_ffff]), (drafts, dropped) => {
        const writer = new BlockWriter(TABLE, 8);
        for (const { part, changes } of drafts) {
          writer.part(part);
          for (const change of changes) write(writer, change);
        }
        const within = { transaction: refTo(9n), dropped: new Set(dropped) };
        const block = writer.takeWithin(within) as ChangeBlock;
        const kept = drafts.filter(({ part }) => !within.dropped.has(part)).flatMap(({ changes }) => changes);
        expect(walk(block)).toEqual({ seen: [{ ref: within.transaction, changes: kept }], count: kept.length });
        expect(walk(block, position(9n))).toEqual({ seen: [], count: 0 });
        expect(walk(block, ORIGIN, position(8n))).toEqual({ seen: [], count: 0 });
        expect(transactionsOf(block)).toEqual([within.transaction]);
        expect(transactionIds(block)).toEqual({ lowest: 9n, highest: 9n });
      }),
    );
  });

  test('an open block says which part alone it holds', () => {
    const writer = new BlockWriter(TABLE);
    for (const [parts, alone] of [
      [[0], 0],
      [[7, 7], 7],
      [[0, 7], null],
      [[7, 0], null],
    ] as const) {
      for (const part of parts) {
        writer.part(part);
        writer.truncate();
      }
      expect(writer.takeOpen()).toMatchObject({ part: alone, first: null, changes: parts.length });
    }
  });

  test('a transaction that goes on in the next block names itself again there', () => {
    const writer = new BlockWriter(TABLE);
    const huge = refTo(9n);
    for (let piece = 0; piece < 2; piece++) {
      writer.transaction(huge);
      writer.transaction(huge);
      writer.truncate();
      expect(transactionsOf(writer.take() as ChangeBlock)).toEqual([huge]);
    }
  });

  test('a writer without changes gives no block, and forgets the transactions it was told of', () => {
    const writer = new BlockWriter(TABLE);
    writer.transaction(refTo(1n));
    expect(writer.take()).toBeNull();
    writer.transaction(refTo(2n));
    writer.truncate();
    expect(writer.take()).toMatchObject({ first: position(2n), last: position(2n), changes: 1 });
  });
});
