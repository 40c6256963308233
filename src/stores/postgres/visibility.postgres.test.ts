import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ChangesReader, rowsIn } from '../../../test/changes-reader.ts';
import { createDatabase, startServer, type TestDatabase } from '../../../test/postgres.ts';
import type { TransactionId } from '../../model/change.ts';
import type { TableSchema } from '../../model/schema.ts';
import type { Primary } from '../../tracking/primary.ts';
import type { EmbeddedServer } from './embedded.ts';
import { openPostgresPrimary } from './primary.ts';

const signal = new AbortController().signal;
let server: EmbeddedServer;
let database: TestDatabase;
beforeAll(async () => {
  // A commit that asks for it waits for a standby that never comes: it is in the log, and not visible.
  server = await startServer({ synchronous_standby_names: 'absent', synchronous_commit: 'local' });
  database = await createDatabase({ server: server.url });
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await server.stop();
});

function open(journaled: (ids: readonly TransactionId[]) => ReadonlySet<TransactionId>): Promise<Primary> {
  const selection = { include: ['public.*'], exclude: [] };
  return openPostgresPrimary({ url: database.url, dataSet: 'visible', selection, journaled: async (ids) => journaled(ids) });
}

const none = (): ReadonlySet<TransactionId> => new Set();

describe('a commit that is in the log before snapshots show it', () => {
  test('is waited for, by the process that streamed it and by the next one', async () => {
    await database.run('CREATE TABLE public.item (id int PRIMARY KEY)');
    await using primary = await open(none);
    const { tables } = await primary.describe(signal);
    const reader = new ChangesReader(primary, await primary.install(tables, signal));
    const client = await database.client();
    const [{ pid }] = (await client.query('SELECT pg_backend_pid() AS pid')).rows as [{ pid: number }];
    const committed = client.query('SET synchronous_commit = on; INSERT INTO public.item VALUES (1)');
    while (reader.of('public.item').length === 0) await sleep(5);
    const streamed = reader.of('public.item')[0];
    await reader.reached(streamed?.ref.at ?? reader.head.at);
    await reader.stop();

    // The next process has no memory of what was streamed; its journal has.
    const known = streamed?.ref.id;
    await using next = await open((ids) => new Set(ids.filter((id) => id === known)));
    await using careless = await open(none);
    const covering = reader.head.at;
    await using early = await careless.snapshot(covering, signal);
    expect((await rowsIn(early, tables[0] as TableSchema)).size).toBe(0);
    const taken = [primary, next].map((each) => each.snapshot(covering, signal));
    expect(await Promise.race([sleep(300).then(() => 'waiting'), ...taken.map((each) => each.then(() => 'taken'))])).toBe('waiting');

    await database.run('SELECT pg_cancel_backend($1)', [pid]);
    await committed;
    for (const each of taken) {
      await using snapshot = await each;
      expect(streamed !== undefined && snapshot.includes(streamed.ref)).toBe(true);
      expect((await rowsIn(snapshot, tables[0] as TableSchema)).size).toBe(1);
    }
  });

  test('and waiting for it can be given up', async () => {
    await using primary = await open((ids) => new Set(ids));
    const client = await database.client();
    await client.query('BEGIN; INSERT INTO public.item VALUES (2)');
    const stop = new AbortController();
    const taken = primary.snapshot(await primary.now(signal), stop.signal);
    setTimeout(() => stop.abort(new Error('enough')), 50);
    await expect(taken).rejects.toThrow('enough');
    await client.query('ROLLBACK');
  });
});

describe('a connection that breaks', () => {
  test('is an error that may pass, and tracking goes on from the bookmark', async () => {
    await using primary = await open(none);
    const { tables } = await primary.describe(signal);
    const first = new ChangesReader(primary, await primary.install(tables, signal));
    await first.reached(await primary.now(signal));
    await database.run(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'foreshadow%'`);
    while (first.failure === null) await sleep(5);
    expect(first.failure).toMatchObject({ code: 'PRIMARY_UNREACHABLE', retry: 'later' });
    await database.run('INSERT INTO public.item VALUES (7)');
    const second = new ChangesReader(primary, first.head);
    await second.reached(await primary.now(signal));
    expect(second.of('public.item')).toHaveLength(1);
    await using snapshot = await primary.snapshot(second.head.at, signal);
    expect((await rowsIn(snapshot, tables[0] as TableSchema)).size).toBe(2);
    await second.stop();
  });
});
