import { expect, test } from 'vitest';
import type { TransactionId } from '../model/change.ts';
import { ORIGIN } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import { FOREVER, type Means, ORDERS, STOCK, at, batchOf, codeOf, eventAt, piece, rowsIn, rowsOf } from './batches.contract.ts';

export function describePieces({ begin, append, all, journal }: Means): void {
  test('pieces of a transaction are invisible until the last has come', async () => {
    await begin();
    await append(piece([1, 2], { events: [eventAt(20)] }));
    await append(piece([3]));
    expect(journal().head()).toEqual({ at: at(10), evidence: 'begun' });
    expect(await all()).toEqual([]);
    expect(await journal().events(ORDERS, at(10), at(99))).toEqual([]);
    expect(await journal().lastChange(ORDERS)).toBeNull();
    expect(await journal().contains([20n as TransactionId], at(99))).toEqual(new Set([]));
    await append(piece([4], { complete: true }));
    expect(await all()).toEqual(['20:1', '20:2', '20:3', '20:4']);
    expect(await journal().events(ORDERS, at(10), at(99))).toEqual([eventAt(20)]);
    expect(journal().head()?.at).toBe(at(20));
  });

  test('a head that moves discards pieces', async () => {
    await begin();
    await append(piece([1, 2]));
    await append(batchOf(10, [{ end: 12, rows: { orders: [7] } }]));
    await append(batchOf(12, [{ end: 20, rows: { orders: [8] } }]));
    expect(await all()).toEqual(['12:7', '20:8']);
  });

  test('pieces of another transaction discard those before', async () => {
    await begin();
    await append(piece([1, 2]));
    await append(batchOf(10, [{ end: 25, rows: { orders: [7] } }], { complete: false }));
    await append(batchOf(10, [{ end: 25, rows: { orders: [8] } }]));
    expect(await all()).toEqual(['25:7', '25:8']);
  });

  test('abandon discards pieces, so that the same transaction can come again', async () => {
    await begin();
    await journal().abandon();
    await append(piece([1, 2], { events: [eventAt(20)] }));
    await journal().abandon();
    await append(piece([1, 2]));
    await append(piece([3], { complete: true }));
    expect(await all()).toEqual(['20:1', '20:2', '20:3']);
    expect(await journal().events(ORDERS, at(10), at(99))).toEqual([]);
  });

  test('begin discards pieces', async () => {
    await begin();
    await append(piece([1, 2]));
    await begin();
    await append(piece([3], { complete: true }));
    expect(await all()).toEqual(['20:3']);
  });
}

