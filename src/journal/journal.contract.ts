import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ChangeBlock, TrackedBatch, TransactionId } from '../model/change.ts';
import { ORIGIN, position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import { BlockWriter } from './frame.ts';
import { FOREVER, type Means, ORDERS, STOCK, at, batchOf, eventAt, rowOf, rowsIn, rowsOf } from './batches.contract.ts';
import type { Journal } from './journal.ts';
import { describeDurability, describePieces, describePruning } from './journal-storage.contract.ts';
import { describeModel } from './journal-model.contract.ts';

/** One place where a journal can live, empty at first. Disposing it removes what was stored. */
export interface JournalFixture extends AsyncDisposable {
  /** Opens the journal; after it was closed, the same one again if `durable`. */
  open(): Promise<Journal>;
  readonly durable: boolean;
}

/** What every journal promises (`journal.ts`). */
export function describeJournal(name: string, make: () => Promise<JournalFixture>): void {
  describe(`journal contract: ${name}`, () => {
    let fixture: JournalFixture;
    let journal: Journal;

    beforeEach(async () => {
      fixture = await make();
      journal = await fixture.open();
    });

    afterEach(async () => {
      await journal[Symbol.asyncDispose]();
      await fixture[Symbol.asyncDispose]();
    });

    const begin = async () => await journal.begin({ at: at(10), evidence: 'begun' });
    const append = async (batch: TrackedBatch, evidence = 'e') => await journal.append(batch, evidence);
    const all = async (table = ORDERS) => await rowsIn(journal, table, at(10), at(1_000_000));
    const reopen = async () => {
      await journal[Symbol.asyncDispose]();
      journal = await fixture.open();
    };

    describeOrder({ begin, append, all, journal: () => journal });
    describeReading({ begin, append, all, journal: () => journal });
    describePieces({ begin, append, all, journal: () => journal });
    describePruning({ begin, append, all, journal: () => journal });
    describeDurability({ begin, append, all, journal: () => journal }, { reopen, durable: () => fixture.durable });
    describeModel(() => journal);
  });
}

function describeOrder({ begin, append, all, journal }: Means): void {
  test('has no head before it begins, and takes nothing', async () => {
    expect(journal().head()).toBeNull();
    await expect(append(batchOf(10, [{ end: 11, rows: { orders: [1] } }]))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
  });

  test('the head follows what is appended, with its evidence', async () => {
    await begin();
    expect(journal().head()).toEqual({ at: at(10), evidence: 'begun' });
    await append(batchOf(10, [{ end: 12, rows: { orders: [1] } }]), 'first');
    expect(journal().head()).toEqual({ at: at(12), evidence: 'first' });
    await append(batchOf(12, [], { through: at(20) }), 'idle');
    expect(journal().head()).toEqual({ at: at(20), evidence: 'idle' });
    await append(batchOf(20, []), 'renewed');
    expect(journal().head()).toEqual({ at: at(20), evidence: 'renewed' });
  });

  test('reads in commit order, whatever the order of transaction ids', async () => {
    await begin();
    await append(
      batchOf(10, [
        { end: 11, id: 900, rows: { orders: [1, 2] } },
        { end: 12, id: 3, rows: { orders: [3] } },
      ]),
    );
    await append(batchOf(12, [{ end: 300, id: 5, rows: { orders: [4] } }]));
    expect(await all()).toEqual(['11:1', '11:2', '12:3', '300:4']);
  });

  test('drops what it has already', async () => {
    await begin();
    const first = batchOf(10, [{ end: 11, rows: { orders: [1] } }]);
    await append(first, 'once');
    await append(batchOf(11, [{ end: 12, rows: { orders: [2] } }]), 'later');
    await append(first, 'twice');
    expect(await all()).toEqual(['11:1', '12:2']);
    expect(journal().head()).toEqual({ at: at(12), evidence: 'later' });
  });

  test('refuses a gap and an overlap, and is as it was', async () => {
    await begin();
    await append(batchOf(10, [{ end: 15, rows: { orders: [1] } }]));
    await expect(append(batchOf(16, [{ end: 17, rows: { orders: [2] } }]))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    await expect(append(batchOf(12, [{ end: 17, rows: { orders: [2] } }]))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    expect(await all()).toEqual(['15:1']);
    expect(journal().head()?.at).toBe(at(15));
  });

  test('refuses content outside the bounds of its batch', async () => {
    await begin();
    const inside = batchOf(10, [{ end: 15, rows: { orders: [1] } }]);
    await expect(append({ ...inside, through: at(14) })).rejects.toThrow(RangeError);
    await expect(append(batchOf(10, [{ end: 10, rows: { orders: [1] } }], { through: at(15) }))).rejects.toThrow(RangeError);
    await expect(append(batchOf(10, [], { events: [eventAt(11)] }))).rejects.toThrow(RangeError);
    expect(await all()).toEqual([]);
    await append(inside);
    expect(await all()).toEqual(['15:1']);
  });

  test('begin drops everything, also when the new history counts from lower', async () => {
    await begin();
    await append(batchOf(10, [{ end: 500, rows: { orders: [1], stock: [1] } }], { events: [eventAt(500)] }));
    const { id } = journal();
    await journal().begin({ at: at(2), evidence: 'again' });
    expect(journal().head()).toEqual({ at: at(2), evidence: 'again' });
    expect(journal().id).toBe(id);
    await append(batchOf(2, [{ end: 600, rows: { orders: [2] } }]));
    expect(await rowsIn(journal(), ORDERS, at(2), at(1000))).toEqual(['600:2']);
    expect(await rowsIn(journal(), STOCK, at(2), at(1000))).toEqual([]);
    expect(await journal().events(ORDERS, ORIGIN, at(1000))).toEqual([]);
    expect(await journal().lastChange(STOCK)).toBeNull();
    expect(await journal().contains([500n as TransactionId], at(1000))).toEqual(new Set([]));
  });
}

function describeReading({ begin, append, all, journal }: Means): void {
  test('reads after the lower bound, up to the upper', async () => {
    await begin();
    await append(
      batchOf(
        10,
        [11, 12, 13].map((end) => ({ end, rows: { orders: [end] } })),
      ),
    );
    await append(
      batchOf(
        13,
        [14, 15, 16].map((end) => ({ end, rows: { orders: [end] } })),
      ),
    );
    expect(await rowsIn(journal(), ORDERS, at(11), at(15))).toEqual(['12:12', '13:13', '14:14', '15:15']);
    expect(await rowsIn(journal(), ORDERS, at(13), at(13))).toEqual([]);
    expect(await rowsIn(journal(), ORDERS, at(13), at(14))).toEqual(['14:14']);
    expect(await rowsIn(journal(), ORDERS, at(16), at(99))).toEqual([]);
  });

  test('reads one table without the others, and blocks wholly outside the range not at all', async () => {
    await begin();
    await append(batchOf(10, [{ end: 11, rows: { orders: [1], stock: [2] } }]));
    await append(batchOf(11, [{ end: 12, rows: { stock: [3] } }]));
    await append(batchOf(12, [{ end: 13, rows: { orders: [4] } }]));
    expect(await all(ORDERS)).toEqual(['11:1', '13:4']);
    expect(await all(STOCK)).toEqual(['11:2', '12:3']);
    expect(await all('nothing' as TableName)).toEqual([]);
    const blocks: ChangeBlock[] = [];
    for await (const block of journal().read(ORDERS, at(11), at(12), FOREVER)) blocks.push(block);
    expect(blocks).toEqual([]);
  });

  test('blocks come back as they went in', async () => {
    await begin();
    const batch = batchOf(10, [{ end: 11, id: 77, rows: { orders: [1, 2, 3] } }]);
    const [given] = batch.blocks;
    await append(batch);
    for await (const block of journal().read(ORDERS, at(10), at(11), FOREVER)) {
      expect({ ...block, bytes: block.bytes.toString('hex') }).toEqual({ ...given, bytes: given?.bytes.toString('hex') });
    }
  });

  test('carries positions and transaction ids of 64 unsigned bits', async () => {
    const end = (1n << 64n) - 1n;
    await journal().begin({ at: position(end - 2n), evidence: '' });
    const writer = new BlockWriter(ORDERS);
    writer.transaction({ id: end as TransactionId, at: position(end), committedAtMicros: -1n });
    writer.delete(rowOf(1));
    const block = writer.take() as ChangeBlock;
    await append({ after: position(end - 2n), through: position(end), blocks: [block], adopts: [], events: [] });
    expect(await journal().lastChange(ORDERS)).toBe(position(end));
    expect(await journal().contains([end as TransactionId, 1n as TransactionId], position(end))).toEqual(new Set([end]));
  });

  test('a reading that is aborted ends with the reason', async () => {
    await begin();
    await append(batchOf(10, [{ end: 11, rows: { orders: [1] } }]));
    await append(batchOf(11, [{ end: 12, rows: { orders: [2] } }]));
    const controller = new AbortController();
    const reading = async () => {
      for await (const _ of journal().read(ORDERS, at(10), at(12), controller.signal)) controller.abort(new Error('enough'));
    };
    await expect(reading()).rejects.toThrow('enough');
  });

  test('a reader sees what was in when it began, while more is appended', async () => {
    await begin();
    await append(batchOf(10, [{ end: 11, rows: { orders: [1] } }]));
    const seen: string[] = [];
    for await (const block of journal().read(ORDERS, at(10), at(99), FOREVER)) {
      seen.push(...rowsOf(block, at(10), at(99)));
      await append(batchOf(11, [{ end: 12, rows: { orders: [2] } }]));
    }
    expect(seen).toEqual(['11:1']);
    expect(await all()).toEqual(['11:1', '12:2']);
  });

  test('an event keeps the change of shape that it tells of', async () => {
    await begin();
    const to = { table: ORDERS, columns: [], key: [0], keyOrderShared: true, shape: 'next', create: [], finish: [] };
    const change = { from: 'before', to, after: at(10), kept: true, initial: ["it's", null] };
    const event = { ...eventAt(11), change };
    await append(batchOf(10, [], { through: at(15), events: [event] }));
    expect(await journal().events(ORDERS, at(10), at(99))).toEqual([event]);
  });

  test('events of a table, oldest first, within bounds', async () => {
    await begin();
    await append(batchOf(10, [], { through: at(15), events: [eventAt(11), eventAt(12, STOCK), eventAt(15)] }));
    await append(batchOf(15, [], { through: at(20), events: [{ ...eventAt(18), kind: 'gap' }] }));
    expect(await journal().events(ORDERS, at(10), at(99))).toEqual([eventAt(11), eventAt(15), { ...eventAt(18), kind: 'gap' }]);
    expect(await journal().events(ORDERS, at(11), at(15))).toEqual([eventAt(15)]);
    expect(await journal().events(STOCK, at(10), at(12))).toEqual([eventAt(12, STOCK)]);
    expect(await journal().events(STOCK, at(12), at(99))).toEqual([]);
  });

  test('lastChange is the newest boundary with a change of the table', async () => {
    await begin();
    expect(await journal().lastChange(ORDERS)).toBeNull();
    await append(batchOf(10, [{ end: 11, rows: { orders: [1] } }]));
    await append(batchOf(11, [{ end: 12, rows: { stock: [1] } }]));
    expect(await journal().lastChange(ORDERS)).toBe(at(11));
  });

  test('contains tells which transactions are held at or below a position', async () => {
    await begin();
    await append(
      batchOf(10, [
        { end: 11, id: 50, rows: { orders: [1] } },
        { end: 12, id: 40, rows: { stock: [1] } },
        { end: 13, id: 60, rows: { orders: [1] } },
      ]),
    );
    const ids = [40n, 45n, 50n, 60n] as TransactionId[];
    expect(await journal().contains(ids, at(13))).toEqual(new Set([40n, 50n, 60n]));
    expect(await journal().contains(ids, at(12))).toEqual(new Set([40n, 50n]));
    expect(await journal().contains(ids, at(11))).toEqual(new Set([50n]));
    expect(await journal().contains([], at(13))).toEqual(new Set([]));
  });
}
