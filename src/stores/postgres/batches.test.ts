import { expect, test, vi } from 'vitest';
import type { TransactionId } from '../../model/change.ts';
import { ORIGIN, position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { Batches, type StreamItem } from './batches.ts';
import { type RelationMessage, SentTuple } from './pgoutput.ts';

const RELATION = { id: 1, schema: 'public', name: 'item', identity: 'd', columns: [] };

/** A row of one column of 10 KB, as the server sends it. */
function row(): SentTuple {
  const bytes = Buffer.alloc(10_007);
  bytes.writeInt16BE(1);
  bytes.write('b', 2);
  bytes.writeInt32BE(10_000, 3);
  const sent = new SentTuple();
  sent.place(bytes, 0, bytes.length, false);
  return sent;
}

/** Whole transactions of so many rows each, and what is handed out meanwhile. */
function handedOut(transactions: readonly number[]): StreamItem[] {
  const batches = new Batches({
    numbering: { base: 0n, transactionNear: 1n },
    after: position(1n),
    onTransaction: () => undefined,
    due: () => [],
    onRepeated: () => undefined,
  });
  const tracked = { table: 'public.item' as TableName, key: [0], complete: null };
  batches.settle(RELATION, { tracked, changed: null, undo: () => undefined });
  const items: StreamItem[] = [];
  let lsn = 100n;
  for (const [index, rows] of transactions.entries()) {
    batches.begin(lsn, 0n, index + 2);
    for (let n = 0; n < rows; n++) {
      batches.insert(RELATION.id, row());
      while (batches.due) items.push(batches.take());
    }
    lsn += 100n;
    batches.commit(lsn);
    while (batches.due) items.push(batches.take());
  }
  return items;
}

const described = (item: StreamItem): string =>
  item.kind === 'batch' ? `batch of ${item.batch.blocks.reduce((sum, { changes }) => sum + changes, 0)}` : item.kind;

test('many small transactions come in batches of about a MiB, each whole', () => {
  // What fills a batch ends in the middle of one of them.
  const items = handedOut(Array.from({ length: 100 }, () => 7));
  expect(items.map(described)).toEqual(Array.from({ length: 6 }, () => 'batch of 105'));
});

test('a transaction that is large itself comes in pieces, and a batch adopts them', () => {
  const items = handedOut([7, 500]);
  expect(items.map(({ kind }) => kind)).toEqual(['piece', 'piece', 'batch']);
  const [piece, , last] = items;
  expect(piece).toMatchObject({ piece: { transaction: 3n as TransactionId } });
  expect(last).toMatchObject({ kind: 'batch', batch: { adopts: [{ transaction: { id: 3n } }] } });
});

const TABLE = 'public.items' as TableName;
const ALTERED: RelationMessage = { id: 7, schema: 'public', name: 'items', identity: 'd', columns: [] };

test('a shape that went with a savepoint is put back once: others may have altered the table since', () => {
  const batches = new Batches({
    numbering: { base: 0n, transactionNear: 5n },
    after: ORIGIN,
    onTransaction: () => {},
    due: () => [],
    onRepeated: () => {},
  });
  const undo = vi.fn<() => void>();
  batches.streamStart(5);
  batches.writtenBy(6);
  batches.settle(ALTERED, { tracked: null, changed: { kind: 'schema-changed', table: TABLE, reason: 'altered' }, undo });
  batches.streamStop();
  batches.streamAbort(5, 6);
  expect(undo).toHaveBeenCalledTimes(1);
  batches.streamAbort(5, 5);
  expect(undo).toHaveBeenCalledTimes(1);
});
