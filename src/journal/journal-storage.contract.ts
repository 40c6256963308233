import { expect, test } from 'vitest';
import type { ChangeBlock, TransactionId } from '../model/change.ts';
import { ORIGIN } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import {
  FOREVER,
  type Means,
  ORDERS,
  STOCK,
  at,
  batchOf,
  codeOf,
  ended,
  eventAt,
  piece,
  rowOf,
  rowsIn,
  rowsOf,
} from './batches.contract.ts';
import { BlockWriter } from './frame.ts';

export function describePieces({ begin, append, all, journal }: Means): void {
  test('pieces of a transaction are invisible until a batch adopts them', async () => {
    await begin();
    await journal().spool(piece(77, [[0, [1, 2]]]));
    await journal().spool(piece(77, [[0, [3]]]));
    await journal().spool(piece(77, [[0, [9]]], STOCK));
    expect(journal().head()).toEqual({ at: at(10), evidence: 'begun' });
    expect(await all()).toEqual([]);
    expect(await journal().lastChange(ORDERS)).toBeNull();
    expect(await journal().contains([77n as TransactionId], at(99))).toEqual(new Set([]));
    const adopts = [ended(20, 77)];
    const adopted = await append(batchOf(10, [{ end: 20, id: 77, rows: { orders: [4] } }], { adopts, events: [eventAt(20)] }));
    expect(adopted).toEqual(
      new Map([
        [ORDERS, 3],
        [STOCK, 1],
      ]),
    );
    expect(await all()).toEqual(['20:1', '20:2', '20:3', '20:4']);
    expect(await all(STOCK)).toEqual(['20:9']);
    expect(await journal().events(ORDERS, at(10), at(99))).toEqual([eventAt(20)]);
    expect(await journal().contains([77n as TransactionId], at(20))).toEqual(new Set([77n]));
    expect(await journal().contains([77n as TransactionId], at(19))).toEqual(new Set([]));
    expect(await journal().lastChange(ORDERS)).toBe(at(20));
    expect(journal().head()?.at).toBe(at(20));
  });

  test('pieces of several transactions come interleaved, and count in the order in which those end', async () => {
    await begin();
    await journal().spool(piece(5, [[0, [1]]]));
    await journal().spool(piece(6, [[0, [2]]]));
    await append(batchOf(10, [{ end: 12, rows: { orders: [7] } }]));
    await journal().spool(piece(5, [[0, [3]]]));
    await append(batchOf(12, [{ end: 13, rows: { orders: [8] } }], { through: at(14), adopts: [ended(14, 6)] }));
    expect(await all()).toEqual(['12:7', '13:8', '14:2']);
    await append(batchOf(14, [{ end: 16, rows: { orders: [9] } }], { adopts: [ended(15, 5)] }));
    expect(await all()).toEqual(['12:7', '13:8', '14:2', '15:1', '15:3', '16:9']);
    expect(await rowsIn(journal(), ORDERS, at(13), at(15))).toEqual(['14:2', '15:1', '15:3']);
    expect(await rowsIn(journal(), ORDERS, at(14), at(14))).toEqual([]);
  });

  test('parts that were rolled back do not count, whether they fill pieces or share them', async () => {
    await begin();
    await journal().spool(
      piece(5, [
        [0, [1]],
        [31, [2]],
        [0, [3]],
      ]),
    );
    await journal().spool(piece(5, [[31, [4, 5]]]));
    await journal().discard(5n as TransactionId, 31);
    await journal().spool(piece(5, [[32, [6]]]));
    const adopted = await append(batchOf(10, [], { through: at(20), adopts: [ended(20, 5, [31])] }));
    expect(await all()).toEqual(['20:1', '20:3', '20:6']);
    expect(adopted.get(ORDERS)).toBe(4);
  });

  test('a transaction that was rolled back leaves nothing', async () => {
    await begin();
    await journal().spool(piece(5, [[0, [1, 2]]]));
    await journal().spool(piece(6, [[0, [3]]]));
    await journal().spool(piece(5, [[31, [4]]]));
    await journal().discard(5n as TransactionId, null);
    await append(batchOf(10, [], { through: at(20), adopts: [ended(19, 5), ended(20, 6)] }));
    expect(await all()).toEqual(['20:3']);
  });

  test('abandon drops what is spooled, so that the same transactions can come again', async () => {
    await begin();
    await journal().abandon();
    await journal().spool(piece(5, [[0, [1, 2]]]));
    await journal().spool(piece(6, [[0, [3]]]));
    await journal().abandon();
    await journal().spool(piece(5, [[0, [1, 2]]]));
    await append(batchOf(10, [], { through: at(20), adopts: [ended(19, 6), ended(20, 5)] }));
    expect(await all()).toEqual(['20:1', '20:2']);
  });

  test('what a repeated batch would adopt is dropped', async () => {
    await begin();
    const batch = batchOf(10, [], { through: at(20), adopts: [ended(20, 5)] });
    await journal().spool(piece(5, [[0, [1]]]));
    await append(batch);
    await journal().spool(piece(5, [[0, [1]]]));
    expect(await append(batch)).toEqual(new Map());
    await append(batchOf(20, [], { through: at(30), adopts: [ended(30, 5)] }));
    expect(await all()).toEqual(['20:1']);
  });

  test('a batch adopts nothing outside its bounds', async () => {
    await begin();
    await journal().spool(piece(5, [[0, [1]]]));
    await expect(append(batchOf(10, [], { through: at(20), adopts: [ended(21, 5)] }))).rejects.toThrow(RangeError);
    await expect(append(batchOf(10, [], { through: at(20), adopts: [ended(10, 5)] }))).rejects.toThrow(RangeError);
    expect(await all()).toEqual([]);
  });

  test('a transaction in pieces is read as they come, each once, before and after it is adopted', async () => {
    await begin();
    const read = async (id: number, end: number | null, beyond: number, table = ORDERS) => {
      const rows: number[] = [];
      let place = beyond;
      const within = ended(end ?? 99, id);
      for await (const found of journal().spooled(table, within.transaction.id, end === null ? null : at(end), beyond, FOREVER)) {
        expect(found.place).toBeGreaterThan(place);
        place = found.place;
        const { changes, bytes } = found.block;
        const { at: last } = within.transaction;
        rows.push(...rowsOf({ table, first: last, last, changes, bytes, within }, ORIGIN, last).map((row) => Number(row.split(':')[1])));
      }
      return { rows, place };
    };
    expect(await read(5, null, 0)).toEqual({ rows: [], place: 0 });
    await journal().spool(piece(5, [[0, [1, 2]]]));
    await journal().spool(piece(6, [[0, [100]]]));
    await journal().spool(piece(5, [[0, [50]]], STOCK));
    const first = await read(5, null, 0);
    expect(first.rows).toEqual([1, 2]);
    expect(await read(5, null, first.place)).toEqual({ rows: [], place: first.place });
    for (const row of [3, 4, 5, 6]) await journal().spool(piece(5, [[31, [row]]]));
    const second = await read(5, null, first.place);
    expect(second.rows).toEqual([3, 4, 5, 6]);
    await journal().spool(piece(5, [[0, [7]]]));
    const writer = new BlockWriter(ORDERS);
    writer.insert(rowOf(8));
    const within = ended(20, 5);
    const [before] = batchOf(10, [{ end: 12, rows: { orders: [9] } }]).blocks;
    const blocks = [before, writer.takeWithin(within)] as ChangeBlock[];
    await append(batchOf(10, [], { through: at(20), blocks, adopts: [within] }));
    // Whoever has not heard of the batch finds nothing more, and nothing else.
    expect((await read(5, null, second.place)).rows).toEqual([]);
    const last = await read(5, 20, second.place);
    expect(last.rows).toEqual([7, 8]);
    expect((await read(5, 20, last.place)).rows).toEqual([]);
    expect((await read(5, 20, 0)).rows).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect((await read(5, 20, 0, STOCK)).rows).toEqual([50]);
    expect((await read(6, null, 0)).rows).toEqual([100]);
    await journal().discard(6n as TransactionId, null);
    expect((await read(6, null, 0)).rows).toEqual([]);
    await journal().spool(piece(7, [[0, [1]]]));
    await begin();
    expect((await read(7, null, 0)).rows).toEqual([]);
    expect((await read(5, 20, 0)).rows).toEqual([]);
  });

  test('begin drops what is spooled', async () => {
    await begin();
    await journal().spool(piece(5, [[0, [1, 2]]]));
    await begin();
    await append(batchOf(10, [], { through: at(20), adopts: [ended(20, 5)] }));
    expect(await all()).toEqual([]);
  });

  test('blocks of a transaction that ended before they were handed over need no piece', async () => {
    await begin();
    const writer = new BlockWriter(ORDERS);
    for (const part of [0, 31, 32]) {
      writer.part(part);
      writer.insert(rowOf(part));
    }
    const within = ended(20, 5, [31]);
    const block = writer.takeWithin(within) as ChangeBlock;
    const [before] = batchOf(10, [{ end: 12, rows: { orders: [1] } }]).blocks;
    const [later] = batchOf(10, [{ end: 22, rows: { orders: [2] } }]).blocks;
    await append(batchOf(10, [], { through: at(22), blocks: [before, block, later] as ChangeBlock[] }));
    expect(await all()).toEqual(['12:1', '20:0', '20:32', '22:2']);
    expect(await journal().contains([5n as TransactionId], at(20))).toEqual(new Set([5n]));
  });

  test('a reader goes on while what it has read of a huge transaction is pruned, and is told of what it has not', async () => {
    await begin();
    const rows = Array.from({ length: 50_000 }, (_, row) => row);
    for (let i = 0; i < 4; i++) await journal().spool(piece(5, [[0, rows]]));
    await append(batchOf(10, [], { through: at(20), adopts: [ended(20, 5)] }));
    let seen = 0;
    let outcome: unknown = 'ended';
    try {
      for await (const block of journal().read(ORDERS, at(10), at(20), FOREVER)) {
        seen += block.changes;
        await journal().prune(new Map([[ORDERS, at(20)]]));
      }
    } catch (error) {
      outcome = codeOf(error);
    }
    expect([outcome, seen === 200_000]).toSatisfy(([how, whole]) => how === 'JOURNAL_GAP' || whole);
    await expect(rowsIn(journal(), ORDERS, at(10), at(20))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    expect(await all(STOCK)).toEqual([]);
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
    await journal().prune(new Map([[ORDERS, at(14)]]));
    await expect(rowsIn(journal(), ORDERS, at(10), at(20))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    await expect(rowsIn(journal(), ORDERS, at(13), at(14))).rejects.toMatchObject({ code: 'JOURNAL_GAP' });
    expect(await rowsIn(journal(), ORDERS, at(14), at(16))).toEqual(['15:15', '16:16']);
    expect((await all(STOCK)).length).toBe(5);
    expect(await journal().contains([11n as TransactionId], at(20))).toEqual(new Set([11n]));
    await journal().prune(new Map([[STOCK, at(11)]]));
    expect(await journal().contains([11n as TransactionId], at(20))).toEqual(new Set([]));
  });

  test('a block that reaches beyond is kept whole', async () => {
    await fill();
    await journal().prune(new Map([[ORDERS, at(13)]]));
    expect(await rowsIn(journal(), ORDERS, at(12), at(14))).toEqual(['13:13', '14:14']);
  });

  test('prunes everything, and again, and goes on', async () => {
    await fill();
    await journal().prune(new Map([[ORDERS, at(99)]]));
    await journal().prune(new Map([[ORDERS, at(99)]]));
    await journal().prune(new Map([['nothing' as TableName, at(99)]]));
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
    await journal().prune(new Map([[ORDERS, at(11)]]));
    expect(await journal().events(ORDERS, ORIGIN, at(99))).toEqual([eventAt(12)]);
    expect(before).toBeGreaterThan(50_000 * 14);
    // The log in front of a store's file may still be counted once.
    await append(batchOf(12, [{ end: 13, rows: { orders: [1] } }]));
    await journal().prune(new Map([[ORDERS, at(12)]]));
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
        await journal().prune(new Map([[ORDERS, at(14)]]));
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
      await journal().prune(new Map([[ORDERS, block.last]]));
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
    await journal().prune(new Map([[STOCK, at(11)]]));
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

  test('what is spooled does not survive; what was adopted does', async (context) => {
    if (!place.durable()) context.skip();
    await begin();
    await journal().spool(piece(5, [[0, [1, 2]]]));
    await place.reopen();
    expect(journal().head()).toEqual({ at: at(10), evidence: 'begun' });
    await journal().spool(
      piece(6, [
        [0, [3]],
        [31, [4]],
      ]),
    );
    await append(batchOf(10, [], { through: at(20), adopts: [ended(19, 5), ended(20, 6, [31])] }));
    await place.reopen();
    expect(await all()).toEqual(['20:3']);
    await journal().spool(piece(7, [[0, [5]]]));
    await append(batchOf(20, [], { through: at(30), adopts: [ended(30, 7)] }));
    expect(await all()).toEqual(['20:3', '30:5']);
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
