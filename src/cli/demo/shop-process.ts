import { setTimeout as sleep } from 'node:timers/promises';
import { openShopDatabase } from './shop-database.ts';
import { happen, randomFrom } from './shop.ts';

/**
 * The shop's own program, run as a separate process: `node shop-process.ts URL`. It knows nothing of Foreshadow. Lines on its
 * standard input steer it: `pause` (answered `paused` when the last transaction is over) and `go`; when the input ends, it ends.
 * Every half second it says how many transactions it has made.
 */
const TRANSACTIONS_PER_SECOND = 150;
const TELL_EVERY_MS = 500;

async function run(url: string): Promise<void> {
  await using database = await openShopDatabase(url);
  const random = randomFrom(2026);
  let mood: 'open' | 'pausing' | 'paused' | 'closing' = 'open';
  process.stdin.setEncoding('utf8');
  process.stdin.on('data', (text: string) => {
    if (text.includes('pause')) mood = 'pausing';
    if (text.includes('go')) mood = 'open';
  });
  process.stdin.on('end', () => {
    mood = 'closing';
  });
  const state = (): typeof mood => mood;
  let made = 0;
  let toldMs = 0;
  let dueMs = performance.now();
  while (state() !== 'closing') {
    if (state() === 'pausing') {
      mood = 'paused';
      process.stdout.write('paused\n');
    }
    if (state() === 'open') {
      await happen(database, random);
      made++;
    }
    const nowMs = performance.now();
    if (nowMs - toldMs > TELL_EVERY_MS) {
      toldMs = nowMs;
      process.stdout.write(`made ${made}\n`);
    }
    dueMs = Math.max(dueMs + 1000 / TRANSACTIONS_PER_SECOND, nowMs - 100);
    await sleep(Math.max(0, dueMs - nowMs));
  }
}

// Ctrl-C reaches the whole group; the demonstration closes the shop when it is done with it.
process.on('SIGINT', () => undefined);
// The reader of our lines may be gone first; the end of the input says the same.
process.stdout.on('error', () => undefined);
await run(process.argv[2] ?? '');
