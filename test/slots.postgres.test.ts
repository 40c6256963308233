import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Cluster } from './postgres-cluster.ts';
import { pause, shopTemplate, SlotWorld } from './slot-world.ts';
import { serverVersion } from './postgres.ts';

let template: Cluster;
let world: SlotWorld;

beforeAll(async () => {
  template = await shopTemplate();
});
afterAll(() => template[Symbol.asyncDispose]());
afterEach(() => world[Symbol.asyncDispose]());

const SLOT = 'foreshadow_shop';

async function tracked(settings: Readonly<Record<string, string>> = {}): Promise<void> {
  world = await SlotWorld.create(template, settings);
  await world.run();
  await world.valid();
}

/** While nothing runs, something befalls the slot. Then tracking goes on: with a gap that names it, or without one (null). */
async function befalls(damage: () => Promise<void>, reason: RegExp | null): Promise<void> {
  await world.stop();
  await damage();
  await world.run();
  if (reason !== null) await world.logged(reason);
  await world.write(50);
  await world.proves();
  if (reason === null) expect(world.resyncs()).toEqual([]);
  else for (const each of world.resyncs()) expect(each).toMatch(reason);
}

const version = await serverVersion();

describe('a slot that something befell', () => {
  test('dropped', async () => {
    await tracked();
    await befalls(async () => {
      await world.cluster.sql(`SELECT pg_drop_replication_slot('${SLOT}')`);
      await world.write(1);
    }, /slot is gone|past what the journal/);
  });

  test('dropped and made anew', async () => {
    await tracked();
    await befalls(async () => {
      await world.cluster.sql(`SELECT pg_drop_replication_slot('${SLOT}')`);
      await world.write(1);
      await world.cluster.sql(`SELECT pg_create_logical_replication_slot('${SLOT}', 'pgoutput')`);
    }, /past what the journal/);
  });

  test('advanced', async () => {
    await tracked();
    await befalls(async () => {
      await world.write(1);
      await world.cluster.sql(`SELECT pg_replication_slot_advance('${SLOT}', pg_current_wal_lsn())`);
    }, /past what the journal/);
  });

  test('advanced, and nothing had changed', async () => {
    await tracked();
    await befalls(() => world.write(1), null);
  });

  test('dropped under the running one', async () => {
    await tracked();
    await world.cluster.sql(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL`);
    for (;;) {
      const [gone] = await world.cluster
        .sql(`SELECT pg_drop_replication_slot('${SLOT}') IS NOT NULL AS gone`)
        .catch(() => [{ gone: false }]);
      if (gone?.['gone'] === true) break;
      await world.cluster.sql(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL`);
    }
    await world.write(1);
    await world.logged(/slot is gone/);
    await world.proves();
  });

  test('invalidated by max_slot_wal_keep_size', async () => {
    await tracked({ max_slot_wal_keep_size: '16MB', min_wal_size: '32MB', max_wal_size: '32MB' });
    await befalls(async () => {
      await world.write(1);
      for (let i = 0; i < 5; i++)
        await world.cluster.sql('SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS filler (); CHECKPOINT; DROP TABLE filler');
      const [slot] = await world.cluster.sql(`SELECT wal_status FROM pg_replication_slots WHERE slot_name = '${SLOT}'`);
      expect(slot).toEqual({ wal_status: 'lost' });
    }, /max_slot_wal_keep_size/);
  });

  test.skipIf(version < 18)('invalidated by idle_replication_slot_timeout', async () => {
    await tracked({ idle_replication_slot_timeout: '1s' });
    await befalls(async () => {
      await world.write(1);
      await pause(1500);
      await world.cluster.sql('CHECKPOINT');
    }, /idle_replication_slot_timeout/);
  });
});

describe('a server that something befell', () => {
  test('restarted, and crashed, while tracking runs', async () => {
    await tracked();
    for (const mode of ['fast', 'immediate'] as const) {
      await world.write(1);
      await world.cluster.stop(mode);
      await world.logged(/cannot be reached|closed by the server|terminat/);
      await world.cluster.start();
      await world.write(2);
      await world.proves();
    }
    expect(world.resyncs()).toEqual([]);
  });

  test('crashed while nothing runs', async () => {
    await tracked();
    await befalls(async () => {
      await world.write(1);
      await world.cluster.stop('immediate');
      await world.cluster.start();
    }, null);
  });

  test('put back to an earlier state: the log is shorter than what was tracked', async () => {
    await tracked();
    await world.stop();
    await world.cluster.stop();
    await using backup = await world.cluster.copy();
    await world.cluster.start();
    await world.run();
    await world.write(1);
    await world.valid();
    await befalls(async () => {
      await world.cluster.stop();
      await world.cluster.become(backup);
      await world.cluster.start();
    }, /put back to an earlier state/);
  });

  test('put back to an earlier state under the running one, and written to beyond where it was', async () => {
    await tracked();
    // A backup taken while tracking runs: mark, timeline and system are those that tracking goes by.
    await world.cluster.sql('CHECKPOINT');
    await using backup = await world.cluster.copy();
    await world.write(1);
    await world.valid();
    world.proxy.refuse();
    await world.cluster.stop('immediate');
    await world.cluster.become(backup);
    await world.cluster.start();
    await world.cluster.sql(`INSERT INTO item (note) SELECT 'another history' FROM generate_series(1, 20000)`);
    const [before] = await world.cluster.sql(`SELECT count(*)::int AS n FROM item`);
    expect(before).toEqual({ n: 20_200 });
    world.proxy.open();
    await world.logged(/resynced by comparison.*put back to an earlier state, and written to since/);
    await world.write(2);
    await world.proves();
  });
});

