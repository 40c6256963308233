import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Bookmark } from '../journal/journal.ts';
import { walkBlock } from '../journal/frame.ts';
import type { ChangeBlock, OpenBlock, TableEvent, TrackedBatch, TransactionId, TransactionRef } from '../model/change.ts';
import { type Position, maxPosition } from '../model/position.ts';
import { type TableName, type TableSchema, tableOf } from '../model/schema.ts';
import { type Identity, type KeyTuple, type Tuple, fillAbsent, hasAbsent, identityOf, keyTuple } from '../model/tuple.ts';
import type { Primary, PrimaryItem, PrimarySnapshot } from './primary.ts';

/**
 * A primary with two empty tables: `things (id integer primary key, label text)` and
 * `links (a integer, b integer, note text, primary key (a, b))`. Disposing it removes everything.
 */
export interface PrimaryFixture extends AsyncDisposable {
  /** Opens the primary; called again after closing it, the same one. */
  open(): Promise<Primary>;
  readonly things: TableName;
  readonly links: TableName;
  /** One transaction by the application. */
  write(rows: readonly NeutralRow[]): Promise<void>;
  /** Names of whatever tracking has left in the store. */
  traces(): Promise<readonly string[]>;
}

/** A row to be put there under its key, or (text null) to be deleted. */
export interface NeutralRow {
  readonly table: 'things' | 'links';
  readonly key: readonly number[];
  readonly text: string | null;
}

const put = (id: number, text: string): NeutralRow => ({ table: 'things', key: [id], text });
const drop = (id: number): NeutralRow => ({ table: 'things', key: [id], text: null });
const link = (a: number, b: number, text: string | null): NeutralRow => ({ table: 'links', key: [a, b], text });

const patience = (): AbortSignal => AbortSignal.timeout(20_000);

type Item = { readonly batch: TrackedBatch; readonly evidence: string };

/** What `changes` yields, with pieces held in memory until a batch adopts them: then they are blocks of it. */
export async function* wholeBatches(
  items: AsyncIterable<PrimaryItem>,
  on: { piece(): void } = { piece: () => undefined },
): AsyncGenerator<Item> {
  const spools = new Map<TransactionId, OpenBlock[]>();
  for await (const item of items) {
    if (item.kind === 'piece') {
      spools.set(item.piece.transaction, [...(spools.get(item.piece.transaction) ?? []), ...item.piece.blocks]);
      on.piece();
    } else if (item.kind === 'rolled-back') {
      const { transaction, part } = item;
      spools.set(transaction, part === null ? [] : (spools.get(transaction) ?? []).filter((block) => block.part !== part));
    } else {
      const adopted = item.batch.adopts.flatMap((within): ChangeBlock[] => {
        const { id, at } = within.transaction;
        const open = spools.get(id) ?? [];
        spools.delete(id);
        return open.map(({ table, first, changes, bytes }) => {
          return { table, first: first ?? at, last: at, changes, bytes, within: first === null ? within : null };
        });
      });
      const blocks = [...adopted, ...item.batch.blocks].toSorted((a, b) => (a.last < b.last ? -1 : a.last > b.last ? 1 : 0));
      yield { batch: { ...item.batch, blocks }, evidence: item.evidence };
    }
  }
}

/** Reads `changes` in the background, as a tracker does. */
class Reader implements AsyncDisposable {
  readonly items: Item[] = [];
  readonly #stopping = new AbortController();
  readonly #done: Promise<void>;
  #failure: unknown = null;

  constructor(primary: Primary, from: Bookmark) {
    this.#done = this.#read(primary, from);
  }

