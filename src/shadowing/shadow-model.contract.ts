import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type CaptureNumber, NO_CAPTURE } from '../model/capture.ts';
import { type Cell, cellsOf, fillAbsent, type KeyTuple, packTuple, type Tuple } from '../model/tuple.ts';
import {
  type ForeignWrite,
  ITEMS,
  type ShadowFixture,
  type ShadowOpener,
  ShadowSession,
  type SimpleValue,
  type TableShape,
  never,
  note,
  noteDifference,
  notes,
} from './shadow-session.contract.ts';

type Row = readonly SimpleValue[];

type Step =
  | { readonly kind: 'apply'; readonly batches: readonly (readonly { readonly key: number; readonly row: readonly number[] | null }[])[] }
  | { readonly kind: 'capture' }
  | { readonly kind: 'abort' }
  | {
      readonly kind: 'foreign';
      readonly write: 'insert' | 'update' | 'delete' | 'move' | 'delete-all';
      readonly key: number;
      readonly to: number;
    }
  | { readonly kind: 'undo' }
  | { readonly kind: 'rollback'; readonly to: number }
  | { readonly kind: 'retire'; readonly shape: number }
  | { readonly kind: 'restart' };

/** The shapes a table goes through; keys of one integer, of a text, of both. */
const SHAPES: readonly TableShape[] = [
  ITEMS,
  {
    columns: [
      { name: 'code', type: 'text' },
      { name: 'n', type: 'integer' },
    ],
    key: ['code'],
  },
  {
    columns: [
      { name: 'note', type: 'text' },
      { name: 'part', type: 'integer' },
      { name: 'code', type: 'text' },
    ],
    key: ['code', 'part'],
  },
];

const KEYS: readonly { readonly integer: bigint; readonly text: string }[] = [
  { integer: 0n, text: '' },
  { integer: 1n, text: 'a' },
  { integer: -1n, text: 'A' },
  { integer: (1n << 63n) - 2n, text: 'ä' },
  { integer: -(1n << 63n), text: 'a b' },
  { integer: 9007199254740993n, text: '\u{1f980}' },
];
const VALUES: readonly { readonly integer: bigint | null; readonly text: string | null }[] = [
  { integer: null, text: null },
  { integer: 0n, text: '' },
  { integer: 7n, text: "o'hara" },
  { integer: -(1n << 63n), text: '\\x00' },
];

/**
 * Random applies, captures, aborted numbers, foreign writes, undoing, rollbacks, retired segments and restarts against plain maps:
 * at the end every capture reads as its snapshot, and every pair of captures differs as their snapshots do. `SHADOW_RUNS=500` for a long run.
 */
export function describeShadowModel(open: ShadowOpener): void {
  describe('model', () => {
    test('every capture reads as the snapshot taken with it', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(anyStep, { minLength: 1, maxLength: 25 }), async (steps) => {
          const run = new ModelRun(await ShadowSession.start(await open(), ITEMS));
          try {
            for (const each of steps) await run.take(each);
            await run.compare();
          } finally {
            await run.session.close();
          }
        }),
        { numRuns: Number(process.env['SHADOW_RUNS'] ?? 8) },
      );
    });
  });
}

const anyKey = fc.nat(KEYS.length - 1);
const choices = fc.array(fc.nat(VALUES.length - 1), { minLength: 4, maxLength: 4 });
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('apply' as const),
      batches: fc.array(
        fc.uniqueArray(fc.record({ key: anyKey, row: fc.option(choices) }), { selector: (each) => each.key, maxLength: 5 }),
        {
          maxLength: 2,
        },
      ),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('capture' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('abort' as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('foreign' as const),
      write: fc.constantFrom('insert', 'update', 'delete', 'move', 'delete-all'),
      key: anyKey,
      to: anyKey,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('undo' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('rollback' as const), to: fc.nat(8) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('retire' as const), shape: fc.nat(SHAPES.length - 1) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const) }) },
);

