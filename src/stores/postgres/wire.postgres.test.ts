import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { cellsOf, packTuple, type Tuple } from '../../model/tuple.ts';
import { codeOf, connect, streamOf } from './connection.ts';
import { Wire } from './wire.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database[Symbol.asyncDispose]());

const open = (): Promise<Wire> => Wire.open(database.url, { side: 'primary', purpose: 'test' });

const int4 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};

async function all<Item>(source: AsyncIterable<readonly Item[]>): Promise<Item[]> {
  const items: Item[] = [];
  for await (const batch of source) items.push(...batch);
  return items;
}

describe('wire', () => {
  test('simple queries answer in order, pipelined, and an error fails its own query only', async () => {
    await using wire = await open();
    const one = wire.query(`SELECT 1 AS a, NULL AS b; SELECT 'x' AS c`);
    const bad = wire.query('SELECT 1/0');
    const two = wire.query('SELECT 2');
    expect(await one).toEqual([
      { tag: 'SELECT 1', columns: ['a', 'b'], rows: [['1', null]] },
      { tag: 'SELECT 1', columns: ['c'], rows: [['x']] },
    ]);
    await expect(bad).rejects.toMatchObject({ code: '22012' });
    expect((await two)[0]?.rows).toEqual([['2']]);
  });

  test('rows copied out and in are the same bytes, pipelined with the statements around them', async () => {
    await using wire = await open();
    await wire.query(`CREATE TABLE public.source AS
      SELECT i AS id, repeat('ä', i % 400) AS text, CASE WHEN i % 3 = 0 THEN i::numeric / 7 END AS amount FROM generate_series(1, 20000) i`);
    const rows = await all(wire.copyRows('COPY (SELECT * FROM public.source ORDER BY id) TO STDOUT (FORMAT binary)'));
    expect(rows).toHaveLength(20_000);
    void wire.query('BEGIN; CREATE TABLE public.target (LIKE public.source)');
    const copied = wire.copyRowsIn('COPY public.target FROM STDIN (FORMAT binary)', 'rows', rows);
    const counted = wire.query('COMMIT; SELECT count(*) FROM (TABLE public.source EXCEPT TABLE public.target) d');
    expect(await copied).toBe(20_000);
    expect((await counted)[1]?.rows).toEqual([['0']]);
    const again = await all(wire.select('SELECT * FROM public.target ORDER BY id', []));
    expect(Buffer.concat(again).equals(Buffer.concat(rows))).toBe(true);
  });

  test('a row larger than any buffer goes through in both directions', async () => {
    await using wire = await open();
    await wire.query('CREATE TABLE public.large (id int, bytes bytea)');
    const bytes = Buffer.alloc(5_000_000, 7);
    const row = packTuple([int4(1), bytes]);
    await wire.copyRowsIn('COPY public.large FROM STDIN (FORMAT binary)', 'rows', [row, row]);
    const found = await all(wire.copyRows('COPY public.large TO STDOUT (FORMAT binary)'));
    expect(found.map((each) => each.equals(row))).toEqual([true, true]);
  });

  test('text copy passes chunks cut anywhere', async () => {
    await using wire = await open();
    await wire.query('CREATE TABLE public.words (id int, word text)');
    const text = Buffer.from(Array.from({ length: 5000 }, (_, i) => `${i}\tword ${i}\n`).join(''));
    const chunks = (async function* () {
      for (let at = 0; at < text.length; at += 777) yield text.subarray(at, at + 777);
    })();
    expect(await wire.copyIn('COPY public.words FROM STDIN', chunks)).toBe(5000);
    expect(Buffer.concat(await all(wire.copyOut('COPY public.words TO STDOUT'))).equals(text)).toBe(true);
  });

  test('binary parameters are exact', async () => {
    await using wire = await open();
    const [row] = await all(
      wire.select('SELECT $1::int4 + 1, $2::text, $3::int4', [
        { type: 23, value: int4(41) },
        { type: 25, value: Buffer.from(`it's`) },
        { type: 23, value: null },
      ]),
    );
    expect(cellsOf(row as Tuple)).toEqual([int4(42), Buffer.from(`it's`), null]);
  });

  test('a failing copy leaves the connection usable', async () => {
    await using wire = await open();
    await expect(wire.copyIn('COPY public.nowhere FROM STDIN', [Buffer.from('1\n')])).rejects.toMatchObject({ code: '42P01' });
    await wire.query('CREATE TABLE public.numbers (n int)');
    await expect(wire.copyIn('COPY public.numbers FROM STDIN', [Buffer.from('one\n')])).rejects.toMatchObject({ code: '22P02' });
    const broken = (function* () {
      yield Buffer.from('1\n');
      throw new Error('the source broke');
    })();
    await expect(wire.copyIn('COPY public.numbers FROM STDIN', broken)).rejects.toThrow('the source broke');
    expect((await wire.query('SELECT count(*) FROM public.numbers'))[0]?.rows).toEqual([['0']]);
  });

  test('leaving a loop early cancels the statement; aborting does too', async () => {
    await using wire = await open();
    let seen = 0;
    for await (const batch of wire.select('SELECT generate_series(1, 100000000), repeat($1, 1000)', [
      { type: 25, value: Buffer.from('x') },
    ])) {
      seen += batch.length;
      if (seen > 5000) break;
    }
    expect(seen).toBeGreaterThan(5000);
    for (let i = 0; i < 20; i++) {
      const stop = new AbortController();
      const sleeping = wire.query('SELECT pg_sleep(600)', stop.signal);
      if (i % 2 === 0) stop.abort(new Error('enough'));
      else setTimeout(() => stop.abort(new Error('enough')), 2);
      await expect(sleeping).rejects.toThrow('enough');
    }
    expect((await wire.query('SELECT 1'))[0]?.rows).toEqual([['1']]);
  });

  test('a cancel hits no neighbour of the statement that it was meant for', async () => {
    await using wire = await open();
    for (let i = 0; i < 40; i++) {
      const stop = new AbortController();
      const asked = [wire.query('SELECT pg_sleep(0.002)', stop.signal), wire.query('SELECT 1', stop.signal)].map((each) =>
        each.catch(() => null),
      );
      const neighbour = wire.query('SELECT pg_sleep(0.02)');
      const other = wire.query('SELECT pg_sleep(0.02)', new AbortController().signal);
      setTimeout(() => stop.abort(new Error('enough')), i % 4);
      await Promise.all([...asked, neighbour, other]);
    }
  });

  test('a connection ended by the server fails what waits and what follows, as unreachable', async () => {
    await using wire = await open();
    const sleeping = wire.query('SELECT pg_sleep(600)').catch((reason: unknown) => reason);
    await database.run('SELECT pg_terminate_backend($1)', [wire.processId]);
    const error = await sleeping;
    expect(codeOf(error)).toBe('57P01');
    expect(wire.failure(error)).toMatchObject({ code: 'PRIMARY_UNREACHABLE', retry: 'later' });
    await expect(wire.query('SELECT 1')).rejects.toBe(error);
  });
});

