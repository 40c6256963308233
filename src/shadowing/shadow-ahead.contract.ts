import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Progress } from '../model/progress.ts';
import type { Tuple } from '../model/tuple.ts';
import type { AheadWork, ApplyReport } from './shadow.ts';
import { ITEMS, type ShadowOpener, ShadowSession, noteDifference, notes } from './shadow-session.contract.ts';

/** Rows that are written ahead, handed over bit by bit. */
class Feed {
  readonly done: Promise<ApplyReport>;
  readonly stop = new AbortController();
  readonly #session: ShadowSession;
  readonly #waiting: Tuple[][] = [];
  #given = 0;
  #written = 0;
  #to: Progress | null = null;
  #ended = false;
  #failure: Error | null = null;

  constructor(session: ShadowSession) {
    this.#session = session;
    const { progress, savedThrough, schema, shadow } = session;
    const reached = (): ReturnType<AheadWork['reached']> => ({ from: session.progress, to: this.#to as Progress });
    const work = { table: schema.table, rows: this.#rows(), capture: progress.capture, savedThrough, reached };
    this.done = shadow.applyAhead?.(work, this.stop.signal) ?? Promise.reject(new Error('not built'));
    this.done.catch(() => (this.#ended = true));
  }

  /** Resolves when they are written, or never will be. */
  async give(...rows: Tuple[]): Promise<void> {
    this.#waiting.push(rows);
    this.#given++;
    while (this.#written < this.#given && !this.#ended) await sleep(1);
  }

  async end(): Promise<ApplyReport> {
    this.#to = this.#session.next();
    const report = await this.done;
    this.#session.progress = this.#to;
    return report;
  }

  fail(): void {
    this.#failure = new Error('the source failed');
  }

  async *#rows(): AsyncGenerator<readonly Tuple[]> {
    for (;;) {
      const rows = this.#waiting.shift();
      yield rows ?? [];
      if (rows !== undefined) this.#written++;
      if (this.#failure !== null) throw this.#failure;
      if (this.#to !== null && this.#waiting.length === 0) return;
      if (rows === undefined) await sleep(5, undefined, { signal: this.stop.signal });
    }
  }
}

/** Rows of transactions that have not ended, written in a transaction beside all others. For stores that can. */
export function describeAhead(open: ShadowOpener): void {
  describe('ahead', () => {
    let s: ShadowSession;
    let feed: Feed;
    const old = (): Tuple[] => [s.row(1n, 'a'), s.row(2n, 'b')];

    beforeEach(async (context) => {
      s = await ShadowSession.start(await open(), ITEMS);
      if (s.shadow.applyAhead === undefined) {
        await s.close();
        context.skip();
      }
      await s.apply({ puts: old(), fresh: true });
      await s.capture();
      feed = new Feed(s);
      await feed.give(s.row(10n, 'ten'), s.row(11n, 'eleven'));
    });
    afterEach(async () => {
      feed.stop.abort();
      await feed.done.catch(() => undefined);
      await s.close();
    });

    const refused = async (): Promise<void> => {
      await expect(feed.done).rejects.toThrow();
      expect((await s.shadow.elements()).get(s.schema.table)?.progress.low).toBe(s.progress.low);
    };

    test('rows are seen when all are there, with the progress, as insertions of the capture in progress', async () => {
      expect(await s.live()).toEqual(notes(old()));
      await feed.give(s.row(12n, 'twelve'));
      expect(await feed.end()).toMatchObject({ inserted: 3, updated: 0, deleted: 0, conflicts: [] });
      const all = notes([...old(), s.row(10n, 'ten'), s.row(11n, 'eleven'), s.row(12n, 'twelve')]);
      expect(await s.live()).toEqual(all);
      const element = (await s.shadow.elements()).get(s.schema.table);
      expect(element).toMatchObject({ progress: s.progress, state: { kind: 'live' } });
      const two = await s.capture();
      expect(await s.rowsAt(two)).toEqual(all);
      const inserted = [s.row(10n, 'ten'), s.row(11n, 'eleven'), s.row(12n, 'twelve')];
      const one = (await s.catalog.list())[0]?.number ?? two;
      expect(await s.diff(one, two)).toEqual(inserted.map((row) => noteDifference([s.keyOf(row), null, row])).toSorted());
      expect(await s.rowsAt(one)).toEqual(notes(old()));
    });

    test('other applies of the table go on beside it', async () => {
      await s.apply({ deletes: [s.key(1n)], puts: [s.row(2n, 'B'), s.row(3n, 'c')] });
      await feed.give(s.row(1n, 'again'));
      await s.apply({ puts: [s.row(4n, 'd')], fresh: true });
      await feed.end();
      const rows = [s.row(1n, 'again'), s.row(2n, 'B'), s.row(3n, 'c'), s.row(4n, 'd'), s.row(10n, 'ten'), s.row(11n, 'eleven')];
      expect(await s.live()).toEqual(notes(rows));
      const two = await s.capture();
      expect(await s.rowsAt(two)).toEqual(notes(rows));
    });

    test('whoever is in its way, or in whose way it is, goes before it', async () => {
      await s.apply({ puts: [s.row(10n, 'another'), s.row(3n, 'c')], fresh: true });
      await feed.give();
      await expect(feed.end()).rejects.toThrow();
      expect(await s.live()).toEqual(notes([...old(), s.row(10n, 'another'), s.row(3n, 'c')]));
    });

    test('a key that is taken leaves nothing of it', async () => {
      await feed.give(s.row(2n, 'taken'));
      await expect(feed.end()).rejects.toThrow();
      expect(await s.live()).toEqual(notes(old()));
      await s.apply({ puts: [s.row(10n, 'later')], fresh: true });
      expect(await s.live()).toEqual(notes([...old(), s.row(10n, 'later')]));
    });

    test('so do two rows of one key', async () => {
      await feed.give(s.row(10n, 'again'));
      await expect(feed.end()).rejects.toThrow();
      expect(await s.live()).toEqual(notes(old()));
    });

    test('and a source that fails, and an abort', async () => {
      feed.fail();
      await refused();
      expect(await s.live()).toEqual(notes(old()));
      feed = new Feed(s);
      await feed.give(s.row(10n, 'ten'));
      feed.stop.abort();
      await refused();
      expect(await s.live()).toEqual(notes(old()));
    });

    test('a table that somebody else has written to is left to others', async () => {
      await s.fixture.foreign(s.schema, { kind: 'delete', key: [1n] });
      await feed.give(s.row(1n, 'again'));
      await expect(feed.end()).rejects.toThrow();
      expect(await s.live()).toEqual(notes(old()));
      expect(await s.shadow.foreignRows(s.schema.table, 9, feed.stop.signal)).toHaveLength(1);
    });

    test('a table that does not stand where it should is left as it is', async () => {
      const { progress } = s;
      await s.apply({ puts: [s.row(3n, 'c')] });
      const now = s.progress;
      s.progress = progress;
      await expect(feed.end()).rejects.toThrow();
      s.progress = now;
      await refused();
    });

    test('a table retired meanwhile', async () => {
      await s.retire(s.schema);
      await feed.give();
      await expect(feed.end()).rejects.toThrow();
      expect(await s.live()).toEqual([]);
    });
  });
}
