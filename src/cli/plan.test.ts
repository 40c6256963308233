import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { LocalSystem } from '../app/local-system.ts';
import type { PlanReport, TurnReport } from '../app/plan-report.ts';
import { openSqliteHistory } from '../stores/sqlite/history.ts';
import { slotLengths } from '../tracking/history.ts';
import { Output } from './output.ts';
import { runProgram } from './program.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-plan-cli-'));
  await writeFile(join(directory, 'foreshadow.yaml'), 'dataSet: shop\nprimary: sqlite:shop.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n');
});
afterAll(() => rm(directory, { recursive: true, force: true }));

/** What the command prints, in a place where this is the plan. */
async function printed(given: string[], report: PlanReport | null = null): Promise<string> {
  const out = new PassThrough();
  let text = '';
  out.on('data', (part: Buffer) => (text += part.toString()));
  const system = { plan: async () => report, async [Symbol.asyncDispose]() {} } as unknown as LocalSystem;
  const exit = await runProgram(['plan', ...given], {
    env: {},
    directory,
    out: new Output(out),
    err: new Output(new PassThrough()),
    signal: new AbortController().signal,
    systems: async () => ({ openSystem: async () => system }) as never,
  });
  expect(exit).toBe(0);
  return text;
}

const TURN: TurnReport = {
  at: '2026-11-22T10:00:00.000Z',
  mode: 'planned',
  degraded: null,
  ease: 0.25,
  batchShare: 0.8125,
  copiesYield: true,
  dueAt: '2026-11-22T11:00:00.000Z',
  waitingRows: 900,
  waitingBytes: 90_000,
  movedRows: 40,
  movedBytes: 4000,
  roomRows: 120,
  boundBy: 'host.cpu',
  residualRows: 35,
  instructions: [{ kind: 'prioritise', table: 'orders', rows: 40, until: '2026-11-22T11:00:00.000Z', because: 'later slots have no room' }],
};
const PLAN: PlanReport = {
  running: true,
  policy: 'predictive',
  turn: TURN,
  nextCapture: { at: '2026-11-22T11:00:00.000Z', because: 'the primary is forecast to be quietest then' },
  tables: [{ table: 'orders', waitingRows: 900, toleranceMs: 900_000 }],
  timeline: { from: TURN.at, slotMs: 60_000, rows: [0, 60, 120], room: [120, 120, 120] },
  load: [{ resource: 'host.cpu', ceiling: 0.7, now: 0.2, upper: [0.35, null, 0.7], costPerRow: 0.001 }],
  troubles: ['rows move quiet-first: planning failed: of course'],
};

test('says what will move when, and why', async () => {
  const text = await printed([], PLAN);
  expect(text).toMatch(/next {8}\S+ \S+: the primary is forecast to be quietest then/);
  expect(text).toContain(
    'waiting     900 rows; 40 moved in this slot, with room for 120, as host.cpu allows; about 35 rows left when the capture is due',
  );
  expect(text).toContain('gives way   25 % of the way: batches of 81 %, copies and validation yield');
  expect(text).toContain('trouble     rows move quiet-first: planning failed: of course');
  expect(text).toMatch(/prioritise {2}orders, 40 rows until \d\d:00:00\n {12}later slots have no room/);
  expect(text).toMatch(/rows to move, by slot +120 {2}▁▅█/);
  expect(text).toMatch(/host\.cpu, of its ceiling +100 % {2}▅ █/);
});

test('says when nothing runs, when nothing is planned, and why', async () => {
  expect(await printed([], { ...PLAN, running: false })).toBe(
    'nothing runs, so nothing is planned: foreshadow start (what was done before: foreshadow plan --past)\n',
  );
  expect(await printed([], { ...PLAN, policy: 'stream-everything', turn: null, timeline: null })).toContain(
    'every change moves as it comes',
  );
  const turn: TurnReport = { ...TURN, mode: 'quiet-first', degraded: 'there is no forecast yet', instructions: [] };
  expect(await printed([], { ...PLAN, turn, timeline: null })).toContain('predictive, but quiet-first for now: there is no forecast yet');
  expect(JSON.parse(await printed(['--json'], PLAN))).toEqual(PLAN);
});

test('says what was done and why, each reason once', async () => {
  expect(await printed(['--past'])).toMatch(/^no turn is kept/);
  const history = openSqliteHistory(join(directory, '.foreshadow', 'history.db'), slotLengths(86_400_000));
  const nowMs = Date.now();
  for (const ago of [3, 2, 1]) {
    const instructions = TURN.instructions.map((each) => ({ ...each, because: `${each.because} for ${ago}` }));
    const turn = { ...TURN, at: new Date(nowMs - ago * 60_000).toISOString(), movedRows: ago, instructions };
    await history.keepTurn({ atMs: nowMs - ago * 60_000, document: JSON.stringify(turn) });
  }
  await history[Symbol.asyncDispose]();
  const text = await printed(['--past', '1h']);
  expect(text.match(/planned/g)).toHaveLength(3);
  expect(text.match(/ {2}prioritise orders: later slots have no room/g)).toHaveLength(1);
  // All of the time that was asked for, though it be more than what fits on a screen.
  const kept = openSqliteHistory(join(directory, '.foreshadow', 'history.db'), slotLengths(86_400_000));
  for (let ago = 100; ago > 3; ago--) await kept.keepTurn({ atMs: nowMs - ago * 60_000, document: JSON.stringify(TURN) });
  await kept[Symbol.asyncDispose]();
  expect((await printed(['--past', '2h'])).match(/planned/g)).toHaveLength(100);
  const { turns } = JSON.parse(await printed(['--past', '--limit', '2', '--json'])) as { turns: TurnReport[] };
  expect(turns.map(({ movedRows }) => movedRows)).toEqual([2, 1]);
});
