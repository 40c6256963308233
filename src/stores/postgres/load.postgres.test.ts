import { Client } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startServer } from '../../../test/postgres.ts';
import { type LoadReading, type LoadSample, ratesBetween } from '../../tracking/load.ts';
import type { EmbeddedServer } from './embedded.ts';
import { PostgresLoad } from './load.ts';
import { Wire } from './wire.ts';

const { signal } = new AbortController();
let server: EmbeddedServer;
let wire: Wire;
let application: Client;

beforeAll(async () => {
  server = await startServer({});
  wire = await Wire.open(server.url, { side: 'primary', purpose: 'test' });
  application = await connected('billing');
  await application.query('CREATE TABLE item (id int, value text)');
});
afterAll(async () => {
  await application.end();
  await wire.close();
  await server.stop();
});

async function connected(name: string, url = server.url): Promise<Client> {
  const client = new Client({ connectionString: url, application_name: name });
  await client.connect();
  return client;
}

function reading({ readings }: LoadSample, resource: string): LoadReading | undefined {
  return readings.find((each) => each.resource === resource);
}

/** Grew by this much; null where it is not a counter of both. */
function grown(before: LoadSample, now: LoadSample, resource: string): number | null {
  const [first, last] = [reading(before, resource), reading(now, resource)];
  return first?.kind === 'counter' && last?.kind === 'counter' ? Number(last.total - first.total) : null;
}

test('sessions at work are counted, ours are not', async () => {
  const load = new PostgresLoad();
  const idle = reading(await load.sample(wire, signal), 'sessions.active');
  expect(idle).toMatchObject({ kind: 'gauge', value: 0 });
  const ours = await connected('foreshadow control');
  const working = [application.query('SELECT pg_sleep(20)'), ours.query('SELECT pg_sleep(20)')].map((each) => each.catch(() => null));
  await expect.poll(async () => reading(await load.sample(wire, signal), 'sessions.active')).toMatchObject({ value: 1 });
  const canceller = await connected('canceller');
  await canceller.query(
    `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid()`,
  );
  await Promise.all(working);
  await ours.end();
  await canceller.end();
});

test('the rates of log, transactions and I/O are those of what was done', async () => {
  const load = new PostgresLoad();
  await application.query('SELECT pg_stat_force_next_flush()').catch(() => null); // from 15 on
  const before = await load.sample(wire, signal);
  for (let each = 0; each < 20; each++)
    await application.query(`INSERT INTO item SELECT n, repeat('x', 1000) FROM generate_series(1, 100) n`);
  await application.query('CHECKPOINT');
  await application.query('SELECT pg_stat_force_next_flush()').catch(() => null);
  await application.query('SELECT 1');
  await expect.poll(async () => grown(before, await load.sample(wire, signal), 'transactions')).toBeGreaterThanOrEqual(20);
  const now = await load.sample(wire, signal);
  expect(grown(before, now, 'wal.bytes')).toBeGreaterThan(2_000_000);
  const written = grown(before, now, 'io.written');
  if (written !== null) expect(written).toBeGreaterThan(1_000_000);
  expect(grown(before, now, 'blocks.hit')).toBeGreaterThan(100);
  const rates = new Map(ratesBetween(before, now, 2000, true).map(({ resource, value }) => [resource, value]));
  expect(rates.get('wal.bytes')).toBeCloseTo((grown(before, now, 'wal.bytes') ?? 0) / 2, 5);
});

test('what our own sessions read is taken off where the server tells it, else not learned from', async () => {
  const load = new PostgresLoad();
  const ours = await connected('foreshadow snapshot');
  const before = await load.sample(wire, signal);
  for (let each = 0; each < 30; each++) await ours.query('SELECT count(*) FROM item');
  await ours.query('SELECT pg_stat_force_next_flush()').catch(() => null);
  await ours.query('SELECT 1');
  const now = await load.sample(wire, signal);
  await ours.end();
  const hits = reading(now, 'blocks.hit');
  const [{ version }] = (await application.query(`SELECT current_setting('server_version_num')::int AS version`)).rows as [
    { version: number },
  ];
  expect(hits?.includesOurs).toBe(version < 180_000);
  if (version >= 180_000) expect(grown(before, now, 'blocks.hit')).toBeLessThan(5000);
  else expect(ratesBetween(before, now, 1000, false).map(({ resource }) => resource)).not.toContain('blocks.hit');
});

test('a server on this machine is told by its processes; then processors are among the readings', async () => {
  const sample = await new PostgresLoad().sample(wire, signal);
  const isLinux = process.platform === 'linux';
  expect(reading(sample, 'host.cpu') !== undefined).toBe(isLinux);
});

test('a user who may not see the sessions of others is not told that nobody works', async () => {
  await application.query(`CREATE ROLE watcher LOGIN PASSWORD 'w'`);
  const as = Object.assign(new URL(server.url), { username: 'watcher', password: 'w' }).href;
  const blind = await Wire.open(as, { side: 'primary', purpose: 'test' });
  const sample = await new PostgresLoad().sample(blind, signal);
  await blind.close();
  expect(reading(sample, 'sessions.active')).toBeUndefined();
  expect(reading(sample, 'wal.bytes')).toBeDefined();
});

test('statistics that were reset are another epoch', async () => {
  const load = new PostgresLoad();
  const before = await load.sample(wire, signal);
  await application.query('SELECT pg_stat_reset()');
  await expect
    .poll(async () => ratesBetween(before, await load.sample(wire, signal), 1000, true).map(({ resource }) => resource))
    .not.toContain('transactions');
});
