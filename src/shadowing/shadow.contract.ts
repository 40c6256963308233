import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Catalog } from '../capture/catalog.ts';
import { type CaptureNumber, NO_CAPTURE, captureNumber } from '../model/capture.ts';
import type { ElementState, Generation } from '../model/progress.ts';
import type { Tuple } from '../model/tuple.ts';
import { describeAhead } from './shadow-ahead.contract.ts';
import { describeApply } from './shadow-apply.contract.ts';
import { describeHeld } from './shadow-held.contract.ts';
import { describeForeignWrites } from './shadow-foreign.contract.ts';
import { describeReshaping } from './shadow-reshaping.contract.ts';
import { describeShadowModel } from './shadow-model.contract.ts';
import { ITEMS, type ShadowOpener, ShadowSession, collectDiff, never, note, noteDifference, notes } from './shadow-session.contract.ts';

export type { ForeignWrite, ShadowFixture, ShadowOpener, SimpleColumn, SimpleValue } from './shadow-session.contract.ts';

/**
 * What every shadow promises (`shadow.ts`), in neutral tuples: integers and texts. A new store is done when this is green.
 * `open` makes an empty shadow, not yet claimed, and knows how another program would write to it.
 */
export function describeShadow(name: string, open: ShadowOpener): void {
  describe(`shadow: ${name}`, () => {
    describeProgress(open);
    describeApply(open);
    describeHeld(open);
    describeAhead(open);
    describeVersions(open);
    describeDiff(open);
    describeSegments(open);
    describeReshaping(open);
    describeRepair(open);
    describeClaim(open);
    describeQuery(open);
    describeForeignWrites(open);
    describeShadowModel(open);
  });
}

function sessions(open: ShadowOpener): () => ShadowSession {
  let session: ShadowSession | null = null;
  beforeEach(async () => {
    session = await ShadowSession.start(await open(), ITEMS);
  });
  afterEach(async () => {
    await session?.close();
    session = null;
  });
  return () => {
    if (session === null) throw new Error('no shadow is open');
    return session;
  };
}

