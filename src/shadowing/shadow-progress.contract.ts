import { describe, expect, test } from 'vitest';
import { NO_CAPTURE } from '../model/capture.ts';
import type { ElementState, Generation } from '../model/progress.ts';
import type { Tuple } from '../model/tuple.ts';
import { ITEMS, type ShadowOpener, never, notes, sessions } from './shadow-session.contract.ts';

/** Where each element stands, which is stored with its rows, and who may move it. */
export function describeProgress(open: ShadowOpener): void {
  describeElements(open);
  describeClaim(open);
}

function describeElements(open: ShadowOpener): void {
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
