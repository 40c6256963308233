import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { fingerprints, openShopDatabase } from './shop-database.ts';
import { ShopStaff } from './shop-staff.ts';
import { SHOP_TABLES, happen, openShop, randomFrom } from './shop.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-shop-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

test('the shop stays consistent, changes every table but leaves old customers alone', async () => {
  await using shop = await openShopDatabase(`sqlite:${join(directory, 'shop.db')}`);
  await openShop(shop);
  const quiet = 'SELECT * FROM customers WHERE id <= 2000 ORDER BY id';
  const customers = await shop.all(quiet);
  const before = await fingerprints(shop, SHOP_TABLES);
  const random = randomFrom(1);
  for (let n = 0; n < 300; n++) await happen(shop, random);
  const after = await fingerprints(shop, SHOP_TABLES);
  for (const { name } of SHOP_TABLES) expect(after.get(name)?.hash, name).not.toBe(before.get(name)?.hash);
  expect(await shop.all(quiet)).toEqual(customers);
  expect(await shop.all('PRAGMA foreign_key_check')).toEqual([]);
  const wrong = await shop.all(
    'SELECT id FROM orders WHERE total_cents IS NOT (SELECT sum(quantity * price_cents) FROM order_lines WHERE order_id = orders.id)',
  );
  expect(wrong).toEqual([]);
});

test('the staff works in a process of its own, and pauses between transactions', async () => {
  const url = `sqlite:${join(directory, 'shop.db')}`;
  await using shop = await openShopDatabase(url);
  await openShop(shop);
  const opened = await fingerprints(shop, SHOP_TABLES);
  await using staff = new ShopStaff(url);
  await expect.poll(() => staff.transactions, { timeout: 10_000 }).toBeGreaterThan(10);
  await staff.pause();
  const paused = await fingerprints(shop, SHOP_TABLES);
  expect(paused).not.toEqual(opened);
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(await fingerprints(shop, SHOP_TABLES)).toEqual(paused);
  staff.go();
  await expect.poll(async () => (await fingerprints(shop, SHOP_TABLES)).get('orders')).not.toEqual(paused.get('orders'));
  staff.check();
});