  async #read(primary: Primary, from: Bookmark): Promise<void> {
    try {
      for await (const item of wholeBatches(primary.changes(from, this.#stopping.signal))) this.items.push(item);
    } catch (error) {
      this.#failure = error;
    }
  }

  /** The position read up to, whole transactions only. */
  get through(): Position | null {
    return this.items.at(-1)?.batch.through ?? null;
  }

  async reached(at: Position): Promise<void> {
    while ((this.through ?? '') < at) {
      if (this.#failure !== null) throw this.#failure;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#done;
  }
}

type Folded = Map<TableName, Map<Identity, Tuple>>;

/** Applies the changes of some batches, of the transactions that count. */
export function foldBatches(
  schema: readonly TableSchema[],
  batches: readonly Pick<TrackedBatch, 'blocks'>[],
  counts: (ref: TransactionRef) => boolean,
  onto: Folded = new Map(),
): Folded {
  for (const block of batches.flatMap((batch) => batch.blocks)) {
    const table = schema.find((each) => each.table === block.table);
    if (table === undefined) throw new Error(`a change of ${block.table}, which is not part of the data set`);
    const rows = onto.get(block.table) ?? new Map<Identity, Tuple>();
    onto.set(block.table, rows);
    const place = (row: Tuple, oldKey: KeyTuple | null) => {
      const key = keyTuple(row, table.key);
      const older = rows.get(identityOf(oldKey ?? key));
      if (oldKey !== null) rows.delete(identityOf(oldKey));
      rows.set(identityOf(key), hasAbsent(row) && older !== undefined ? fillAbsent(row, older) : row);
    };
    walkBlock(block, '' as Position, 'g' as Position, {
      transaction: counts,
      insert: (row) => place(row, null),
      update: place,
      delete: (key) => rows.delete(identityOf(key)),
      truncate: () => rows.clear(),
    });
  }
  return onto;
}

/** Rows as text a person can compare, in one order. */
export function shownRows(primary: Primary, table: TableSchema, rows: Iterable<Tuple>): string[] {
  return [...rows].map((row) => JSON.stringify(primary.values.row(table, row))).toSorted();
}

export async function allRows(snapshot: PrimarySnapshot, table: TableSchema, rowsMax = 1000): Promise<Tuple[]> {
  const rows: Tuple[] = [];
  let after: KeyTuple | null = null;
  do {
    const chunk = await snapshot.rows(table, after, { rows: rowsMax, bytes: 1 << 20 }, AbortSignal.timeout(20_000));
    rows.push(...chunk.rows);
    after = chunk.through;
  } while (after !== null);
  return rows;
}

export interface PrimaryTraits {
  /** An open snapshot makes the application wait (SQLite without WAL): what needs both at once is left out. */
  readonly snapshotsBlockWriters: boolean;
}

/** What every primary promises (`primary.ts`). */
export function describePrimary(
  name: string,
  make: () => Promise<PrimaryFixture>,
  traits: PrimaryTraits = { snapshotsBlockWriters: false },
): void {
  describe(`primary contract: ${name}`, () => {
    let fixture: PrimaryFixture;
    let primary: Primary;
    let schema: readonly TableSchema[];
    let from: Bookmark;
    beforeEach(async () => {
      fixture = await make();
      primary = await fixture.open();
      schema = (await primary.describe(patience())).tables;
      from = await primary.install(schema, patience());
    });

    afterEach(async () => {
      await primary[Symbol.asyncDispose]();
      await fixture[Symbol.asyncDispose]();
    });

    const tableNamed = (table: 'things' | 'links'): TableSchema => schema.find((each) => each.table === fixture[table]) as TableSchema;
    const written = async (reader: Reader): Promise<TrackedBatch[]> => {
      await reader.reached(await primary.now(patience()));
      return reader.items.map((item) => item.batch);
    };
    const shown = (folded: Folded, table: 'things' | 'links'): string[] =>
      shownRows(primary, tableNamed(table), folded.get(fixture[table])?.values() ?? []);

    test('describes its tables, their columns and their keys', async () => {
      const described = await primary.describe(patience());
      expect(described.tables.map((table) => table.table).toSorted()).toEqual([fixture.links, fixture.things].toSorted());
      const links = tableOf(described, fixture.links) as TableSchema;
      expect(links.columns.map((column) => column.name)).toEqual(['a', 'b', 'note']);
      expect(links.key.map((index) => links.columns[index]?.name)).toEqual(['a', 'b']);
      expect(tableOf(described, fixture.things)?.shape).toBe(tableNamed('things').shape);
      expect(links.shape).not.toBe(tableNamed('things').shape);
    });

    test('tells how large its tables are', async () => {
      const sizes = await primary.sizes(patience());
      for (const table of [fixture.links, fixture.things]) expect(sizes.get(table)).toBeGreaterThanOrEqual(0);
    });

    test('has one identity and nothing to object to', async () => {
      expect(await primary.identity(patience())).toBe(await primary.identity(patience()));
      const findings = await primary.check(patience());
      expect(findings.filter((finding) => finding.severity === 'error')).toEqual([]);
    });

    test('installing again changes nothing, and loses nothing', async () => {
      await fixture.write([put(1, 'one')]);
      const again = await primary.install(schema, patience());
      expect(again.at >= from.at).toBe(true);
      expect(await primary.installed(patience())).toBe(true);
      await using reader = new Reader(primary, from);
      const folded = foldBatches(schema, await written(reader), () => true);
      expect(shown(folded, 'things')).toEqual(['{"id":1,"label":"one"}']);
    });

    test('batches follow one another without a gap, in commit order', async () => {
      await using reader = new Reader(primary, from);
      for (let i = 0; i < 20; i++) {
        await fixture.write([put(i % 7, `text ${i}`), link(i, i + 1, `note ${i}`)]);
        if (i % 5 === 0) await written(reader);
      }
      const batches = await written(reader);
      let end = from.at;
      let last = from.at;
      for (const batch of batches) {
        expect(batch.after).toBe(end);
        expect(batch.through > batch.after).toBe(true);
        end = batch.through;
        foldBatches(schema, [batch], (ref) => {
          expect(ref.at > batch.after && ref.at <= batch.through).toBe(true);
          return true;
        });
        last = batch.blocks.reduce((at, block) => maxPosition(at, block.last), last);
      }
      expect(last <= end).toBe(true);
      const folded = foldBatches(schema, batches, () => true);
      expect(shown(folded, 'links')).toHaveLength(20);
      expect(shown(folded, 'things')).toContain('{"id":5,"label":"text 19"}');
    });

    test('goes on from any bookmark: nothing lost while nobody read, nothing repeated', async () => {
      let bookmark = from;
      const seen: TrackedBatch[] = [];
      for (let round = 0; round < 4; round++) {
        await fixture.write([put(round, `before ${round}`), put(100, `${round}`)]);
        if (round > 0) await fixture.write([drop(round - 1)]);
        await using reader = new Reader(primary, bookmark);
        await written(reader);
        await fixture.write([link(round, round, 'while reading')]);
        const batches = await written(reader);
        expect(batches.every((batch) => batch.after >= bookmark.at && batch.events.length === 0)).toBe(true);
        seen.push(...batches);
        const last = reader.items.at(-1) as Item;
        bookmark = { at: last.batch.through, evidence: last.evidence };
        await primary.acknowledge(bookmark.at);
      }
      const folded = foldBatches(schema, seen, () => true);
      expect(shown(folded, 'things')).toEqual(['{"id":100,"label":"3"}', '{"id":3,"label":"before 3"}']);
      expect(shown(folded, 'links')).toHaveLength(4);
    });

    test('a closed primary goes on where its reader stopped', async () => {
      let bookmark = from;
      {
        await using reader = new Reader(primary, from);
        await fixture.write([put(1, 'one'), put(2, 'two')]);
        await written(reader);
        const last = reader.items.at(-1) as Item;
        bookmark = { at: last.batch.through, evidence: last.evidence };
      }
      await primary[Symbol.asyncDispose]();
      await fixture.write([drop(1), put(3, 'three')]);
      primary = await fixture.open();
      const again = await primary.install(schema, patience());
      expect(again.at >= from.at).toBe(true);
      await using reader = new Reader(primary, bookmark);
      const batches = await written(reader);
      expect(batches.flatMap((batch) => batch.events)).toEqual([]);
      const folded = foldBatches(schema, batches, () => true);
      expect(shown(folded, 'things')).toEqual(['{"id":3,"label":"three"}']);
    });

    test('a bookmark of another history is a gap of every table, and tracking goes on above it', async () => {
      const strange: Bookmark = { at: from.at, evidence: 'not the evidence of this primary' };
      await fixture.write([put(1, 'one')]);
      await using reader = new Reader(primary, strange);
      const batches = await written(reader);
      await fixture.write([put(2, 'two')]);
      const all = await written(reader);
      expect(batches[0]?.after).toBe(strange.at);
      const gaps = all.flatMap((batch) => batch.events).filter((event: TableEvent) => event.kind === 'gap');
      expect(gaps.map((event) => event.table).toSorted()).toEqual([fixture.links, fixture.things].toSorted());
      expect(
        shown(
          foldBatches(schema, all, () => true),
          'things',
        ),
      ).toContain('{"id":2,"label":"two"}');
    });

    test('now covers every commit before it, and is reached while nobody writes', async () => {
      await using reader = new Reader(primary, from);
      await fixture.write([put(1, 'one')]);
      const now = await primary.now(patience());
      await reader.reached(now);
      const upToNow = foldBatches(
        schema,
        reader.items.map((item) => item.batch),
        (ref) => ref.at <= now,
      );
      expect(shown(upToNow, 'things')).toEqual(['{"id":1,"label":"one"}']);
      expect((await primary.now(patience())) >= now).toBe(true);
    });

    test.skipIf(traits.snapshotsBlockWriters)('snapshots are exact while the primary is written to', async () => {
      await using reader = new Reader(primary, from);
      const writing = new AbortController();
      const writer = writeUntil(fixture, writing.signal);
      const taken: { end: Position; counts: (ref: TransactionRef) => boolean; things: string[]; links: string[] }[] = [];
      for (let i = 0; i < 6; i++) {
        const covering = await primary.now(patience());
        await using snapshot = await primary.snapshot(covering, patience());
        expect(snapshot.end >= covering).toBe(true);
        const things = shownRows(primary, tableNamed('things'), await allRows(snapshot, tableNamed('things'), 3));
        const links = shownRows(primary, tableNamed('links'), await allRows(snapshot, tableNamed('links'), 3));
        const { end } = snapshot;
        const included = new Map<Position, boolean>();
        taken.push({ end, things, links, counts: (ref) => included.get(ref.at) ?? false });
        await reader.reached(end);
        for (const { batch } of reader.items) {
          foldBatches(schema, [batch], (ref) => {
            included.set(ref.at, ref.at <= end && snapshot.includes(ref));
            return false;
          });
        }
      }
      writing.abort();
      await writer;
      const batches = await written(reader);
      for (const { counts, things, links } of taken) {
        const folded = foldBatches(schema, batches, counts);
        expect(shown(folded, 'things')).toEqual(things);
        expect(shown(folded, 'links')).toEqual(links);
      }
    });

    test('rows come in key order, in chunks that neither repeat nor skip', async () => {
      await using reader = new Reader(primary, from);
      const rows = [-3, 12, 5, 0, 900, -70, 44].flatMap((id) => [put(id, `t${id}`), link(id, -id, 'x'), link(id, id + 1, 'y')]);
      await fixture.write(rows);
      await using snapshot = await primary.snapshot(await primary.now(patience()), patience());
      await reader.reached(snapshot.end);
      const table = tableNamed('links');
      const whole = await allRows(snapshot, table);
      expect(whole).toHaveLength(14);
      for (const size of [1, 2, 5, 13, 14]) expect(await allRows(snapshot, table, size)).toEqual(whole);
      const pairs = whole.map((row) => primary.values.row(table, row) as { a: number; b: number });
      expect(pairs).toEqual(pairs.toSorted((x, y) => x.a - y.a || x.b - y.b));
      const tiny = await snapshot.rows(table, null, { rows: 1000, bytes: 1 }, patience());
      expect(tiny.rows).toHaveLength(1);
      expect((await snapshot.describe(fixture.links, patience()))?.shape).toBe(table.shape);
    });

    test.skipIf(traits.snapshotsBlockWriters)('rows are found by key; keys without a row are left out', async () => {
      await using reader = new Reader(primary, from);
      await fixture.write([put(1, 'one'), put(2, 'two'), put(3, 'three')]);
      const table = tableNamed('things');
      await using before = await primary.snapshot(await primary.now(patience()), patience());
      const keys = (await allRows(before, table)).map((row) => keyTuple(row, table.key));
      await fixture.write([drop(2)]);
      const now = await primary.now(patience());
      await reader.reached(now);
      await using after = await primary.snapshot(now, patience());
      expect(shownRows(primary, table, await before.rowsByKey(table, keys, patience()))).toHaveLength(3);
      expect(shownRows(primary, table, await after.rowsByKey(table, keys, patience()))).toEqual([
        '{"id":1,"label":"one"}',
        '{"id":3,"label":"three"}',
      ]);
    });

    test('uninstalling leaves no trace, twice too, and tracking is then refused', async () => {
      await fixture.write([put(1, 'one')]);
      await primary.uninstall(patience());
      await primary.uninstall(patience());
      expect(await fixture.traces()).toEqual([]);
      expect(await primary.installed(patience())).toBe(false);
      await fixture.write([put(2, 'two')]);
      await expect(primary.now(patience())).rejects.toMatchObject({ code: 'NOT_INSTALLED' });
    });
  });
}

async function writeUntil(fixture: PrimaryFixture, signal: AbortSignal): Promise<void> {
  for (let i = 0; !signal.aborted; i++) {
    const rows = [put(i % 13, `round ${i}`), link(i % 5, i % 11, `${i}`)];
    if (i % 4 === 3) rows.push(drop((i * 7) % 13), link(i % 3, (i + 2) % 11, null));
    // A transaction names each row once.
    await fixture.write(rows.filter((row, at) => rows.findLastIndex((other) => sameRow(row, other)) === at));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function sameRow(a: NeutralRow, b: NeutralRow): boolean {
  return a.table === b.table && a.key.join() === b.key.join();
}
