import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Cluster } from './postgres-cluster.ts';
import { pause, shopTemplate, SlotWorld } from './slot-world.ts';

const run = promisify(execFile);

let template: Cluster;
let world: SlotWorld;

beforeAll(async () => {
  template = await shopTemplate();
});
afterAll(() => template[Symbol.asyncDispose]());
afterEach(() => world[Symbol.asyncDispose]());

/** Whether a small file system can be made here, to be filled. */
async function mayMount(): Promise<boolean> {
  const at = await mkdtemp(join(tmpdir(), 'foreshadow-mount-'));
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', at]);
    await run('umount', [at]);
    return true;
  } catch {
    return false;
  } finally {
    await rm(at, { recursive: true });
  }
}
const mounts = await mayMount();

const flushed = `SELECT confirmed_flush_lsn::text AS at FROM pg_replication_slots WHERE slot_name = 'foreshadow_shop'`;

describe('under pressure', () => {
  test('a process that stands still for longer than the server waits is not taken for dead', async () => {
    world = await SlotWorld.create(template, { wal_sender_timeout: '1s' });
    await world.run();
    await world.valid();
    for (let i = 0; i < 2; i++) {
      await world.write(1);
      // As a journal does whose disk takes its time.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500);
      await pause(100);
    }
    await world.proves();
    expect(world.log.filter(({ message }) => /tried again/.test(message))).toEqual([]);
    expect(world.resyncs()).toEqual([]);
  });

  test.skipIf(!mounts)(
    'a full disk under the journal (needs the right to mount): nothing is acknowledged until there is room',
    async () => {
      world = await SlotWorld.create(template);
      await run('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', world.directory]);
      try {
        await world.run();
        await world.valid();
        const [before] = await world.cluster.sql(flushed);
        await world.cluster.sql(`INSERT INTO item (note) SELECT repeat(md5(n::text), 20) FROM generate_series(1, 20000) n`);
        await world.logged(/no space left for the journal/);
        expect((await world.status()).tracking.trouble).toMatchObject({
          code: 'JOURNAL_ACCESS',
          remedy: expect.stringMatching(/Free space/),
        });
        const [then] = await world.cluster.sql(flushed);
        expect(then).toEqual(before);
        await run('mount', ['-o', 'remount,size=200m', world.directory]);
        await world.write(1);
        await world.proves();
        expect(world.resyncs()).toEqual([]);
        await world.stop();
      } finally {
        await world.stop();
        await run('umount', [world.directory]);
      }
    },
  );

  test('no connection left while tracking runs', async () => {
    world = await SlotWorld.create(template, { max_connections: '12', superuser_reserved_connections: '3' });
    world.url = world.cluster.urlOf('tracker', 'right', world.proxy.port);
    await world.run();
    await world.valid();
    world.proxy.refuse();
    const others: Client[] = [];
    for (;;) {
      const client = new Client({ connectionString: world.cluster.urlOf('tracker', 'right') });
      client.on('error', () => undefined);
      const refused = await client.connect().then(
        () => false,
        () => true,
      );
      if (refused) break;
      others.push(client);
    }
    const since = world.log.length;
    world.proxy.open();
    expect((await world.logged(/has no connection left/, since)).level).toBe('warn');
    await world.cluster.sql(`INSERT INTO item (note) VALUES ('meanwhile')`);
    await Promise.all(others.map((client) => client.end()));
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('a table that may not be read any more: its captures say so, and are right again with the right', async () => {
    world = await SlotWorld.create(template);
    world.url = world.cluster.urlOf('tracker', 'right', world.proxy.port);
    await world.run();
    await world.valid();
    await world.cluster.sql('ALTER TABLE item OWNER TO postgres');
    await world.write(1);
    expect(await world.capture()).toMatchObject({
      verdict: 'INCONCLUSIVE',
      note: expect.stringMatching(/permission denied for table item/),
    });
    await world.cluster.sql('ALTER TABLE item OWNER TO tracker');
    await world.proves();
  });
});