interface Snapshot {
  readonly shape: TableShape;
  readonly segment: number;
  readonly rows: ReadonlyMap<string, Tuple>;
}

class ModelRun {
  readonly session: ShadowSession;
  readonly #fixture: ShadowFixture;
  #shape = ITEMS;
  #segment = 0;
  /** The truth: key to row, both packed. */
  #rows = new Map<string, Tuple>();
  /** What stands in the live table: the truth, and what foreigners made of it. Decides which of their statements can succeed. */
  #standing = new Set<string>();
  readonly #snapshots = new Map<CaptureNumber, Snapshot>();

  constructor(session: ShadowSession) {
    this.session = session;
    this.#fixture = session.fixture;
  }

  async take(next: Step): Promise<void> {
    const { session } = this;
    switch (next.kind) {
      case 'apply':
        return await this.#apply(next.batches);
      case 'capture': {
        const number = await session.capture();
        this.#snapshots.set(number, { shape: this.#shape, segment: this.#segment, rows: new Map(this.#rows) });
        return;
      }
      case 'abort':
        session.skipNumber();
        return;
      case 'foreign':
        return await this.#foreign(next.write, next.key, next.to);
      case 'undo': {
        const rows = await session.shadow.foreignRows(session.schema.table, 100, never);
        await session.shadow.undoForeign(
          session.schema.table,
          rows.map((each) => each.key),
        );
        this.#standing = new Set(this.#rows.keys());
        return;
      }
      case 'rollback':
        return await this.#rollback(next.to);
      case 'retire': {
        this.#shape = SHAPES[next.shape] as TableShape;
        this.#segment++;
        await session.retire(this.#fixture.schema('items', this.#shape.columns, this.#shape.key));
        this.#rows.clear();
        this.#standing.clear();
        return;
      }
      case 'restart':
        return await session.restart();
    }
  }

  async compare(): Promise<void> {
    const { session } = this;
    expect(await session.live()).toEqual(notes([...this.#rows.values()]));
    for (const [number, snapshot] of this.#snapshots) {
      expect(await session.rowsAt(number), `capture ${number}`).toEqual(notes([...snapshot.rows.values()]));
      const keys = [...snapshot.rows.keys()].map((hex) => Buffer.from(hex, 'hex') as unknown as KeyTuple);
      expect(notes(await session.shadow.rowsByKey(session.schema.table, number, keys, never))).toEqual(notes([...snapshot.rows.values()]));
      for (const [later, other] of this.#snapshots)
        if (number < later) expect(await session.diff(number, later), `diff ${number} ${later}`).toEqual(differences(snapshot, other));
    }
  }

  async #apply(batches: (Step & { kind: 'apply' })['batches']): Promise<void> {
    const applied = batches.flatMap((changes) => {
      const deletes: KeyTuple[] = [];
      const patches: Tuple[] = [];
      const puts: Tuple[] = [];
      const inserts: Tuple[] = [];
      for (const change of changes) {
        const id = this.#key(change.key);
        if (change.row === null) {
          deletes.push(id);
          this.#rows.delete(note(id));
          this.#standing.delete(note(id));
        } else {
          const whole = this.#fixture.tuple(this.#values(change.key, change.row));
          const stands = this.#rows.get(note(id));
          // Each way there is to write a row, where it may be taken.
          const partial =
            stands === undefined ? null : withoutColumn(whole, changes.length % 2 === 0 ? 'last' : null, this.session.schema.key);
          if (partial !== null) patches.push(partial);
          else if (stands === undefined && changes.length % 3 > 0) inserts.push(whole);
          else puts.push(whole);
          this.#rows.set(note(id), partial === null ? whole : fillAbsent(partial, stands as Tuple));
          this.#standing.add(note(id));
        }
      }
      return [
        { deletes, patches, puts, fresh: false },
        { deletes: [], puts: inserts, fresh: true },
      ];
    });
    await this.session.applyRows(applied);
  }

  async #foreign(write: (Step & { kind: 'foreign' })['write'], at: number, to: number): Promise<void> {
    const standing = this.#standing;
    const from = this.#key(at);
    const target = this.#key(to);
    const row = this.#values(to, [2, 2, 2, 2]);
    let statement: ForeignWrite;
    if (write === 'insert') {
      if (standing.has(note(target))) return;
      standing.add(note(target));
      statement = { kind: 'insert', row };
    } else if (write === 'delete') {
      standing.delete(note(from));
      statement = { kind: 'delete', key: this.#keyValues(at) };
    } else if (write === 'delete-all') {
      standing.clear();
      statement = { kind: 'delete-all' };
    } else {
      const end = write === 'move' ? to : at;
      if (!standing.has(note(from)) || (end !== at && standing.has(note(target)))) return;
      standing.delete(note(from));
      standing.add(note(this.#key(end)));
      statement = { kind: 'update', key: this.#keyValues(at), row: this.#values(end, [2, 2, 2, 2]) };
    }
    await this.#fixture.foreign(this.session.schema, statement);
  }

  /** What a rollback writes: the images of a capture, in a new generation whose progress lies further back. */
  async #rollback(to: number): Promise<void> {
    const [number, snapshot] = [...this.#snapshots][to] ?? [NO_CAPTURE, null];
    if (snapshot === null || snapshot.segment !== this.#segment) return;
    const { session } = this;
    session.nextGeneration(session.at(0n));
    const gone = [...this.#rows.keys()].filter((hex) => !snapshot.rows.has(hex));
    const puts = await session.page(number, 2);
    await session.apply({ deletes: gone.map((hex) => Buffer.from(hex, 'hex') as unknown as KeyTuple), puts });
    this.#rows = new Map(snapshot.rows);
    for (const hex of gone) this.#standing.delete(hex);
    for (const hex of snapshot.rows.keys()) this.#standing.add(hex);
  }

  #keyValues(index: number): Row {
    return this.#shape.key.map((name) => this.#keyValue(name, index));
  }

  #keyValue(name: string, index: number): SimpleValue {
    const type = this.#shape.columns.find((column) => column.name === name)?.type ?? 'text';
    return (KEYS[index] as (typeof KEYS)[number])[type];
  }

  #key(index: number): KeyTuple {
    return this.#fixture.tuple(this.#keyValues(index)) as KeyTuple;
  }

  #values(index: number, chosen: readonly number[]): Row {
    return this.#shape.columns.map((column, i) =>
      this.#shape.key.includes(column.name)
        ? this.#keyValue(column.name, index)
        : (VALUES[chosen[i] ?? 0] as (typeof VALUES)[number])[column.type],
    );
  }
}

function differences(from: Snapshot, to: Snapshot): string[] {
  const found: string[] = [];
  const put = (hex: string, before: Tuple | null, after: Tuple | null): void => {
    found.push(noteDifference([Buffer.from(hex, 'hex') as unknown as Tuple, before, after]));
  };
  if (from.shape !== to.shape) {
    for (const [hex, packed] of from.rows) put(hex, packed, null);
    for (const [hex, packed] of to.rows) put(hex, null, packed);
    return found.toSorted();
  }
  for (const hex of new Set([...from.rows.keys(), ...to.rows.keys()])) {
    const before = from.rows.get(hex) ?? null;
    const after = to.rows.get(hex) ?? null;
    if (before === null || after === null || note(before) !== note(after)) put(hex, before, after);
  }
  return found.toSorted();
}

/** The row with its last column absent, unless that is of the key. */
function withoutColumn(row: Tuple, which: 'last' | null, key: readonly number[]): Tuple | null {
  const cells: Cell[] = cellsOf(row);
  const last = cells.length - 1;
  if (which === null || key.includes(last)) return null;
  return packTuple(cells.with(last, undefined));
}