const attempt = async (url: string): Promise<ForeshadowError> => {
  const error: unknown = await Wire.open(url, { side: 'shadow', purpose: 'test', connectTimeoutMs: 2000 }).catch(
    (reason: unknown) => reason,
  );
  if (!(error instanceof ForeshadowError)) throw new Error('it did not fail as it should', { cause: error });
  expect(`${error.message} ${error.remedy}`).not.toContain('s3cret');
  return error;
};

describe('errors of a connection name the place and never the password', () => {
  test('wrong password', async () => {
    expect(await attempt(database.urlAs('postgres', 's3cret'))).toMatchObject({ code: 'SHADOW_ACCESS', retry: 'later' });
  });

  test('nobody listens', async () => {
    const error = await attempt('postgres://me:s3cret@127.0.0.1:1/shop');
    expect(error).toMatchObject({ code: 'SHADOW_UNREACHABLE', retry: 'later' });
    expect(error.message).toContain('127.0.0.1:1/shop');
  });

  test('no such host', async () => {
    expect(await attempt('postgres://me:s3cret@no-such-host.invalid/shop')).toMatchObject({ code: 'SHADOW_UNREACHABLE' });
  });

  test('no such database', async () => {
    const error = await attempt(Object.assign(new URL(database.url), { pathname: '/absent' }).href);
    expect(error).toMatchObject({ code: 'SHADOW_UNREACHABLE', retry: 'never' });
    expect(error.message).toContain('"absent"');
  });

  test('TLS asked for where the server has none', async () => {
    expect(await attempt(`${database.url}?sslmode=require`)).toMatchObject({ code: 'SHADOW_ACCESS' });
    await using wire = await Wire.open(`${database.url}?sslmode=prefer`, { side: 'shadow', purpose: 'test' });
    expect(wire.broken).toBe(false);
  });

  test('a replication connection that is paused reads no more than what it was reading', async () => {
    const client = await connect(database.url, { side: 'primary', purpose: 'test', replication: true });
    const socket = streamOf(client);
    const heard = client.query(`DO $$ BEGIN FOR i IN 1..200 LOOP RAISE NOTICE 'notice %', i; PERFORM pg_sleep(0.001); END LOOP; END $$`);
    await once(client, 'notice');
    socket.pause();
    const before = socket.bytesRead;
    await sleep(500);
    expect(socket.bytesRead - before).toBeLessThan(2000);
    socket.resume();
    await heard;
    expect(socket.bytesRead - before).toBeGreaterThan(10_000);
    await client.end();
  });

  test('not a URL at all', async () => {
    expect(await attempt('mysql://me:s3cret@host/shop')).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await attempt('postgres://me:s3cret@ho st:99999999/shop')).toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