function describeProgress(open: ShadowOpener): void {
  describe('progress', () => {
    const current = sessions(open);

    test('a prepared element is copying, fresh, at the progress it was given; preparing again changes nothing', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.shadow.prepare(s.dataSet, { ...s.progress, low: s.at(99n), high: s.at(99n) });
      const element = (await s.shadow.elements()).get(s.schema.table);
      expect(element?.progress).toEqual(s.progress);
      expect(element?.schema.shape).toBe(s.schema.shape);
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
    });

    test('state and progress are stored with the rows, and survive a restart', async () => {
      const s = current();
      const frontier = s.key(7n);
      const state: ElementState = { kind: 'copying', phase: 'shadow', frontier, initial: true, fresh: false, copiedRows: 1 };
      await s.apply({ puts: [s.row(7n, 'g')] }, { state });
      await s.restart();
      const element = (await s.shadow.elements()).get(s.schema.table);
      expect(element?.progress).toEqual(s.progress);
      expect(element?.state).toEqual(state);
    });

    test('progress below the stored one is refused, and nothing of it is applied', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const behind = { ...s.progress, low: s.at(0n), high: s.at(0n) };
      await expect(s.applyAt(behind, { puts: [s.row(1n, 'b')] })).rejects.toMatchObject({ code: 'FENCED' });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
    });

    test('an apply that was made for another place is refused as a whole, and goes in where it belongs', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const { progress } = s;
      const next = s.next();
      for (const from of [
        { ...progress, low: s.at(1n), high: s.at(1n) },
        { ...progress, high: next.high },
        { ...next },
        { ...progress, generation: (progress.generation + 1) as Generation },
      ]) {
        await expect(s.applyAt(next, { puts: [s.row(2n, 'b')] }, from)).rejects.toMatchObject({ code: 'SHADOW_MOVED', retry: 'later' });
      }
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
      await s.applyAt(next, { puts: [s.row(2n, 'b')] }, progress);
      await expect(s.applyAt(next, { puts: [s.row(3n, 'twice')] }, progress)).rejects.toMatchObject({ code: 'SHADOW_MOVED' });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
    });

    test('what was applied without waiting for the disk is there to be read, and to be flushed', async () => {
      const s = current();
      const work = { table: s.schema.table, state: { kind: 'live' as const }, savedThrough: NO_CAPTURE, unflushed: true };
      const rows = [{ deletes: [], puts: [s.row(1n, 'a')], fresh: false }];
      const progress = s.next();
      await s.shadow.apply([{ ...work, rows, from: s.progress, progress }], never);
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
      await s.shadow.flush();
      await s.restart();
      expect((await s.shadow.elements()).get(s.schema.table)?.progress).toEqual(progress);
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
    });

    test('a new generation may move back', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      s.nextGeneration(s.at(0n));
      await s.apply({ puts: [s.row(1n, 'b')] });
      expect(await s.live()).toEqual(notes([s.row(1n, 'b')]));
    });

    test('rows that fail half way leave nothing', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const before = s.progress;
      const broken = (function* (): Generator<{ deletes: []; puts: Tuple[]; fresh: boolean }> {
        yield { deletes: [], puts: [s.row(2n, 'b')], fresh: false };
        throw new Error('the source broke');
      })();
      await expect(s.applyRows(broken)).rejects.toThrow('the source broke');
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
      expect((await s.shadow.elements()).get(s.schema.table)?.progress).toEqual(before);
    });

    test('an aborted signal stops an apply and leaves nothing', async () => {
      const s = current();
      const abort = new AbortController();
      const rows = (function* (): Generator<{ deletes: []; puts: Tuple[]; fresh: boolean }> {
        yield { deletes: [], puts: [s.row(1n, 'a')], fresh: false };
        abort.abort();
        yield { deletes: [], puts: [s.row(2n, 'b')], fresh: false };
      })();
      await expect(s.applyRows(rows, abort.signal)).rejects.toMatchObject({ name: 'AbortError' });
      expect(await s.live()).toEqual([]);
    });

    test('reports what it inserted, updated and deleted, exactly', async () => {
      const s = current();
      expect(await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c')], fresh: true })).toMatchObject({ inserted: 3 });
      const report = await s.apply({ deletes: [s.key(3n), s.key(9n)], puts: [s.row(2n, 'B'), s.row(4n, 'd')] });
      expect(report).toEqual({ inserted: 1, updated: 1, deleted: 1, conflicts: [] });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'B'), s.row(4n, 'd')]));
    });
  });
}

