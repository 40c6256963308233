import { expect, test, vi } from 'vitest';
import { createDatabase } from '../../../test/postgres.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, keyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import { type ApplyWork, type RowBatch, RowsMissing } from '../../shadowing/shadow.ts';
import { openPostgresShadow } from './shadow.ts';

const never = new AbortController().signal;
const T = 'public.t' as TableName;
const SCHEMA: TableSchema = {
  table: T,
  columns: ['id', 'value'].map((name, index) => ({
    name,
    type: 'integer',
    nullable: false,
    generated: false,
    hidden: false,
    id: index + 1,
  })),
  key: [0],
  keyOrderShared: true,
  shape: 'v1',
  create: [],
  finish: [],
};

function row(...values: readonly number[]): Tuple {
  return packTuple(
    values.map((value) => {
      const cell = Buffer.alloc(4);
      cell.writeInt32BE(value);
      return cell;
    }),
  );
}

const keyOf = (id: number): KeyTuple => keyTuple(row(id, 0), [0]);

function at(clock: bigint, capture: number): Progress {
  const low = position(clock);
  return { generation: 1 as Generation, low, high: low, capture: captureNumber(capture) };
}

interface Bench extends AsyncDisposable {
  readonly database: Awaited<ReturnType<typeof createDatabase>>;
  apply(rows: readonly RowBatch[], from: ApplyWork['from'], to: Progress): Promise<unknown>;
  element(): Promise<Progress | undefined>;
  live(): Promise<unknown>;
  /** As of capture 1. */
  before(): Promise<unknown>;
}

const IDS = Array.from({ length: 40 }, (_, index) => index + 1);

