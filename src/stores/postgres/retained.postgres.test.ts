import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { startServer } from '../../../test/postgres.ts';
import { Client } from 'pg';
import type { EmbeddedServer } from './embedded.ts';
import { readRetained } from './retained.ts';
import { Wire } from './wire.ts';

const { signal } = new AbortController();
let server: EmbeddedServer;
let wire: Wire;
let application: Client;

beforeAll(async () => {
  server = await startServer({ max_prepared_transactions: '2', max_slot_wal_keep_size: '1GB' });
  wire = await Wire.open(server.url, { side: 'primary', purpose: 'test' });
  application = new Client({ connectionString: server.url, application_name: 'billing' });
  await application.connect();
  await application.query('CREATE TABLE item (id int)');
  await application.query(`SELECT pg_create_logical_replication_slot('shop', 'pgoutput')`);
});
afterEach(() => application.query('ROLLBACK'));
afterAll(async () => {
  await application.end();
  await wire.close();
  await server.stop();
});

async function heldBy(longSeconds = 0): Promise<readonly string[]> {
  return (await readRetained(wire, 'shop', signal, longSeconds))?.heldBy.slice(1) ?? [];
}

test('what a slot keeps is told in bytes, with its limit; nothing where there is no slot', async () => {
  const before = await readRetained(wire, 'shop', signal);
  expect(before).toMatchObject({
    slot: 'shop',
    active: false,
    walStatus: 'reserved',
    limitBytes: 2 ** 30,
    heldBy: [expect.stringMatching(/nobody/)],
  });
  await application.query('INSERT INTO item SELECT generate_series(1, 10000)');
  const after = await readRetained(wire, 'shop', signal);
  expect(after?.bytes).toBeGreaterThan((before?.bytes ?? 0) + 500_000);
  expect(after?.leftBytes).toBeLessThan(before?.leftBytes ?? 0);
  expect(await readRetained(wire, 'absent', signal)).toBeNull();
});

test('a long transaction that writes is named with its program; one that only reads is none', async () => {
  await application.query('BEGIN; SELECT count(*) FROM item');
  expect(await heldBy()).toEqual([]);
  await application.query('INSERT INTO item VALUES (1)');
  expect(await heldBy()).toEqual([
    expect.stringMatching(/a transaction open for 00:00:0\d \(server process \d+, billing, user postgres, database postgres\)/),
  ]);
  expect(await heldBy(60)).toEqual([]);
});

test('a prepared transaction is named with what ends it', async () => {
  await application.query(`BEGIN; INSERT INTO item VALUES (1); PREPARE TRANSACTION 'transfer 7'`);
  expect(await heldBy()).toEqual([expect.stringMatching(/the prepared transaction 'transfer 7'.*ROLLBACK PREPARED/)]);
  await application.query(`ROLLBACK PREPARED 'transfer 7'`);
});

test('a standby that is waited for is named', async ({ skip }) => {
  const { rows } = await application.query(`SELECT FROM pg_settings WHERE name = 'synchronized_standby_slots'`);
  skip(rows.length === 0, 'from 17 on');
  await application.query(`SELECT pg_create_physical_replication_slot('standby')`);
  await application.query(`ALTER SYSTEM SET synchronized_standby_slots = 'standby'`);
  await application.query('SELECT pg_reload_conf()');
  await expect
    .poll(() => heldBy())
    .toEqual([expect.stringMatching(/synchronized_standby_slots: the standby of slot standby is not connected/)]);
});
