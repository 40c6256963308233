import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type Server, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { HistoryReport } from '../src/app/history-report.ts';
import type { StatusReport } from '../src/app/operations.ts';
import { openSystem } from '../src/app/system.ts';
import { foreshadow, succeeds } from './command.ts';

const CONFIG = 'dataSet: counted\nprimary: sqlite:primary.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n';

let directory: string;
let primary: DatabaseSync;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-activity-'));
  await writeFile(join(directory, 'foreshadow.yaml'), CONFIG);
  primary = new DatabaseSync(join(directory, 'primary.db'));
  primary.exec(
    'PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000; CREATE TABLE item (id INTEGER PRIMARY KEY, value TEXT); CREATE TABLE quiet (id TEXT PRIMARY KEY)',
  );
});

afterEach(async () => {
  primary.close();
  await rm(directory, { recursive: true, force: true });
});

const put = (...ids: number[]): void => {
  for (const id of ids) primary.prepare('INSERT OR REPLACE INTO item VALUES (?, ?)').run(id, `value ${Math.random()}`);
};

test('a process that dies with what it counted counts the same once more, and no more than that', async () => {
  await succeeds(directory, ['capture']);
  put(1, 2, 3, 4);
  expect(await foreshadow(directory, ['capture'], 'appended')).toMatchObject({ killed: true });
  put(4, 5, 6);
  expect(await foreshadow(directory, ['capture'], 'acknowledged')).toMatchObject({ killed: true });
  expect(await succeeds(directory, ['capture'])).toMatchObject({ verdict: 'VALID' });
  const { tables } = (await succeeds(directory, ['status'])) as unknown as StatusReport;
  expect(tables.map(({ table, lastHour }) => [table, lastHour?.changes, lastHour?.distinctRows])).toEqual([
    ['item', 7, 6],
    ['quiet', 0, 0],
  ]);
});

test('what a capture drops from the journal is written down before', async () => {
  const { signal } = new AbortController();
  await using system = await openSystem(parseConfig(`${CONFIG}prediction: { interval: 1h }\n`, join(directory, 'foreshadow.yaml'), {}), {
    log: () => {},
  });
  await system.capture(() => {}, signal);
  put(1, 2, 3);
  await system.capture(() => {}, signal);
  // Another process, which sees what is on the disk.
  const { tables } = (await succeeds(directory, ['status'])) as unknown as StatusReport;
  expect(tables[0]).toMatchObject({ table: 'item', lastHour: { changes: 3, distinctRows: 3 } });
});

test('a history that cannot be opened stops nothing, and status says what that means', async () => {
  await mkdir(join(directory, '.foreshadow'));
  await writeFile(join(directory, '.foreshadow', 'history.db'), 'no database at all, whatever its name may say of it');
  const { signal } = new AbortController();
  await using system = await openSystem(parseConfig(CONFIG, join(directory, 'foreshadow.yaml'), {}), { log: () => {} });
  put(1, 2, 3);
  expect((await system.capture(() => {}, signal)).verdict).toBe('VALID');
  expect((await system.status(signal)).learning.troubles).toEqual([
    expect.stringMatching(/^what is learned ends with this process: .*history\.db cannot be opened: .*move it away/),
  ]);
});

test('the history is seeded by a file, twice, and shown', async () => {
  const hour = 3_600_000;
  const last = Math.floor(Date.now() / hour) * hour - hour;
  const lines = Array.from({ length: 24 }, (_, index) => `${last - index * hour},item,${100 - index},${50 - index}`);
  await writeFile(join(directory, 'seed.csv'), ['time,element,rows,distinct', ...lines].join('\n'));
  for (let twice = 0; twice < 2; twice++) {
    expect(await succeeds(directory, ['history', '--seed', 'seed.csv'])).toEqual({
      stepMs: hour,
      tables: ['item'],
      resources: [],
      slots: 24,
    });
  }
  const report = (await succeeds(directory, ['history', '--since', '25h'])) as unknown as HistoryReport;
  const [item] = report.tables;
  expect(item?.changes.slice(-24)).toEqual(lines.map((_, index) => 77 + index));
  expect(item?.changes[0]).toBeNull();
  const ever = (await succeeds(directory, ['history', '--since', '9000d', '--step', 'minute'])) as unknown as HistoryReport;
  expect(ever.tables[0]?.changes.length).toBeLessThanOrEqual(8 * 1440);
  await writeFile(join(directory, 'bad.csv'), 'time,element,rows\nyesterday,item,1\n');
  const refused = await foreshadow(directory, ['history', '--seed', 'bad.csv']);
  expect(refused.code).toBe(1);
  expect(JSON.parse(refused.out)).toMatchObject({ error: { code: 'SEED_INVALID', message: expect.stringContaining('line 2') } });
});

test('while running, load is learned from the file, its machine and a Prometheus; one that lies stops nothing', async () => {
  let isLying = true;
  const server: Server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => {
      const start = Number(new URLSearchParams(body).get('start'));
      const values = Array.from({ length: 20 }, (_, index) => [start + index, '0.5']);
      response.end(
        isLying ? '<html>' : JSON.stringify({ status: 'success', data: { resultType: 'matrix', result: [{ metric: {}, values }] } }),
      );
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  // A day of twenty-four minutes: its minutes pass in a second.
  const prediction = `prediction: { interval: 200ms, day: 24m, prometheus: { url: "http://127.0.0.1:${port}", load: { cpu: "cpu" } } }\n`;
  await writeFile(join(directory, 'foreshadow.yaml'), `${CONFIG}${prediction}`);
  const config = parseConfig(`${CONFIG}${prediction}`, join(directory, 'foreshadow.yaml'), {});
  const { signal } = new AbortController();
  try {
    await using system = await openSystem(config, { log: () => {} });
    await system.capture(() => {}, signal);
    await expect
      .poll(async () => (await system.status(signal)).learning.troubles, { timeout: 20_000 })
      .toEqual([expect.stringContaining('no answer to a range query')]);
    isLying = false;
    await expect.poll(async () => (await system.status(signal)).learning.troubles, { timeout: 20_000 }).toEqual([]);
    put(1, 2);
    expect((await system.capture(() => {}, signal)).rows).toMatchObject({ inserted: 2 });
    const shown = async (): Promise<string[]> => {
      const report = (await succeeds(directory, ['history', '--step', 'minute', '--since', '24m'])) as unknown as HistoryReport;
      return report.load.filter(({ mean }) => mean.some((value) => value !== null)).map(({ resource }) => resource);
    };
    await expect
      .poll(shown, { timeout: 30_000, interval: 500 })
      .toEqual(expect.arrayContaining(['commits', 'busy.waits', 'prometheus.cpu']));
  } finally {
    server.closeAllConnections();
    server.close();
  }
});