/** 40 rows of value 0 in capture 1, and capture 2 in progress at 3. */
async function bench(failpoint: (name: string) => void): Promise<Bench> {
  const database = await createDatabase();
  const { shadow } = await openPostgresShadow(database.url, { laneWorkMin: 1, failpoint });
  await shadow.claim('the test');
  await shadow.prepare({ tables: [SCHEMA], before: [], after: [] }, at(1n, 1));
  const apply: Bench['apply'] = (rows, from, progress) => {
    const savedThrough = progress.capture === 1 ? NO_CAPTURE : captureNumber(1);
    return shadow.apply([{ table: T, rows, from, progress, state: { kind: 'live' }, savedThrough, distinct: true }], never);
  };
  await apply([{ deletes: [], puts: IDS.map((id) => row(id, 0)), fresh: true }], at(1n, 1), at(2n, 1));
  await apply([], at(2n, 1), at(3n, 2));
  return {
    database,
    apply,
    element: async () => (await shadow.elements()).get(T)?.progress,
    live: () => database.run('SELECT id, value FROM t ORDER BY id'),
    before: async () => {
      const { rows } = await shadow.rows(T, captureNumber(1), null, { rows: 1000, bytes: 1 << 20 }, never);
      return rows.map((each) => each.toString('hex'));
    },
    [Symbol.asyncDispose]: async () => {
      await shadow[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
}

const FIRST: readonly RowBatch[] = [
  {
    deletes: IDS.slice(0, 10).map(keyOf),
    puts: IDS.slice(10, 40).map((id) => row(id, 1)),
    fresh: false,
  },
  { deletes: [], puts: [row(100, 1), row(101, 1)], fresh: true },
];
const AFTER = [...IDS.slice(10), 100, 101].map((id) => ({ id, value: 1 }));
const BEFORE = IDS.map((id) => row(id, 0).toString('hex'));

test('what two connections write is what one would, and earlier captures stay', async () => {
  const named: string[] = [];
  await using s = await bench((name) => named.push(name));
  expect(await s.apply(FIRST, at(3n, 2), at(4n, 2))).toMatchObject({ inserted: 2, updated: 30, deleted: 10, conflicts: [] });
  expect(named).toEqual(['lane-committed']);
  expect(await s.element()).toEqual(at(4n, 2));
  expect(await s.live()).toEqual(AFTER);
  expect(await s.before()).toEqual(BEFORE);
});

test('where only one of them is committed that is known, and what is applied again puts it right', async () => {
  let failing = true;
  await using s = await bench(() => {
    if (failing) throw new Error('between the two');
  });
  await expect(s.apply(FIRST, at(3n, 2), at(4n, 2))).rejects.toThrow('between the two');
  const some = { ...at(4n, 2), low: position(3n) };
  expect(await s.element()).toEqual(some);
  expect(await s.live()).not.toEqual(AFTER);
  expect(await s.live()).not.toEqual(IDS.map((id) => ({ id, value: 0 })));
  expect(await s.before()).toEqual(BEFORE);
  await expect(s.apply(FIRST, at(3n, 2), at(4n, 2))).rejects.toMatchObject({ code: 'SHADOW_MOVED' });
  failing = false;
  await s.apply(FIRST, some, at(4n, 2));
  expect(await s.element()).toEqual(at(4n, 2));
  expect(await s.live()).toEqual(AFTER);
  expect(await s.before()).toEqual(BEFORE);
});

test.each([
  ['the first', 1],
  ['the last', 39],
])('a row that is missing from either undoes both: %s', async (_, missing) => {
  await using s = await bench(() => {});
  await s.apply([{ deletes: [keyOf(missing)], puts: [], fresh: false }], at(3n, 2), at(4n, 2));
  const live = await s.live();
  const patches = IDS.slice(0, 39).map((id) => row(id, 2));
  const refused = await s.apply([{ deletes: [], patches, puts: [], fresh: false }], at(4n, 2), at(5n, 2)).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(RowsMissing);
  expect([...(refused as RowsMissing).keys].map((key) => key.toString('hex'))).toEqual([keyOf(missing).toString('hex')]);
  expect(await s.live()).toEqual(live);
  expect(await s.element()).toEqual(at(4n, 2));
});

test('after a failure it is one transaction for a while', async () => {
  const named: string[] = [];
  let failing = true;
  await using s = await bench((name) => {
    named.push(name);
    if (failing) throw new Error('between the two');
  });
  await expect(s.apply(FIRST, at(3n, 2), at(4n, 2))).rejects.toThrow('between the two');
  failing = false;
  await s.apply(FIRST, { ...at(4n, 2), low: position(3n) }, at(4n, 2));
  await s.apply([{ deletes: [], puts: IDS.slice(10).map((id) => row(id, 2)), fresh: false }], at(4n, 2), at(5n, 2));
  expect(named).toHaveLength(1);
});

test('where the other cannot begin, one does it all', async () => {
  const named: string[] = [];
  await using s = await bench((name) => named.push(name));
  const client = await s.database.client();
  await client.query('BEGIN; LOCK TABLE t IN SHARE MODE');
  const applied = s.apply(FIRST, at(3n, 2), at(4n, 2));
  await vi.waitFor(
    async () => {
      const waiting = await s.database.run(`SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%DELETE FROM%'`);
      expect(waiting).toHaveLength(1);
    },
    { timeout: 8000, interval: 50 },
  );
  await client.query('COMMIT');
  expect(await applied).toMatchObject({ inserted: 2, updated: 30, deleted: 10 });
  expect(named).toEqual([]);
  expect(await s.live()).toEqual(AFTER);
});

test('an index of somebody’s that has them wait for each other costs a moment, and is no obstacle', async () => {
  await using s = await bench(() => {});
  const values = IDS.slice(0, 20).map((id) => row(id, id));
  await s.apply([{ deletes: IDS.slice(20).map(keyOf), puts: values, fresh: false }], at(3n, 2), at(4n, 2));
  await s.database.run('CREATE UNIQUE INDEX ON t (value)');
  // Row 1 takes the value that row 20 leaves.
  const rows = [{ deletes: [keyOf(20)], puts: IDS.slice(0, 19).map((id) => row(id, id === 1 ? 20 : id + 100)), fresh: false }];
  const expected = IDS.slice(0, 19).map((id) => ({ id, value: id === 1 ? 20 : id + 100 }));
  await s.apply(rows, at(4n, 2), at(5n, 2)).catch(async () => {
    expect(await s.element()).toEqual(at(4n, 2));
    await s.apply(rows, at(4n, 2), at(5n, 2));
  });
  expect(await s.live()).toEqual(expected);
});
