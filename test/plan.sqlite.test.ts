import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { DatabaseSync } from 'node:sqlite';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { CaptureListing, StatusReport } from '../src/app/operations.ts';
import type { PlanReport, TurnReport } from '../src/app/plan-report.ts';
import { succeeds } from './command.ts';

/** A day of 24 seconds, with a capture every second: every hour of it. However busy this machine is, rows move. */
const CONFIG = `dataSet: planned
primary: sqlite:primary.db
shadow: sqlite:shadow.db
tables: ["*"]
policy: { lagTolerance: 10m }
captures: { schedule: "* * * * * *" }
prediction:
  policy: predictive
  interval: 100ms
  day: 24480ms
  capacity: 100
  ceiling: { host.cpu: 1000, host.disk: 1000, writer: 1000, commits: 1000000, busy.waits: 1000000 }
`;
const BIN = resolve(import.meta.dirname, '../bin/foreshadow.js');

let directory: string;
let start: ChildProcess;
let db: DatabaseSync;
let application: NodeJS.Timeout;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-plan-'));
  await writeFile(join(directory, 'foreshadow.yaml'), CONFIG);
  db = new DatabaseSync(join(directory, 'primary.db'), { timeout: 5000 });
  db.exec(`PRAGMA journal_mode = WAL; CREATE TABLE orders (id INTEGER PRIMARY KEY, value INTEGER NOT NULL);
    WITH RECURSIVE ids (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < 500) INSERT INTO orders SELECT id, 0 FROM ids`);
  await begin();
  application = busy();
});

afterAll(async () => {
  clearInterval(application);
  const ended = once(start, 'exit');
  start.kill('SIGTERM');
  await ended;
  db.close();
  await rm(directory, { recursive: true, force: true });
});

async function begin(): Promise<void> {
  start = spawn(process.execPath, [BIN, 'start', '--json'], { cwd: directory, stdio: ['ignore', 'pipe', 'ignore'] });
  await once(start.stdout as NodeJS.ReadableStream, 'data');
}

/** An application that changes rows all the time. */
function busy(): NodeJS.Timeout {
  const update = db.prepare('UPDATE orders SET value = value + 1 WHERE id = ?');
  let change = 0;
  return setInterval(() => {
    update.run(1 + (change ** 2 % 500));
    change++;
  }, 5);
}

/** Asks until what is told is as it should be. */
async function until<Report>(command: string | readonly string[], holds: (report: Report) => boolean): Promise<Report> {
  for (;;) {
    const report = (await succeeds(directory, [command].flat())) as Report;
    if (holds(report)) return report;
  }
}

test('rows are held back by plan, moved, captured VALID, and what was done is kept with its reasons', async () => {
  const planned = await until<PlanReport>(
    'plan',
    ({ turn }) => turn?.mode === 'planned' && turn.waitingRows > 0 && turn.instructions.length > 0,
  );
  expect(planned).toMatchObject({ running: true, policy: 'predictive' });
  // What this machine does not tell of itself has no ceiling.
  expect(planned.troubles.filter((trouble) => !trouble.startsWith('the ceiling of host.disk'))).toEqual([]);
  expect(planned.tables).toEqual([{ table: 'orders', waitingRows: planned.turn?.waitingRows, toleranceMs: 600_000 }]);
  const [timeline, instruction] = [planned.timeline, planned.turn?.instructions[0]];
  expect(timeline?.rows.length).toBe(timeline?.room.length);
  expect(instruction).toMatchObject({ because: expect.stringContaining(' ') as string });
  const captures = await until<CaptureListing[]>('captures', (each) => each.filter(({ state }) => state === 'sealed').length >= 6);
  expect(new Set(captures.flatMap(({ verdict }) => verdict ?? []))).toEqual(new Set(['VALID']));
  const status = (await succeeds(directory, ['status'])) as unknown as StatusReport;
  expect(status.nextCapture?.forecastResidualRows).toBeGreaterThanOrEqual(0);
  const { turns } = (await succeeds(directory, ['plan', '--past', '1h', '--limit', '1000'])) as unknown as { turns: TurnReport[] };
  expect(new Set(turns.map(({ mode }) => mode))).toEqual(new Set(['quiet-first', 'planned']));
  expect(turns[0]?.degraded).toMatch(/what changes so long before a capture was not seen yet/);
  const moved = turns.filter(({ mode, movedRows }) => mode === 'planned' && movedRows > 0);
  expect(moved.length).toBeGreaterThan(0);
  expect(turns.every(({ movedRows, roomRows }) => movedRows <= roomRows)).toBe(true);
});

test('a process that takes over from one that was killed plans from its first turns on', async () => {
  const ended = once(start, 'exit');
  start.kill('SIGKILL');
  await ended;
  const endedMs = Date.now();
  await begin();
  const { turns } = await until<{ turns: TurnReport[] }>('plan --past 1h --limit 1000'.split(' '), (report) =>
    report.turns.some(({ at, mode }) => Date.parse(at) > endedMs && mode === 'planned'),
  );
  const since = turns.filter(({ at }) => Date.parse(at) > endedMs);
  expect(since.map(({ degraded }) => degraded)).not.toContainEqual(
    expect.stringMatching(/what changes so long before a capture was not seen yet/),
  );
});