export function describePruning({ begin, append, all, journal }: Means): void {
  const fill = async () => {
    await begin();
    for (let end = 10; end < 20; end += 2) {
      await append(
        batchOf(end, [
          { end: end + 1, rows: { orders: [end + 1], stock: [1] } },
          { end: end + 2, rows: { orders: [end + 2] } },
        ]),
      );
    }
  };

  test('a pruned table cannot be read from before, the others can', async () => {
    await fill();
    await journal().prune(ORDERS, at(14));
    await expect(rowsIn(journal(), ORDERS, at(10), at(20))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    await expect(rowsIn(journal(), ORDERS, at(13), at(14))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    expect(await rowsIn(journal(), ORDERS, at(14), at(16))).toEqual(['15:15', '16:16']);
    expect((await all(STOCK)).length).toBe(5);
    expect(await journal().contains([11n as TransactionId], at(20))).toEqual(new Set([11n]));
    await journal().prune(STOCK, at(11));
    expect(await journal().contains([11n as TransactionId], at(20))).toEqual(new Set([]));
  });

  test('a block that reaches beyond is kept whole', async () => {
    await fill();
    await journal().prune(ORDERS, at(13));
    expect(await rowsIn(journal(), ORDERS, at(12), at(14))).toEqual(['13:13', '14:14']);
  });

  test('prunes everything, and again, and goes on', async () => {
    await fill();
    await journal().prune(ORDERS, at(99));
    await journal().prune(ORDERS, at(99));
    await journal().prune('nothing' as TableName, at(99));
    expect(await journal().lastChange(ORDERS)).toBeNull();
    await append(batchOf(20, [{ end: 21, rows: { orders: [21] } }]));
    expect(await rowsIn(journal(), ORDERS, at(20), at(99))).toEqual(['21:21']);
    await expect(rowsIn(journal(), ORDERS, at(19), at(99))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
  });

  test('prunes events, and makes room', async () => {
    await begin();
    const rows = Array.from({ length: 50_000 }, (_, row) => row);
    await append(batchOf(10, [{ end: 11, rows: { orders: rows } }], { events: [eventAt(11)] }));
    await append(batchOf(11, [], { through: at(12), events: [eventAt(12)] }));
    const before = await journal().size();
    await journal().prune(ORDERS, at(11));
    expect(await journal().events(ORDERS, ORIGIN, at(99))).toEqual([eventAt(12)]);
    expect(before).toBeGreaterThan(50_000 * 14);
    // The log in front of a store's file may still be counted once.
    await append(batchOf(12, [{ end: 13, rows: { orders: [1] } }]));
    await journal().prune(ORDERS, at(12));
    expect(await rowsIn(journal(), ORDERS, at(12), at(13))).toEqual(['13:1']);
  });

  test('a reader whose frames are pruned under it is told', async () => {
    await begin();
    const rows = Array.from({ length: 100_000 }, (_, row) => row);
    for (let end = 10; end < 14; end++) await append(batchOf(end, [{ end: end + 1, rows: { orders: rows } }]));
    let seen = 0;
    let outcome: unknown = 'ended';
    try {
      for await (const block of journal().read(ORDERS, at(10), at(14), FOREVER)) {
        seen += block.changes;
        await journal().prune(ORDERS, at(14));
      }
    } catch (error) {
      outcome = codeOf(error);
    }
    // A store may have fetched ahead; what it may not do is end early as though that was all.
    expect([outcome, seen === 400_000]).toSatisfy(([how, whole]) => how === 'JOURNAL_GAP' || whole);
  });

  test('a reader goes on while what it has read is pruned', async () => {
    await fill();
    const seen: string[] = [];
    for await (const block of journal().read(ORDERS, at(10), at(20), FOREVER)) {
      seen.push(...rowsOf(block, at(10), at(20)));
      await journal().prune(ORDERS, block.last);
    }
    expect(seen.length).toBe(10);
  });

  test('cannot be read from before it began', async () => {
    await begin();
    await append(batchOf(10, [{ end: 11, rows: { orders: [1] } }]));
    await expect(rowsIn(journal(), ORDERS, at(9), at(11))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
  });
}

export function describeDurability({ begin, append, all, journal }: Means, place: { reopen(): Promise<void>; durable(): boolean }): void {
  test('is the same after it was closed and opened', async (context) => {
    if (!place.durable()) context.skip();
    const { id } = journal();
    await begin();
    await append(batchOf(10, [{ end: 11, rows: { orders: [1], stock: [2] } }], { events: [eventAt(11)] }), 'one');
    await append(batchOf(11, [{ end: 12, rows: { orders: [3] } }]), 'two');
    await journal().prune(STOCK, at(11));
    await place.reopen();
    expect(journal().id).toBe(id);
    expect(journal().head()).toEqual({ at: at(12), evidence: 'two' });
    expect(await all()).toEqual(['11:1', '12:3']);
    expect(await journal().events(ORDERS, at(10), at(12))).toEqual([eventAt(11)]);
    await expect(rowsIn(journal(), STOCK, at(10), at(12))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    await append(batchOf(12, [{ end: 13, rows: { orders: [4], stock: [5] } }]));
    expect(await all()).toEqual(['11:1', '12:3', '13:4']);
    expect(await rowsIn(journal(), STOCK, at(12), at(13))).toEqual(['13:5']);
  });

  test('pieces do not survive', async (context) => {
    if (!place.durable()) context.skip();
    await begin();
    await append(batchOf(10, [{ end: 20, rows: { orders: [1, 2] } }], { complete: false, events: [eventAt(20)] }));
    await place.reopen();
    expect(journal().head()).toEqual({ at: at(10), evidence: 'begun' });
    await append(batchOf(10, [{ end: 20, rows: { orders: [3] } }]));
    expect(await all()).toEqual(['20:3']);
    expect(await journal().events(ORDERS, at(10), at(20))).toEqual([]);
  });

  test('a reset survives', async (context) => {
    if (!place.durable()) context.skip();
    await begin();
    await append(batchOf(10, [{ end: 20, rows: { orders: [1, 2] } }]));
    await journal().begin({ at: at(5), evidence: 'again' });
    await place.reopen();
    expect(journal().head()).toEqual({ at: at(5), evidence: 'again' });
    await append(batchOf(5, [{ end: 30, rows: { orders: [3] } }]));
    expect(await rowsIn(journal(), ORDERS, at(5), at(99))).toEqual(['30:3']);
  });
}
