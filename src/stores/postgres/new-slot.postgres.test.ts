import { afterAll, beforeAll, expect, test } from 'vitest';
import { createDatabase, type TestDatabase } from '../../../test/postgres.ts';
import { createSlot } from './new-slot.ts';
import { Visibility } from './visibility.ts';
import { Wire } from './wire.ts';

const signal = new AbortController().signal;
let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
});

test('a slot tells what committed before it, which a snapshot must show', async () => {
  await using wire = await Wire.open(database.url, { side: 'primary', purpose: 'test' });
  await wire.query('CREATE TABLE public.moments (id int PRIMARY KEY)');
  const insert = async (id: number): Promise<bigint> => {
    const [, at] = await wire.query(`INSERT INTO public.moments VALUES (${id}); SELECT pg_current_xact_id()::text`);
    return BigInt(at?.rows[0]?.[0] as string);
  };
  const earlier = await insert(1);
  const name = `slot_${database.name}`;
  const { before } = await createSlot(wire, database.url, name, 10_000, signal);
  const later = await insert(2);
  await wire.query(`SELECT pg_drop_replication_slot('${name}')`);
  expect(before.includes(earlier)).toBe(true);
  expect(before.includes(later)).toBe(false);
  const [now] = await wire.query('SELECT pg_current_snapshot()::text');
  expect(new Visibility(now?.rows[0]?.[0] as string).covers(before)).toBe(true);
});

test('a snapshot covers another one only if it hides nothing that the other shows', () => {
  const shown = new Visibility('10:20:12,15');
  expect(new Visibility('10:20:12,15').covers(shown)).toBe(true);
  expect(new Visibility('15:21:15').covers(shown)).toBe(true);
  // 13 has committed in the log, and is hidden here.
  expect(new Visibility('12:21:12,13,15').covers(shown)).toBe(false);
  // 19 has, and is not even known of.
  expect(new Visibility('12:19:12,15').covers(shown)).toBe(false);
});
