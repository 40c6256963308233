import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockWriter } from '../journal/frame.ts';
import type { CaptureNumber } from '../model/capture.ts';
import type { ChangeBlock, TransactionId } from '../model/change.ts';
import { type Position, maxPosition } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import { type Identity, type Tuple, cellsOf, fillAbsent, identityOf, identityOfRow, packTuple } from '../model/tuple.ts';
import { type Extent, HeldFold } from './held-fold.ts';
import { HeldRows } from './held-rows.ts';
import { type Folded, Pending, fold } from './pending.ts';
import { batchesOf } from './resolve.ts';
import { ITEMS, type ShadowOpener, ShadowSession, never, notes } from './shadow-session.contract.ts';

type Act =
  | { readonly kind: 'put' | 'patch' | 'delete' | 'move'; readonly id: number; readonly to: number; readonly name: string }
  | { readonly kind: 'go'; readonly picks: readonly number[] }
  | { readonly kind: 'forget'; readonly changesMax: number }
  | { readonly kind: 'capture' };

const changes = fc.record({
  kind: fc.constantFrom('put' as const, 'put' as const, 'patch' as const, 'patch' as const, 'delete' as const, 'move' as const),
  id: fc.nat(5),
  to: fc.nat(5),
  name: fc.constantFrom('a', 'b', 'c', 'd'),
});
const acts: fc.Arbitrary<Act[]> = fc.array(
  fc.oneof(
    { weight: 10, arbitrary: changes },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('go' as const), picks: fc.array(fc.nat(5), { minLength: 1, maxLength: 2 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('forget' as const), changesMax: fc.constantFrom(1, 2, 1000) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('capture' as const) }) },
  ),
  { minLength: 30, maxLength: 60, size: 'max' },
);

/** Rows that go ahead of `low`, into a shadow of this kind, and what a process that knows nothing of them makes of the rest. */
export function describeHeld(open: ShadowOpener): void {
  describe('rows that go ahead', () => {
    test('whichever go, and whatever is forgotten of them, captures and the live table are as the primary was', async () => {
      await fc.assert(
        fc.asyncProperty(acts, async (all) => {
          const story = new Story(await ShadowSession.start(await open(), ITEMS));
          try {
            for (const act of all) await story.act(act);
            await story.end();
          } finally {
            await story.session.close();
          }
        }),
        { numRuns: Number(process.env['HELD_RUNS'] ?? 2) },
      );
    });
  });
}

class Story {
  readonly session: ShadowSession;
  readonly #primary = new Map<Identity, Tuple>();
  readonly #journal: { readonly at: Position; readonly write: (writer: BlockWriter) => void }[] = [];
  readonly #captures = new Map<CaptureNumber, string[]>();
  #rows = new HeldRows();
  #held: HeldFold;

  constructor(session: ShadowSession) {
    this.session = session;
    this.#held = this.#begun();
  }

  async act(act: Act): Promise<void> {
    if (act.kind === 'go') {
      await this.#go(act.picks.filter((at) => at < this.#rows.count).map((at) => this.#rows.at(at)));
    } else if (act.kind === 'forget') {
      await this.#afresh(act.changesMax);
      this.#held = this.#begun();
    } else if (act.kind === 'capture') {
      await this.#go({ rowsMax: 1000 });
      this.#captures.set(await this.session.capture(), notes([...this.#primary.values()]));
      this.#held = this.#begun();
    } else {
      const write = this.#change(act);
      if (write === null) return;
      const { low: at } = this.session.next();
      this.#journal.push({ at, write });
      const extent: Extent = { upTo: at, changesMax: 1000, hasRoom: () => true, arrivedMs: () => 0 };
      await this.#held.extend(this.#blocks(this.#held.through), extent);
      if (this.#held.isWhole) await this.#go([]);
    }
  }

  async end(): Promise<void> {
    await this.#go({ rowsMax: 1000 });
    expect(await this.session.live()).toEqual(notes([...this.#primary.values()]));
    for (const [number, rows] of this.#captures) expect(await this.session.rowsAt(number)).toEqual(rows);
  }

  get #element(): Element {
    return { schema: this.session.schema, state: { kind: 'live' }, progress: this.session.progress };
  }

  #begun(): HeldFold {
    this.#rows = new HeldRows();
    return new HeldFold(this.#element, this.#rows, { changed: () => undefined, left: () => undefined });
  }

  async #go(some: Parameters<HeldFold['going']>[0]): Promise<void> {
    const going = this.#held.going(some);
    await this.#apply(going.folded);
    this.#held.went(going, this.session.progress);
  }

  /** As after a restart: nothing is known of what went ahead. */
  async #afresh(changesMax: number): Promise<void> {
    const head = this.#journal.at(-1)?.at ?? this.session.progress.low;
    while (this.session.progress.low < head) {
      const { low } = this.session.progress;
      const pending = new Pending(this.session.schema, low, { changes: changesMax, bytes: Number.POSITIVE_INFINITY });
      await this.#apply(await fold(this.#blocks(low), { after: low, upTo: head }, pending));
    }
  }

  async #apply(folded: Folded): Promise<void> {
    const { session } = this;
    const element = this.#element;
    const { progress } = session;
    const next = { ...progress, low: folded.through, high: maxPosition(progress.high, folded.high ?? folded.through) };
    const pieces = (async function* () {
      yield folded;
    })();
    const { state, schema } = element;
    const rows = (standing: Parameters<typeof batchesOf>[3]) => batchesOf(element, pieces, { chunk: null, touched: null }, standing);
    await session.shadow.apply(
      [{ table: schema.table, rows, from: progress, progress: next, state, savedThrough: session.savedThrough }],
      never,
    );
    session.progress = next;
    const stored = (await session.shadow.elements()).get(schema.table)?.progress;
    expect([stored?.low, stored?.high]).toEqual([next.low, next.high]);
  }

  async *#blocks(after: Position): AsyncGenerator<ChangeBlock> {
    for (const { at, write } of this.#journal.filter((each) => each.at > after)) {
      const writer = new BlockWriter(this.session.schema.table);
      writer.transaction({ id: 1n as TransactionId, at, committedAtMicros: 0n });
      write(writer);
      yield writer.take() as ChangeBlock;
    }
  }

  /** What the primary's log says of it; null: the primary cannot do it. */
  #change({ kind, id, to, name }: Extract<Act, { id: number }>): ((writer: BlockWriter) => void) | null {
    const { session } = this;
    const primary = this.#primary;
    const [key, other] = [session.key(BigInt(id)), session.key(BigInt(to))];
    const stands = primary.get(identityOf(key));
    const part = (of: number): Tuple => {
      const [first, second] = cellsOf(session.row(BigInt(of), name));
      return packTuple([first, second, undefined]);
    };
    if (kind === 'put') {
      const row = session.row(BigInt(id), name, BigInt(this.#journal.length));
      primary.set(identityOf(key), row);
      return (writer) => (stands === undefined ? writer.insert(row) : writer.update(row, null));
    }
    if (stands === undefined) return null;
    if (kind === 'patch') {
      const row = part(id);
      primary.set(identityOf(key), fillAbsent(row, stands));
      return (writer) => writer.update(row, null);
    }
    if (kind === 'move' && primary.has(identityOf(other))) return null;
    primary.delete(identityOf(key));
    if (kind === 'delete') return (writer) => writer.delete(key);
    const row = part(to);
    primary.set(identityOfRow(row, session.schema.key), fillAbsent(row, stands));
    return (writer) => writer.update(row, key);
  }
}
