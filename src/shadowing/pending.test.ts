import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockWriter } from '../journal/frame.ts';
import type { ChangeBlock, TransactionId } from '../model/change.ts';
import { ORIGIN, type Position, position } from '../model/position.ts';
import type { TableName, TableSchema } from '../model/schema.ts';
import { type Cell, type KeyTuple, type Tuple, cellsOf, fillAbsent, hasAbsent, identityOf, keyTuple, packTuple } from '../model/tuple.ts';
import { Pending, type PendingEntry, fold, foldPieces } from './pending.ts';

const column = (name: string): TableSchema['columns'][number] => ({ name, type: '', nullable: true, generated: false, hidden: false });
const SCHEMA: TableSchema = {
  table: 'items' as TableName,
  columns: [column('id'), column('value'), column('long')],
  key: [0],
  keyOrderShared: true,
  shape: 'v1',
  create: [],
  finish: [],
};
const NO_LIMIT = { changes: 1_000_000, bytes: 1 << 30 };

function row(id: number, value: string, long: string | null | undefined): Tuple {
  const cell: Cell = typeof long === 'string' ? Buffer.from(long) : long;
  return packTuple([Buffer.from([id]), Buffer.from(value), cell]);
}

function key(id: number): KeyTuple {
  return packTuple([Buffer.from([id])]) as KeyTuple;
}

type Act =
  | { kind: 'insert'; id: number; value: string }
  | { kind: 'update'; id: number; to: number; value: string; absent: boolean }
  | { kind: 'delete'; id: number };

/** A table that tells what a primary would send for each act, and what it then holds. */
class Table {
  readonly rows = new Map<number, Tuple>();

  act(act: Act, writer: BlockWriter): void {
    const standing = this.rows.get(act.id);
    if (act.kind === 'insert') {
      if (standing !== undefined) return;
      const inserted = row(act.id, act.value, `long ${act.value}`);
      this.rows.set(act.id, inserted);
      writer.insert(inserted);
    } else if (standing === undefined) return;
    else if (act.kind === 'delete') {
      this.rows.delete(act.id);
      writer.delete(key(act.id));
    } else {
      if (act.to !== act.id && this.rows.has(act.to)) return;
      const long = act.absent ? undefined : `long ${act.value}`;
      const sent = row(act.to, act.value, long);
      const moved = packTuple([Buffer.from([act.to]), ...cellsOf(standing).slice(1)]);
      this.rows.delete(act.id);
      this.rows.set(act.to, fillAbsent(sent, moved));
      writer.update(sent, act.to === act.id ? null : key(act.id));
    }
  }
}

async function* just(blocks: readonly ChangeBlock[]): AsyncGenerator<ChangeBlock> {
  yield* blocks;
}

function apply(rows: ReadonlyMap<number, Tuple>, pending: Pending): Map<number, Tuple> {
  const before = new Map(Array.from(rows, ([, each]) => [identityOf(keyTuple(each, [0])), each]));
  const after = new Map(pending.truncated ? [] : before);
  for (const [identity, entry] of pending.entries) if (entry.kind === 'delete') after.delete(identity);
  for (const [identity, entry] of pending.entries) if (entry.kind === 'put') after.set(identity, whole(entry, before));
  return new Map(Array.from(after.values(), (each) => [cellsOf(each)[0]?.[0] as number, each]));
}

function whole(entry: PendingEntry & { kind: 'put' }, before: ReadonlyMap<string, Tuple>): Tuple {
  if (entry.from === null) {
    expect(hasAbsent(entry.row)).toBe(false);
    return entry.row;
  }
  return fillAbsent(entry.row, before.get(entry.from) as Tuple);
}

const act: fc.Arbitrary<Act> = fc.oneof(
  fc.record({ kind: fc.constant('insert' as const), id: fc.nat({ max: 4 }), value: fc.string({ maxLength: 3 }) }),
  fc.record({
    kind: fc.constant('update' as const),
    id: fc.nat({ max: 4 }),
    to: fc.nat({ max: 4 }),
    value: fc.string({ maxLength: 3 }),
    absent: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('delete' as const), id: fc.nat({ max: 4 }) }),
);

function transactionAt(writer: BlockWriter, number: number): Position {
  const at = position(BigInt(number));
  writer.transaction({ id: BigInt(number) as TransactionId, at, committedAtMicros: 0n });
  return at;
}

