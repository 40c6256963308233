import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Client } from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import type { Catalog } from '../../capture/catalog.ts';
import { captureNumber, NO_CAPTURE } from '../../model/capture.ts';
import { position } from '../../model/position.ts';
import type { Generation, Progress } from '../../model/progress.ts';
import type { TableName, TableSchema } from '../../model/schema.ts';
import { type KeyTuple, packTuple, type Tuple } from '../../model/tuple.ts';
import type { ApplyReport, RowBatch, Shadow } from '../../shadowing/shadow.ts';
import { groundOf } from '../../shadowing/shadow-session.contract.ts';
import { openPostgresShadow } from './shadow.ts';

const never = new AbortController().signal;
const TABLE = 'public.stock' as TableName;
const SCHEMA: TableSchema = {
  table: TABLE,
  columns: [
    { name: 'id', type: 'integer', nullable: false, generated: false, hidden: false },
    { name: 'amount', type: 'integer', nullable: true, generated: false, hidden: false },
  ],
  key: [0],
  keyOrderShared: true,
  shape: 'stock',
  create: [],
  finish: [],
};

function int4(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}
const row = (id: number, amount: number): Tuple => packTuple([int4(id), int4(amount)]);
const key = (id: number): KeyTuple => packTuple([int4(id)]) as KeyTuple;

/** Writes to one table as the engine does, and remembers what every capture must hold. */
class Writer {
  readonly shadow: Shadow;
  readonly catalog: Catalog;
  readonly model = new Map<number, number>();
  readonly cuts: Map<number, number>[] = [];
  #clock = 1n;
  #capture = 1;

  constructor(opened: { shadow: Shadow; catalog: Catalog }) {
    this.shadow = opened.shadow;
    this.catalog = opened.catalog;
  }

