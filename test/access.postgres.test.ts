import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Cluster } from './postgres-cluster.ts';
import { pause, shopTemplate, SlotWorld } from './slot-world.ts';

let template: Cluster;
let world: SlotWorld;

beforeAll(async () => {
  template = await shopTemplate();
});
afterAll(() => template[Symbol.asyncDispose]());
afterEach(() => world[Symbol.asyncDispose]());

/** Runs as an ordinary user, as one should. */
async function tracked(settings: Readonly<Record<string, string>> = {}, parameters = ''): Promise<void> {
  world = await SlotWorld.create(template, settings);
  world.url = world.cluster.urlOf('tracker', 'right', world.proxy.port, parameters);
  await world.run();
  await world.valid();
}

/** The way is cut and somebody shuts the door; the loop tells why it cannot go on, and goes on once the door is open. */
async function shutOut(shut: () => Promise<unknown>, reason: RegExp, reopen: () => Promise<unknown>): Promise<void> {
  const since = world.log.length;
  await shut();
  world.proxy.cut();
  await world.logged(reason, since);
  expect((await world.status()).tracking.trouble?.message).toMatch(reason);
  await world.write(1);
  await reopen();
  await world.proves();
  expect((await world.status()).tracking.trouble).toBeNull();
  expect(world.resyncs()).toEqual([]);
}

describe('while tracking runs', () => {
  test('a connection that is cut is made again', async () => {
    await tracked();
    world.proxy.cut();
    await world.write(1);
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('a connection that only seems to stand is given up', async () => {
    await tracked({}, '?tcp_user_timeout=6000');
    world.proxy.hush();
    await world.write(1);
    await world.logged(/has not answered for 6 s/);
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('a password that is changed is named, and tracking goes on when it is right again', async () => {
    await tracked();
    await shutOut(
      does(`ALTER ROLE tracker PASSWORD 'other'`),
      /does not let user "tracker" in.*password/,
      does(`ALTER ROLE tracker PASSWORD 'right'`),
    );
  });

  test('the right to replicate, taken away', async () => {
    await tracked();
    await shutOut(
      does('ALTER ROLE tracker NOREPLICATION'),
      /does not let user "tracker" replicate/,
      does('ALTER ROLE tracker REPLICATION'),
    );
  });

  test('a rule of pg_hba.conf', async () => {
    await tracked();
    const rules = await readFile(join(world.cluster.data, 'pg_hba.conf'), 'utf8');
    const put = async (text: string): Promise<void> => {
      await world.cluster.put('pg_hba.conf', text);
      await world.cluster.reload();
    };
    const reason = /no rule in pg_hba.conf that lets user "tracker" in/;
    await shutOut(
      () => put(`host all tracker all reject\n${rules}`),
      reason,
      () => put(rules),
    );
  });

  test('no walsender left', async () => {
    await tracked({ max_wal_senders: '1' });
    world.proxy.refuse();
    const other = await onlyWalsender();
    const since = world.log.length;
    world.proxy.open();
    await world.logged(/has no connection left/, since);
    await world.write(1);
    await other.end();
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });
});

function does(sql: string): () => Promise<unknown> {
  return () => world.cluster.sql(sql);
}

/** Somebody else's, as soon as there is one to be had. */
async function onlyWalsender(): Promise<Client> {
  for (;;) {
    const client = new Client({ connectionString: world.cluster.url, replication: 'database' } as never);
    client.on('error', () => undefined);
    try {
      await client.connect();
      return client;
    } catch (error) {
      expect(String(error)).toContain('max_wal_senders');
      await pause(50);
    }
  }
}