test('a server recovered from a base backup, under the running one', async () => {
  await tracked();
  await world.cluster.sql('CHECKPOINT');
  await using backup = await world.cluster.copy();
  await world.write(1);
  await world.valid();
  world.proxy.refuse();
  await world.cluster.stop('immediate');
  await world.cluster.become(backup);
  // Recovery ends where the backup's log does, on a timeline of its own.
  await world.cluster.put('recovery.signal', '');
  await world.cluster.start({ restore_command: 'false' });
  while ((await world.cluster.sql('SELECT pg_is_in_recovery() AS still'))[0]?.['still'] === true) await pause(20);
  await world.cluster.sql(`INSERT INTO item (note) SELECT 'another history' FROM generate_series(1, 20000)`);
  world.proxy.open();
  await world.logged(/recovered or failed over to another history/);
  await world.write(2);
  await world.proves();
});

describe('a server that failed over', () => {
  /** A standby that has everything, and the slot too where slots are synchronized. */
  async function standby(settings: Readonly<Record<string, string>>): Promise<Cluster> {
    await world.cluster.sql(`SELECT pg_create_physical_replication_slot('standby'); CHECKPOINT`);
    const made = await world.cluster.copy();
    await made.follow(world.cluster, 'standby');
    await made.start(settings);
    return made;
  }

  async function received(made: Cluster): Promise<void> {
    const [{ lsn }] = (await world.cluster.sql('SELECT pg_current_wal_flush_lsn()::text AS lsn')) as [{ lsn: string }];
    while ((await made.sql(`SELECT pg_last_wal_replay_lsn() >= '${lsn}' AS there`))[0]?.['there'] !== true) await pause(20);
  }

  /** The standby takes the slot over once the primary's has moved on. */
  async function synchronized(made: Cluster): Promise<void> {
    const there = `SELECT FROM pg_replication_slots WHERE slot_name = '${SLOT}' AND synced AND NOT temporary`;
    while ((await made.sql(there)).length === 0) {
      await world.cluster.sql('CHECKPOINT');
      await world.write(1);
      await pause(100);
    }
  }

  async function failOver(made: Cluster): Promise<void> {
    world.proxy.refuse();
    await world.cluster.stop('immediate');
    await made.sql('SELECT pg_promote()');
    world.proxy.leadTo(made.port);
    world.proxy.open();
    world.standsFor(made);
  }

  test('to a standby without the slot', async () => {
    await tracked();
    await using made = await standby({});
    await world.write(1);
    await received(made);
    await failOver(made);
    await world.logged(/resynced by comparison.*failed over to a standby that did not have the replication slot/);
    await world.write(2);
    await world.proves();
  });

  test.skipIf(version < 17)('to a standby with the slot: tracking goes on without a gap', async () => {
    await tracked();
    await using made = await standby({ sync_replication_slots: 'on' });
    await world.cluster.sql(`ALTER SYSTEM SET synchronized_standby_slots = 'standby'`);
    await world.cluster.reload();
    await synchronized(made);
    await world.write(2);
    await world.valid();
    await received(made);
    await failOver(made);
    await world.write(3);
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test.skipIf(version < 17)('to a standby with the slot that lacks what was tracked', async () => {
    await tracked();
    await using made = await standby({ sync_replication_slots: 'on' });
    await synchronized(made);
    await made.sql('SELECT pg_wal_replay_pause()');
    await world.cluster.sql(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'standby'`);
    await made.stop();
    await world.write(2);
    await world.valid();
    world.proxy.refuse();
    await world.cluster.stop('immediate');
    await made.start();
    await failOver(made);
    await world.logged(/resynced by comparison.*which lacks changes that were tracked/);
    await world.write(3);
    await world.proves();
  });
});

describe('a publication that somebody altered', () => {
  const put = `ALTER PUBLICATION ${SLOT}`;

  test.each([
    ['a table taken out', `${put} DROP TABLE item`, '', /took public.item out of the publication/],
    ['only some kinds of change', `${put} SET (publish = 'insert')`, '', /publication was altered/],
    [
      'dropped and made anew',
      `DROP PUBLICATION ${SLOT}`,
      `CREATE PUBLICATION ${SLOT} FOR TABLE item, other`,
      /made anew|is gone|another journal/,
    ],
  ])('%s, under the running one', async (_, before, after, reason) => {
    await tracked();
    await world.cluster.sql(before);
    await world.write(1);
    if (after !== '') await world.cluster.sql(after);
    await world.logged(reason);
    await world.write(2);
    await world.proves();
  });

  test.each([
    ['a table taken out and put back', `${put} DROP TABLE item`, `${put} ADD TABLE item`],
    ['rows filtered', `${put} SET TABLE item WHERE (id < 5), other`, ''],
  ])('%s, while nothing runs', async (_, before, after) => {
    if (before.includes('WHERE') && version < 15) return;
    await tracked();
    await befalls(async () => {
      await world.cluster.sql(before);
      await world.write(1);
      if (after !== '') await world.cluster.sql(after);
    }, /somebody altered what the publication has of public.item/);
  });

  test('by ourselves, for tables that come and go, is no gap', async () => {
    await tracked();
    for (const round of [1, 2]) {
      await world.cluster.sql(`CREATE TABLE extra_${round} (id int PRIMARY KEY); INSERT INTO extra_${round} VALUES (1)`);
      await world.logged(new RegExp(`copied public.extra_${round}`));
      await world.write(1);
      await world.valid();
      await world.stop();
      await world.cluster.sql(
        `CREATE TABLE late_${round} (id int PRIMARY KEY); INSERT INTO late_${round} VALUES (1); DROP TABLE extra_${round}`,
      );
      await world.run();
      await world.write(2);
      await world.proves();
    }
    expect(world.resyncs()).toEqual([]);
  });
});