  get progress(): Progress {
    const low = position(this.#clock);
    return { generation: 1 as Generation, low, high: low, capture: captureNumber(this.#capture) };
  }

  async start(): Promise<void> {
    await this.shadow.claim('the writer');
    await this.shadow.prepare({ tables: [SCHEMA], before: [], after: [] }, this.progress);
  }

  async apply(puts: ReadonlyMap<number, number>, deletes: readonly number[] = []): Promise<ApplyReport> {
    this.#clock++;
    const batch = { deletes: deletes.map(key), puts: [...puts].map(([id, amount]) => row(id, amount)), fresh: false };
    const savedThrough = this.#capture === 1 ? NO_CAPTURE : captureNumber(this.#capture - 1);
    const from = await groundOf(this.shadow, TABLE);
    const works = [{ table: TABLE, rows: [batch], from, progress: this.progress, state: { kind: 'live' as const }, savedThrough }];
    const report = await this.shadow.apply(works, never);
    for (const id of deletes) this.model.delete(id);
    for (const [id, amount] of puts) this.model.set(id, amount);
    return report;
  }

  cut(): void {
    this.cuts.push(new Map(this.model));
    this.#capture++;
  }

  async rowsAt(capture: number): Promise<Map<number, number>> {
    const { rows } = await this.shadow.rows(TABLE, captureNumber(capture), null, { rows: 10_000, bytes: 1 << 20 }, never);
    return new Map(rows.map((each) => [each.readInt32BE(6), each.readInt32BE(14)]));
  }
}

const random = (below: number): number => Math.floor(Math.random() * below);

let database: TestDatabase;
let writer: Writer;
let other: Client;
beforeEach(async () => {
  database = await createDatabase();
  writer = new Writer(await openPostgresShadow(database.url));
  await writer.start();
  other = await database.client();
});
afterEach(async () => {
  await writer.shadow[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

async function sessions(condition: string): Promise<number> {
  return (await database.run(`SELECT FROM pg_stat_activity WHERE datname = current_database() AND ${condition}`)).length;
}

const running = (): Promise<number> => sessions(`wait_event = 'PgSleep'`);

const ordered = (rows: ReadonlyMap<number, number>): [number, number][] => [...rows].toSorted(([a], [b]) => a - b);

describe('the guard', () => {
  test.each([{}, { majorVersion: 17 }])(
    'foreign writers beside an apply never reach a capture, and never see an error (%o)',
    async (given) => {
      await writer.shadow[Symbol.asyncDispose]();
      writer = new Writer(await openPostgresShadow(database.url, given));
      await writer.start();
      await writer.apply(new Map(Array.from({ length: 40 }, (_, id) => [id, 0])));
      const stop = new AbortController();
      const foreigner = async (client: Client): Promise<number> => {
        let writes = 0;
        for (; !stop.signal.aborted; writes++) {
          const id = random(50);
          const kind = random(3);
          if (kind === 0) await client.query('UPDATE public.stock SET amount = -1 WHERE id = $1', [id]);
          else if (kind === 1) await client.query('DELETE FROM public.stock WHERE id = $1', [id]);
          else await client.query('INSERT INTO public.stock (id, amount) VALUES ($1, -2) ON CONFLICT DO NOTHING', [id]);
        }
        return writes;
      };
      const foreigners = Promise.all([foreigner(other), foreigner(await database.client())]);
      let conflicts = 0;
      for (let round = 1; round <= 60; round++) {
        const ids = new Set(Array.from({ length: 12 }, () => random(50)));
        const [first = 0, second = 0, ...rest] = ids;
        conflicts += (await writer.apply(new Map(rest.map((id) => [id, round])), [first, second])).conflicts.length;
        if (round % 6 === 0) writer.cut();
      }
      stop.abort();
      const writes = (await foreigners).reduce((sum, each) => sum + each, 0);
      expect(writes).toBeGreaterThan(100);
      expect(conflicts).toBeGreaterThan(0);
      for (const [index, expected] of writer.cuts.entries()) expect(ordered(await writer.rowsAt(index + 1))).toEqual(ordered(expected));
      const found = await writer.shadow.foreignRows(TABLE, 1000, never);
      await writer.shadow.undoForeign(
        TABLE,
        found.map((each) => each.key),
      );
      const live = await database.run('SELECT id, amount FROM public.stock ORDER BY id');
      expect(live.map((each) => [each['id'], each['amount']])).toEqual(ordered(writer.model));
      // Each capture's delta is found from the versions alone.
      for (let from = 1; from < writer.cuts.length; from++) {
        const before = new Map(writer.cuts[from - 1]);
        for await (const slice of writer.shadow.diff(TABLE, captureNumber(from), captureNumber(from + 1), never)) {
          for (const { key: at, after } of slice) {
            if (after === null) before.delete(at.readInt32BE(6));
            else before.set(at.readInt32BE(6), after.readInt32BE(14));
          }
        }
        expect(ordered(before)).toEqual(ordered(writer.cuts[from] ?? new Map()));
      }
    },
  );

  test('an ordinary role that may only write to the table is guarded too, and needs no right of ours', async () => {
    await writer.apply(new Map([[1, 10]]));
    writer.cut();
    const role = `${database.name}_app`;
    await database.run(`CREATE ROLE ${role}; GRANT INSERT, UPDATE, DELETE, SELECT ON public.stock TO ${role}`);
    try {
      await other.query(`SET ROLE ${role}; SET search_path = ''`);
      await other.query('UPDATE public.stock SET amount = 11; INSERT INTO public.stock (id) VALUES (2); COMMIT');
      expect(ordered(await writer.rowsAt(2))).toEqual([[1, 10]]);
    } finally {
      await other.query('RESET ROLE');
      await database.run(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  test('a row that claims to be ours is stamped all the same', async () => {
    await writer.apply(new Map([[1, 10]]));
    await other.query('INSERT INTO public.stock (id, amount, _foreshadow_since) VALUES (2, 20, 1)');
    await other.query('UPDATE public.stock SET amount = 11, _foreshadow_since = 1 WHERE id = 1');
    await other.query('UPDATE public.stock SET _foreshadow_since = 1 WHERE id = 1');
    expect(ordered(await writer.rowsAt(1))).toEqual([[1, 10]]);
    expect(await writer.shadow.foreignRows(TABLE, 10, never)).toHaveLength(2);
  });

  test('TRUNCATE is refused with a hint', async () => {
    await writer.apply(new Map([[1, 10]]));
    await expect(other.query('TRUNCATE public.stock')).rejects.toMatchObject({ hint: expect.stringContaining('primary') });
    expect(ordered(await writer.rowsAt(1))).toEqual([[1, 10]]);
  });
});

describe('the claim', () => {
  test('is free as soon as its process was killed', async () => {
    await writer.shadow[Symbol.asyncDispose]();
    const holder = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { openPostgresShadow } from ${JSON.stringify(new URL('shadow.ts', import.meta.url).href)};
         const { shadow } = await openPostgresShadow(process.env.SHADOW);
         await shadow.claim('the one that dies');
         process.stdout.write('claimed');
         setInterval(() => undefined, 1000);`,
      ],
      { env: { ...process.env, SHADOW: database.url }, stdio: ['ignore', 'pipe', 'inherit'] },
    );
    await once(holder.stdout, 'data');
    writer = new Writer(await openPostgresShadow(database.url));
    await expect(writer.shadow.claim('the next')).rejects.toMatchObject({ message: expect.stringContaining('the one that dies') });
    holder.kill('SIGKILL');
    await once(holder, 'exit');
    await writer.shadow.claim('the next');
    await writer.apply(new Map([[1, 1]]));
  });

  test('lost with its connection, it fences every later write, and the next holder writes', async () => {
    await writer.apply(new Map([[1, 1]]));
    await database.run(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
      WHERE application_name = 'foreshadow claim' AND datname = current_database()`);
    const next = new Writer(await openPostgresShadow(database.url));
    try {
      await next.shadow.claim('the next');
      await expect(writer.apply(new Map([[2, 2]]))).rejects.toMatchObject({ code: 'FENCED' });
      await expect(writer.catalog.write('parked', 1)).rejects.toMatchObject({ code: 'FENCED' });
      expect(ordered(await writer.rowsAt(1))).toEqual([[1, 1]]);
    } finally {
      await next.shadow[Symbol.asyncDispose]();
    }
  });

  test('lost with its connection, it is not had by the next before what was being written has come to its end', async () => {
    await writer.apply(new Map([[1, 1]]));
    const writing = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    async function* rows(): AsyncGenerator<RowBatch> {
      yield { deletes: [], puts: [row(2, 2)], fresh: false };
      writing.resolve();
      await ended.promise;
    }
    const low = position(9n);
    const progress = { ...writer.progress, low, high: low };
    const from = await groundOf(writer.shadow, TABLE);
    const works = [{ table: TABLE, rows: rows(), from, progress, state: { kind: 'live' as const }, savedThrough: NO_CAPTURE }];
    const written = writer.shadow.apply(works, never);
    await writing.promise;
    await database.run(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
      WHERE application_name = 'foreshadow claim' AND datname = current_database()`);
    const next = new Writer(await openPostgresShadow(database.url));
    let claimed = false;
    try {
      const claiming = next.shadow.claim('the next').then(() => (claimed = true));
      await expect.poll(async () => claimed || (await sessions(`wait_event_type = 'Lock'`)) > 0).toBe(true);
      expect(claimed).toBe(false);
      ended.resolve();
      await Promise.all([claiming, written]);
    } finally {
      ended.resolve();
      await next.shadow[Symbol.asyncDispose]();
    }
  });
});

describe('a shadow that was never prepared', () => {
  test('says so, whatever is asked of it', async () => {
    await using empty = await createDatabase();
    const { shadow } = await openPostgresShadow(empty.url);
    try {
      const one = captureNumber(1);
      const expected = { code: 'TABLE_MISSING', message: expect.stringContaining('never prepared') };
      await expect(shadow.rows(TABLE, one, null, { rows: 1, bytes: 1 }, never)).rejects.toMatchObject(expected);
      await expect(Array.fromAsync(shadow.query(one, 'SELECT 1', never))).rejects.toMatchObject(expected);
      await expect(shadow.schemaAt(TABLE, one)).rejects.toMatchObject(expected);
      expect(await empty.run(`SELECT FROM pg_namespace WHERE nspname = '_foreshadow'`)).toEqual([]);
    } finally {
      await shadow[Symbol.asyncDispose]();
    }
  });
});

describe('a query', () => {
  test('neither waits for an apply nor shows it, and an abort stops it on the server', async () => {
    await writer.apply(new Map([[1, 10]]));
    writer.cut();
    await writer.apply(new Map([[1, 11]]));
    const slices = writer.shadow.query(captureNumber(2), 'SELECT g, (SELECT amount FROM stock) FROM generate_series(1, 2000) g', never);
    const iterator = slices[Symbol.asyncIterator]();
    const first = await iterator.next();
    expect(first.value?.rows[0]).toEqual([1, 11]);
    await writer.apply(new Map([[1, 12]]));
    writer.cut();
    const second = await iterator.next();
    expect(second.value?.rows[0]?.[1]).toBe(11);
    await iterator.return?.();
    const stop = new AbortController();
    const sleeping = (async () => {
      for await (const slice of writer.shadow.query(captureNumber(2), 'SELECT pg_sleep(60)', stop.signal)) expect(slice.rows).toEqual([]);
    })();
    await expect.poll(running).toBe(1);
    stop.abort();
    await expect(sleeping).rejects.toMatchObject({ name: 'AbortError' });
    await expect.poll(running).toBe(0);
  });
});
