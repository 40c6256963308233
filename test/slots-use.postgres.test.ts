import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { uninstall } from '../src/app/doctor.ts';
import type { Cluster } from './postgres-cluster.ts';
import { createDatabase } from './postgres.ts';
import { pause, shopTemplate, SlotWorld } from './slot-world.ts';

let template: Cluster;
let world: SlotWorld;

beforeAll(async () => {
  template = await shopTemplate();
});
afterAll(() => template[Symbol.asyncDispose]());
afterEach(() => world[Symbol.asyncDispose]());

const SLOT = 'foreshadow_shop';
const quiet = (): void => {};

async function tracked(settings: Readonly<Record<string, string>> = {}): Promise<void> {
  world = await SlotWorld.create(template, settings);
  await world.run();
  await world.valid();
}

describe('a slot that somebody else uses', () => {
  test('two configurations with one name of the data set: the second is refused by name, and the first goes on without a gap', async () => {
    await tracked();
    const directory = await mkdtemp(join(tmpdir(), 'foreshadow-second-'));
    await using shadow = await createDatabase();
    const config = { directory, shadow: shadow.url };
    const refused = {
      code: 'TRACKED_ELSEWHERE',
      message: expect.stringMatching(/belong to another Foreshadow/),
      remedy: expect.stringMatching(/dataSet/),
    };
    for (const first of ['running', 'stopped']) {
      const second = await world.openSystem(config);
      await expect(second.capture(quiet, AbortSignal.timeout(20_000)), first).rejects.toMatchObject(refused);
      await second[Symbol.asyncDispose]();
      const removal = uninstall(world.config(config), { log: quiet }, AbortSignal.timeout(20_000));
      if (first === 'running') {
        await expect(removal).rejects.toMatchObject({
          code: 'TRACKED_ELSEWHERE',
          message: expect.stringMatching(/server process \d+ \(foreshadow tracking/),
        });
        await world.write(1);
        await world.stop();
      } else await removal;
    }
    // The first was taken away by hand, as the remedy says where it is gone for good: it finds out.
    await world.run();
    await world.logged(/slot is gone|is not installed/);
    expect(world.log.filter(({ fields }) => /put back|another journal/.test(String(fields['reason'])))).toEqual([]);
    await world.proves();
    await rm(directory, { recursive: true });
  });

  test('a lost journal, and a shadow made anew, are no other Foreshadow', async () => {
    await tracked();
    await world.stop();
    await rm(join(world.directory, '.foreshadow'), { recursive: true });
    await world.write(1);
    await world.run();
    await world.proves();
    await world.stop();
    await world.shadow.run('DROP SCHEMA _foreshadow CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public');
    await world.write(2);
    await world.run();
    await world.proves();
  });

  test('another consumer is named and waited for', async () => {
    await tracked();
    await world.stop();
    const other = new Client({ connectionString: `${world.cluster.url}?application_name=intruder`, replication: 'database' } as never);
    other.on('error', () => undefined);
    await other.connect();
    const streaming = other
      .query(`START_REPLICATION SLOT ${SLOT} LOGICAL 0/0 (proto_version '1', publication_names '${SLOT}')`)
      .catch(() => undefined);
    while ((await world.cluster.sql(`SELECT FROM pg_replication_slots WHERE active`)).length === 0) await pause(10);
    await world.run();
    const line = await world.logged(/is being read by another: server process \d+ \(intruder, user postgres\)/);
    expect(line.level).toBe('warn');
    expect((await world.status()).tracking).toMatchObject({
      trouble: { code: 'TRACKED_ELSEWHERE' },
      retained: { slot: SLOT, active: true },
    });
    await world.write(1);
    const connection = (other as unknown as { connection: { stream: { destroy(): void } } }).connection;
    connection.stream.destroy();
    await streaming;
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('a slot of that name in another database of the server', async () => {
    await tracked();
    await world.cluster.sql('CREATE DATABASE beside');
    const beside = Object.assign(new URL(world.url), { pathname: '/beside' }).href;
    await world.cluster.sql('CREATE TABLE item (id int PRIMARY KEY)', beside);
    await using shadow = await createDatabase();
    const [url, directory] = [world.url, await mkdtemp(join(tmpdir(), 'foreshadow-second-'))];
    world.url = beside;
    const second = await world.openSystem({ directory, shadow: shadow.url });
    world.url = url;
    const refused = { code: 'TRACKED_ELSEWHERE', message: expect.stringMatching(/of another database of this server \(postgres\)/) };
    await expect(second.capture(quiet, AbortSignal.timeout(20_000))).rejects.toMatchObject(refused);
    await second[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
    await world.write(1);
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('a slot of that name which is not ours', async () => {
    world = await SlotWorld.create(template);
    await world.cluster.sql(`SELECT pg_create_physical_replication_slot('${SLOT}')`);
    await world.run();
    expect(await world.failure()).toMatchObject({ code: 'TRACKED_ELSEWHERE', message: expect.stringMatching(/of another kind/) });
    expect(await world.cluster.sql('SELECT slot_type FROM pg_replication_slots')).toEqual([{ slot_type: 'physical' }]);
  });
});

describe('what the slot keeps', () => {
  test('an idle data set on a busy server holds back no log', async () => {
    await tracked({ min_wal_size: '32MB', max_wal_size: '32MB' });
    await world.cluster.sql('CREATE DATABASE busy');
    const busy = Object.assign(new URL(world.cluster.url), { pathname: '/busy' }).href;
    await world.cluster.sql('CREATE TABLE noise (n int, filler text)', busy);
    const lsns = async (): Promise<Record<string, unknown>> =>
      (
        await world.cluster.sql(`SELECT restart_lsn::text, confirmed_flush_lsn::text, pg_current_wal_lsn()::text AS now,
        (pg_current_wal_lsn() - restart_lsn)::int8::text AS kept FROM pg_replication_slots WHERE slot_name = '${SLOT}'`)
      )[0] ?? {};
    const before = await lsns();
    let most = 0;
    let written = 0;
    for (let i = 0; i < 6; i++) {
      await world.cluster.sql(`INSERT INTO noise SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n`, busy);
      // Others' tables in the very database too, and a server that checkpoints now and then.
      await world.cluster.sql(
        `CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE elsewhere.t${i} AS SELECT n FROM generate_series(1, 10000) n; CHECKPOINT`,
      );
      written += 12e6;
      await pause(1500);
      most = Math.max(most, Number((await lsns())['kept']));
    }
    const after = await lsns();
    expect(written).toBeGreaterThan(3 * most);
    expect(after['restart_lsn']).not.toBe(before['restart_lsn']);
    expect(after['confirmed_flush_lsn']).not.toBe(before['confirmed_flush_lsn']);
    await world.write(1);
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('doctor and status say how much, how it grows, how long it can, and who holds it back', async () => {
    await tracked({ max_slot_wal_keep_size: '64MB', max_prepared_transactions: '2' });
    const running = (await world.status()).tracking;
    expect(running).toMatchObject({
      trouble: null,
      retained: { slot: SLOT, active: true, walStatus: 'reserved', limitBytes: 64 << 20, heldBy: [] },
    });
    expect(running.retained?.bytes).toBeGreaterThan(0);
    await world.stop();
    const stop = new AbortController();
    const writing = (async () => {
      while (!stop.signal.aborted) await world.cluster.sql(`INSERT INTO item (note) SELECT repeat('x', 200) FROM generate_series(1, 1000)`);
    })();
    const findings = await world.doctor();
    stop.abort();
    await writing;
    const [kept] = findings.filter(({ code }) => code === 'SLOT_RETAINS');
    expect(kept?.message).toMatch(
      /foreshadow_shop keeps .* of WAL on the primary, growing by .* a second; given up at 67.1 MB \(max_slot_wal_keep_size\), .* left, for about/,
    );
    expect(findings.find(({ code }) => code === 'SLOT_HELD')?.message).toMatch(/nobody reads from it/);
    const idle = await world.openSystem();
    await expect(idle.status(AbortSignal.timeout(20_000))).resolves.toMatchObject({
      running: false,
      tracking: { trouble: null, retained: { active: false, growthBytesPerSecond: null, heldBy: [expect.stringMatching(/nobody reads/)] } },
    });
  });

  test('what a capture alone leaves behind is said, and what runs on leaves nothing to say', async () => {
    world = await SlotWorld.create(template);
    const alone = await world.openSystem();
    const report = await alone.capture(quiet, AbortSignal.timeout(20_000));
    await alone[Symbol.asyncDispose]();
    expect(report.leaves).toMatch(
      /slot foreshadow_shop keeps .*B of WAL on the primary.*sets no limit.*It holds back WAL until the next capture or start; foreshadow uninstall drops it/,
    );
    await world.run();
    expect((await world.capture()).leaves).toBeNull();
  });
});

describe('a primary that cannot be tracked any more', () => {
  test('wal_level lowered', async () => {
    await tracked();
    await world.stop();
    await world.cluster.sql(`SELECT pg_drop_replication_slot('${SLOT}')`);
    await world.cluster.stop();
    await world.cluster.start({ wal_level: 'replica' });
    await world.run();
    expect(await world.failure()).toMatchObject({
      code: 'PRIMARY_SETTING',
      message: expect.stringMatching(/wal_level is replica/),
      remedy: expect.stringMatching(/wal_level = logical/),
    });
    await world.stop();
    await world.cluster.stop();
    await world.cluster.start();
    await world.run();
    await world.write(1);
    await world.proves();
  });

  test('wal_level lowered under the running one', async () => {
    await tracked();
    world.proxy.refuse();
    while ((await world.cluster.sql(`SELECT FROM pg_replication_slots WHERE active`)).length > 0) await pause(10);
    await world.cluster.sql(`SELECT pg_drop_replication_slot('${SLOT}')`);
    await world.cluster.stop();
    await world.cluster.start({ wal_level: 'replica' });
    world.proxy.open();
    expect(await world.failure()).toMatchObject({ code: 'PRIMARY_SETTING', remedy: expect.stringMatching(/wal_level = logical/) });
  });

  test('become a standby, and led back', async () => {
    await tracked();
    await world.cluster.stop();
    await world.cluster.put('standby.signal', '');
    await world.cluster.start();
    await world.logged(/is a standby or read-only/);
    expect((await world.status()).tracking.trouble).toMatchObject({ code: 'PRIMARY_SETTING', remedy: expect.stringMatching(/promote/) });
    await world.cluster.sql('SELECT pg_promote()');
    await world.write(1);
    await world.proves();
    expect(world.resyncs()).toEqual([]);
  });

  test('read-only by default is no hindrance: nothing of the data set is written', async () => {
    await tracked();
    await world.cluster.sql('ALTER SYSTEM SET default_transaction_read_only = on');
    await world.cluster.reload();
    world.proxy.cut();
    await world.valid();
    expect(world.resyncs()).toEqual([]);
  });
});