describe('folding', () => {
  test('a fold applied at once comes to the same as its changes one by one, absent columns and moved keys included', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 12 }), fc.array(act, { maxLength: 25 }), async (earlier, later) => {
        const table = new Table();
        const ignored = new BlockWriter(SCHEMA.table);
        transactionAt(ignored, 1);
        for (const each of earlier) table.act(each, ignored);
        const before = new Map(table.rows);
        const writer = new BlockWriter(SCHEMA.table);
        later.forEach((each, index) => {
          transactionAt(writer, 2 + Math.floor(index / 3));
          table.act(each, writer);
        });
        const block = writer.take();
        const end = position(1000n);
        const pending = new Pending(SCHEMA, position(1n), NO_LIMIT);
        await fold(just(block === null ? [] : [block]), { after: position(1n), upTo: end }, pending);
        expect(pending.through).toBe(end);
        expect(apply(before, pending)).toEqual(table.rows);
      }),
    );
  });

  test('the limit ends a fold between the transactions of a block', async () => {
    const writer = new BlockWriter(SCHEMA.table);
    const ends: Position[] = [];
    for (let number = 1; number <= 4; number++) {
      ends.push(transactionAt(writer, number));
      for (let id = 0; id < 10; id++) writer.insert(row(number * 10 + id, 'value', 'long'));
    }
    const pending = new Pending(SCHEMA, ORIGIN, { changes: 15, bytes: 1 << 30 });
    await fold(just([writer.take() as ChangeBlock]), { after: ORIGIN, upTo: ends[3] as Position }, pending);
    expect(pending.full).toBe(true);
    expect(pending.through).toBe(ends[1]);
    expect(pending.entries.size).toBe(20);
  });

  test.each([
    ['one transaction', 1],
    ['changes of one row', 40],
  ])('the limit ends a fold that is asked for whole, however much %s comes to', async (_what, transactions) => {
    const long = 'x'.repeat(10_000);
    async function* blocks(): AsyncGenerator<ChangeBlock> {
      for (let number = 0; number < 40; number++) {
        const writer = new BlockWriter(SCHEMA.table);
        transactionAt(writer, 1 + (number % transactions));
        writer.update(row(transactions === 1 ? number : 1, 'value', long), null);
        yield writer.take() as ChangeBlock;
      }
    }
    const pending = new Pending(SCHEMA, ORIGIN, { changes: 1_000_000, bytes: 50_000 });
    await fold(blocks(), { after: ORIGIN, upTo: position(100n) }, pending);
    expect(pending.full).toBe(true);
  });

  test('a transaction larger than the limit comes in pieces that end with it', async () => {
    const writer = new BlockWriter(SCHEMA.table);
    const blocks: ChangeBlock[] = [];
    const ends: Position[] = [];
    for (let number = 1; number <= 3; number++) {
      const size = number === 2 ? 25 : 3;
      for (let id = 0; id < size; id++) {
        if (id === 0) ends.push(transactionAt(writer, number));
        else if (id % 10 === 0) {
          blocks.push(writer.take() as ChangeBlock);
          transactionAt(writer, number);
        }
        writer.insert(row(number * 50 + id, 'value', 'long'));
      }
    }
    blocks.push(writer.take() as ChangeBlock);
    const range = { after: ORIGIN, upTo: ends[2] as Position };
    const pieces: { keys: number; through: Position; goesOn: boolean }[] = [];
    const begin = (only: Position | null): Pending => new Pending(SCHEMA, ORIGIN, { changes: 10, bytes: 1 << 30 }, { only });
    for await (const { pending, goesOn } of foldPieces(just(blocks), range, begin))
      pieces.push({ keys: pending.entries.size, through: pending.through, goesOn });
    expect(pieces).toEqual([
      { keys: 13, through: ends[1], goesOn: true },
      { keys: 10, through: ends[1], goesOn: true },
      { keys: 5, through: ends[1], goesOn: false },
    ]);
  });
  test('a fold of inserts alone keeps them as they come; any other change puts them into the map', async () => {
    const writer = new BlockWriter(SCHEMA.table);
    const end = transactionAt(writer, 1);
    writer.insert(row(1, 'one', 'long'));
    writer.insert(row(2, 'two', 'long'));
    const block = writer.take() as ChangeBlock;
    const range = { after: ORIGIN, upTo: end };
    const plain = await fold(just([block]), range, new Pending(SCHEMA, ORIGIN, NO_LIMIT));
    expect(plain.inserts).toHaveLength(2);
    expect(Array.from(plain.entries.keys())).toEqual([identityOf(key(1)), identityOf(key(2))]);
    transactionAt(writer, 1);
    writer.delete(key(1));
    const mixed = await fold(just([block, writer.take() as ChangeBlock]), range, new Pending(SCHEMA, ORIGIN, NO_LIMIT));
    expect(mixed.inserts).toBeNull();
    expect(mixed.entries.get(identityOf(key(1)))).toEqual({ kind: 'delete', stood: false });
    // Where transactions are left out, the delete between two inserts of one key may be.
    const some = await fold(just([block]), range, new Pending(SCHEMA, ORIGIN, NO_LIMIT, { admits: () => true }));
    expect(some.inserts).toBeNull();
  });

  test('a row that comes back to the key it left takes absent columns from what stands there', async () => {
    const writer = new BlockWriter(SCHEMA.table);
    const end = transactionAt(writer, 1);
    writer.update(row(2, 'there', undefined), key(1));
    writer.update(row(1, 'back', undefined), key(2));
    const pending = await fold(just([writer.take() as ChangeBlock]), { after: ORIGIN, upTo: end }, new Pending(SCHEMA, ORIGIN, NO_LIMIT));
    const own = identityOf(key(1));
    expect(pending.entries.get(own)).toMatchObject({ kind: 'put', from: own, stood: true });
    expect(pending.entries.settled()?.patches.length).toBe(1);
  });

  test('a truncate forgets what came before it in the fold', async () => {
    const writer = new BlockWriter(SCHEMA.table);
    const end = transactionAt(writer, 1);
    writer.insert(row(1, 'before', 'long'));
    writer.truncate();
    writer.insert(row(2, 'after', 'long'));
    const pending = await fold(just([writer.take() as ChangeBlock]), { after: ORIGIN, upTo: end }, new Pending(SCHEMA, ORIGIN, NO_LIMIT));
    expect(pending.truncated).toBe(true);
    expect(Array.from(pending.entries.keys())).toEqual([identityOf(key(2))]);
  });

  test('changes of transactions that are not admitted are left out', async () => {
    const writer = new BlockWriter(SCHEMA.table);
    transactionAt(writer, 1);
    writer.insert(row(1, 'one', 'long'));
    const end = transactionAt(writer, 2);
    writer.insert(row(2, 'two', 'long'));
    const pending = new Pending(SCHEMA, ORIGIN, NO_LIMIT, { admits: (ref) => ref.id !== 1n });
    await fold(just([writer.take() as ChangeBlock]), { after: ORIGIN, upTo: end }, pending);
    expect(Array.from(pending.entries.keys())).toEqual([identityOf(key(2))]);
  });
});