function describeVersions(open: ShadowOpener): void {
  describe('versions', () => {
    const current = sessions(open);

    test('a capture goes on reading the rows it was cut with', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b')], fresh: true });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A'), s.row(3n, null)], deletes: [s.key(2n)] });
      const two = await s.capture();
      await s.apply({ deletes: [s.key(1n), s.key(3n)], puts: [s.row(2n, 'again')] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
      expect(await s.rowsAt(two)).toEqual(notes([s.row(1n, 'A'), s.row(3n, null)]));
      expect(await s.live()).toEqual(notes([s.row(2n, 'again')]));
    });

    test('the old version is saved once, however often the row changes within a capture', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      for (const name of ['b', 'c', 'd']) await s.apply({ puts: [s.row(1n, name)] });
      await s.apply({ deletes: [s.key(1n)] });
      await s.apply({ puts: [s.row(1n, 'e')] });
      expect(await s.version(1n, one)).toEqual({ since: one, until: s.progress.capture, row: s.row(1n, 'a') });
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: s.progress.capture, until: null, row: s.row(1n, 'e') });
    });

    test('versions of an aborted capture are not kept: nobody can read them', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'b')] });
      s.skipNumber();
      await s.apply({ puts: [s.row(1n, 'c')] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a')]));
      expect(await s.version(1n, s.progress.capture)).toMatchObject({ since: s.progress.capture, row: s.row(1n, 'c') });
    });

    test('a row put as it stands is neither written nor saved', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, null)] });
      const one = await s.capture();
      expect(await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, null)] })).toMatchObject({ inserted: 0, updated: 0, deleted: 0 });
      expect(await s.version(1n, s.progress.capture)).toEqual({ since: one, until: null, row: s.row(1n, 'a') });
    });

    test('rows come in key order, in chunks within the limit, without a gap or a repeat', async () => {
      const s = current();
      const rows = Array.from({ length: 57 }, (_, i) => s.row(BigInt(i - 20), `row ${i}`));
      await s.apply({ puts: rows.toReversed(), fresh: true });
      const one = await s.capture();
      await s.apply({ deletes: [s.key(0n), s.key(36n)], puts: [s.row(5n, 'changed'), s.row(100n, 'new')] });
      for (const size of [1, 7, 57, 100]) expect((await s.page(one, size)).map(note)).toEqual(rows.map(note));
      const chunk = await s.shadow.rows(s.schema.table, one, null, { rows: 1000, bytes: 1 }, never);
      expect(chunk.rows).toHaveLength(1);
      expect(chunk.through).toEqual(s.key(-20n));
    });

    test('rows are found by key as of a capture', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')], deletes: [s.key(2n)] });
      const keys = [s.key(1n), s.key(2n), s.key(9n)];
      expect(notes(await s.shadow.rowsByKey(s.schema.table, one, keys, never))).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
      expect(notes(await s.shadow.rowsByKey(s.schema.table, s.progress.capture, keys, never))).toEqual(notes([s.row(1n, 'A')]));
    });

    test('a table left out of a capture cannot be read there, and the reason is named', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.capture();
      await s.apply({ puts: [s.row(1n, 'b')] });
      const two = await s.capture({ absent: 'halted: the disk was full' });
      expect((await s.shadow.elements()).get(s.schema.table)?.progress.capture).toBe(two + 1);
      await s.apply({ puts: [s.row(1n, 'c')] });
      const three = await s.capture();
      await expect(s.rowsAt(two)).rejects.toMatchObject({
        code: 'CAPTURE_ABSENT_TABLE',
        message: expect.stringContaining('disk was full'),
      });
      expect(await s.rowsAt(three)).toEqual(notes([s.row(1n, 'c')]));
    });
  });
}

function describeDiff(open: ShadowOpener): void {
  describe('diff', () => {
    const current = sessions(open);

    test('names what differs between any two captures, by its images', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b'), s.row(3n, 'c'), s.row(4n, 'd')], fresh: true });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A'), s.row(5n, 'e')], deletes: [s.key(2n)] });
      const two = await s.capture();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(6n, 'f'), s.row(3n, null)] });
      const three = await s.capture();
      await s.apply({ deletes: [s.key(6n)] });
      expect(await s.diff(one, two)).toEqual(
        [
          [s.key(1n), s.row(1n, 'a'), s.row(1n, 'A')],
          [s.key(2n), s.row(2n, 'b'), null],
          [s.key(5n), null, s.row(5n, 'e')],
        ].map(noteDifference),
      );
      expect(await s.diff(one, three)).toEqual(
        [
          [s.key(2n), s.row(2n, 'b'), null],
          [s.key(3n), s.row(3n, 'c'), s.row(3n, null)],
          [s.key(5n), null, s.row(5n, 'e')],
          [s.key(6n), null, s.row(6n, 'f')],
        ].map(noteDifference),
      );
    });

    test('a table that reads otherwise is among those that changed, whatever it was that changed it', async () => {
      const s = current();
      const changed = async (from: CaptureNumber, to: CaptureNumber) => [...(await s.shadow.changedTables([s.schema.table], from, to))];
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')] });
      const two = await s.capture();
      expect(await changed(one, two)).toEqual([s.schema.table]);
      const three = await s.capture();
      await s.retire(s.schema);
      const four = await s.capture();
      expect(await changed(three, four)).toEqual([s.schema.table]);
      await s.shadow.replaceVersion(s.schema.table, s.key(9n), { since: four, until: null }, s.row(9n, 'repaired'));
      expect(await changed(three, four)).toEqual([s.schema.table]);
    });

    test('a row inserted and deleted between two captures is no difference', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(2n, 'b')] });
      await s.capture();
      await s.apply({ deletes: [s.key(2n)] });
      const three = await s.capture();
      expect(await s.diff(one, three)).toEqual([]);
    });
  });
}

function describeSegments(open: ShadowOpener): void {
  describe('segments', () => {
    const current = sessions(open);

    test('a retired table is read by the captures it was in, and a new one stands in its place', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')] });
      const two = await s.capture();
      await s.apply({ puts: [s.row(1n, 'lost'), s.row(3n, 'lost')] });
      await s.retire(s.schema);
      expect(await s.live()).toEqual([]);
      await s.apply({ puts: [s.row(2n, 'B')] });
      const three = await s.capture();
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
      expect(await s.rowsAt(two)).toEqual(notes([s.row(1n, 'A'), s.row(2n, 'b')]));
      expect(await s.rowsAt(three)).toEqual(notes([s.row(2n, 'B')]));
      expect(await s.diff(two, three)).toEqual(
        [
          [s.key(1n), s.row(1n, 'A'), null],
          [s.key(2n), s.row(2n, 'b'), s.row(2n, 'B')],
        ].map(noteDifference),
      );
    });

    test('across a change of shape every row of one side is a deletion, of the other an insertion', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const wider = s.fixture.schema('items', [...ITEMS.columns, { name: 'note', type: 'text' }], ITEMS.key);
      await s.retire(wider);
      const row = s.fixture.tuple([1n, 'a', 0n, 'new']);
      await s.apply({ puts: [row] });
      const two = await s.capture();
      expect((await s.shadow.schemaAt(s.schema.table, one))?.columns).toHaveLength(3);
      expect((await s.shadow.schemaAt(s.schema.table, two))?.columns).toHaveLength(4);
      const found = await collectDiff(s.shadow, s.schema.table, one, two);
      const expected = [
        [s.key(1n), s.row(1n, 'a'), null],
        [s.key(1n), null, row],
      ];
      expect(found.toSorted()).toEqual(expected.map(noteDifference).toSorted());
    });

    test('a table that was dropped has no element, and its captures stay', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      await s.retire(null);
      expect([...(await s.shadow.elements()).keys()]).toEqual([]);
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'a')]));
      expect(await s.shadow.schemaAt(s.schema.table, s.progress.capture)).toBeNull();
      await expect(s.rowsAt(s.progress.capture)).rejects.toMatchObject({ code: 'CAPTURE_ABSENT_TABLE' });
    });

    test('a table retired before any capture leaves nothing behind', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.retire(s.schema);
      await s.apply({ puts: [s.row(2n, 'b')], fresh: true });
      const one = await s.capture();
      expect(await s.rowsAt(one)).toEqual(notes([s.row(2n, 'b')]));
    });

    test('a table that begins later is absent before', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const later = s.fixture.schema('later', ITEMS.columns, ITEMS.key);
      await s.shadow.prepare({ ...s.dataSet, tables: [s.schema, later] }, s.progress);
      await expect(s.shadow.rows(later.table, one, null, { rows: 1, bytes: 1 }, never)).rejects.toMatchObject({
        code: 'CAPTURE_ABSENT_TABLE',
      });
      expect((await s.shadow.rows(later.table, s.progress.capture, null, { rows: 1, bytes: 1 }, never)).rows).toEqual([]);
    });
  });
}

function describeRepair(open: ShadowOpener): void {
  describe('repair in place', () => {
    const current = sessions(open);

    test('replaces, removes and puts back a live version without saving one', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'wrong'), s.row(2n, 'b')] });
      const one = await s.capture();
      const { table } = s.schema;
      await s.shadow.replaceVersion(table, s.key(1n), { since: one, until: null }, s.row(1n, 'right'));
      await s.shadow.replaceVersion(table, s.key(2n), { since: one, until: null }, null);
      await s.shadow.replaceVersion(table, s.key(3n), { since: one, until: null }, s.row(3n, 'lost'));
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'right'), s.row(3n, 'lost')]));
      expect(await s.live()).toEqual(notes([s.row(1n, 'right'), s.row(3n, 'lost')]));
      expect(await s.version(1n, s.progress.capture)).toMatchObject({ since: one, until: null });
      await s.apply({ deletes: [s.key(3n)] });
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'right'), s.row(3n, 'lost')]));
    });

    test('replaces a saved version for every capture that shares it', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'wrong'), s.row(2n, 'b')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(2n, 'c')] });
      const two = await s.capture();
      await s.apply({ puts: [s.row(1n, 'now')] });
      const version = await s.version(1n, two);
      await s.shadow.replaceVersion(s.schema.table, s.key(1n), { since: one, until: version?.until ?? null }, s.row(1n, 'right'));
      await s.shadow.replaceVersion(s.schema.table, s.key(7n), { since: one, until: two }, s.row(7n, 'lost'));
      expect(await s.rowsAt(one)).toEqual(notes([s.row(1n, 'right'), s.row(2n, 'b'), s.row(7n, 'lost')]));
      expect(await s.rowsAt(two)).toEqual(notes([s.row(1n, 'right'), s.row(2n, 'c')]));
      expect(await s.live()).toEqual(notes([s.row(1n, 'now'), s.row(2n, 'c')]));
      expect(await s.diff(one, two)).toEqual(
        [
          [s.key(2n), s.row(2n, 'b'), s.row(2n, 'c')],
          [s.key(7n), s.row(7n, 'lost'), null],
        ].map(noteDifference),
      );
    });

    test('a live version put back where it was missing shows in the diff of the capture that began it', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const two = await s.capture();
      await s.shadow.replaceVersion(s.schema.table, s.key(5n), { since: two, until: null }, s.row(5n, 'found'));
      expect(await s.diff(one, two)).toEqual([[s.key(5n), null, s.row(5n, 'found')]].map(noteDifference));
    });
  });
}

function describeClaim(open: ShadowOpener): void {
  describe('claim', () => {
    const current = sessions(open);

    test('a second instance is kept out, and the holder named; reading needs no claim', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      const other = await s.fixture.another();
      try {
        await expect(other.shadow.claim('the second')).rejects.toMatchObject({
          code: 'ALREADY_RUNNING',
          message: expect.stringContaining('the first'),
        });
        const chunk = await other.shadow.rows(s.schema.table, one, null, { rows: 10, bytes: 1000 }, never);
        expect(notes(chunk.rows)).toEqual(notes([s.row(1n, 'a')]));
      } finally {
        await other.shadow[Symbol.asyncDispose]();
      }
    });

    test('after the holder has gone the next one gets it', async () => {
      const s = current();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.restart();
      await s.apply({ puts: [s.row(2n, 'b')] });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a'), s.row(2n, 'b')]));
    });

    test('without a claim nothing is written', async () => {
      const s = current();
      const other = await s.fixture.another();
      try {
        const works = [
          {
            table: s.schema.table,
            rows: [],
            from: s.progress,
            progress: s.progress,
            state: { kind: 'live' as const },
            savedThrough: NO_CAPTURE,
          },
        ];
        await expect(other.shadow.apply(works, never)).rejects.toMatchObject({ code: 'FENCED' });
      } finally {
        await other.shadow[Symbol.asyncDispose]();
      }
    });

    test('a table that is not ours is in the way: named, and nothing made', async () => {
      const s = current();
      const schema = s.fixture.schema('occupied', ITEMS.columns, ITEMS.key);
      await s.fixture.occupy(schema);
      await expect(s.shadow.prepare({ ...s.dataSet, tables: [s.schema, schema] }, s.progress)).rejects.toMatchObject({
        code: 'SHADOW_OCCUPIED',
        message: expect.stringContaining('occupied'),
      });
      expect([...(await s.shadow.elements()).keys()]).toEqual([s.schema.table]);
      const findings = await s.shadow.check([schema], never);
      expect(findings.some((finding) => finding.severity === 'error' && finding.subject.includes('occupied'))).toBe(true);
    });
  });
}

async function collectRows(catalog: Catalog, s: ShadowSession, at: CaptureNumber, sql: string): Promise<unknown[][]> {
  expect(await catalog.exists()).toBe(true);
  const rows: unknown[][] = [];
  for await (const slice of s.shadow.query(at, sql, never)) for (const row of slice.rows) rows.push([...row]);
  return rows;
}

function describeQuery(open: ShadowOpener): void {
  describe('query', () => {
    const current = sessions(open);

    test('every table stands as of the capture', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(1n, 'a'), s.row(2n, 'b')] });
      const one = await s.capture();
      await s.apply({ puts: [s.row(1n, 'A')], deletes: [s.key(2n)] });
      const two = await s.capture();
      await s.fixture.foreign(s.schema, { kind: 'update', key: [1n], row: [1n, 'foreign', 0n] });
      await s.fixture.foreign(s.schema, { kind: 'insert', row: [8n, 'foreign', 0n] });
      const sql = `SELECT id, name FROM ${s.schema.table} ORDER BY id`;
      expect(await collectRows(s.catalog, s, one, sql)).toEqual([
        [1, 'a'],
        [2, 'b'],
      ]);
      expect(await collectRows(s.catalog, s, two, sql)).toEqual([[1, 'A']]);
    });

    test('integers beyond 2^53 are strings; the columns are named even of no rows', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(9007199254740993n, 'big')] });
      const one = await s.capture();
      expect(await collectRows(s.catalog, s, one, `SELECT * FROM ${s.schema.table}`)).toEqual([['9007199254740993', 'big', 0]]);
      const slices = await Array.fromAsync(s.shadow.query(one, `SELECT id, name FROM ${s.schema.table} WHERE id = 5`, never));
      expect(slices[0]?.columns).toEqual(['id', 'name']);
    });

    test('writes and wrong statements fail with the engine’s words; a missing capture is named', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(1n, 'a')] });
      const one = await s.capture();
      for (const sql of [`DELETE FROM ${s.schema.table}`, 'SELECT nonsense FROM nowhere', 'SELECT 1; SELECT 2'])
        await expect(collectRows(s.catalog, s, one, sql)).rejects.toMatchObject({ code: 'QUERY_FAILED' });
      await expect(collectRows(s.catalog, s, captureNumber(77), 'SELECT 1')).rejects.toMatchObject({ code: 'CAPTURE_MISSING' });
      expect(await s.live()).toEqual(notes([s.row(1n, 'a')]));
    });

    test('a table left out fails as soon as a statement touches it, and only then', async ({ skip }) => {
      const s = current();
      if (!s.fixture.speaksSql) skip();
      await s.apply({ puts: [s.row(1n, 'a')] });
      await s.capture();
      const two = await s.capture({ absent: 'paused' });
      expect(await collectRows(s.catalog, s, two, 'SELECT 1 + 1')).toEqual([[2]]);
      await expect(collectRows(s.catalog, s, two, `SELECT count(*) FROM ${s.schema.table}`)).rejects.toMatchObject({
        code: 'CAPTURE_ABSENT_TABLE',
        message: expect.stringContaining('paused'),
      });
    });
  });
}
