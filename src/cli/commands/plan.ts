import type { Command } from 'commander';
import { parseDuration } from '../../app/config-duration.ts';
import { type InstructionReport, type PlanReport, type TurnReport, pastTurns } from '../../app/plan-report.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { DRAWN, drawn, gathered } from '../drawing.ts';
import { EXIT } from '../failure.ts';
import { configOf, newCommand, operationsOf } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { tableText } from '../table.ts';
import { cell, count, duration, localTime, number } from '../words.ts';

interface Options {
  readonly past?: string | true;
  readonly limit: string;
}

const PAST = '1h';
const TURNS_SHOWN_MAX = 20_000;

export function planCommand(act: Act): Command {
  return newCommand(
    'plan',
    'what will move when, and why',
    ['foreshadow plan', 'foreshadow plan --past 6h', 'foreshadow plan --past 1d --json'],
    'Shows what is to move into the shadow until the next capture, slot by slot against the load forecast, the instructions in force and their reasons; with --past what was done and why. Plans are made by a running start.',
  )
    .option('--past [duration]', `what was done and why, of that long (default: ${PAST})`)
    .option('--limit <number>', 'of the past, how many turns at most: the newest', String(TURNS_SHOWN_MAX))
    .action(
      act(async (invocation, { past, limit }: Options) => {
        if (past !== undefined) {
          const sinceMs = durationOf(past === true ? PAST : past);
          const turns = await pastTurns(await configOf(invocation), Date.now() - sinceMs, limitOf(limit));
          if (invocation.json) await invocation.out.json({ turns });
          else await invocation.out.write(pastText(turns));
          return EXIT.done;
        }
        await using operations = await operationsOf(invocation);
        const report = await operations.plan(invocation.signal);
        if (invocation.json) await invocation.out.json(report);
        else await invocation.out.write(planText(report));
        return EXIT.done;
      }),
    );
}

function durationOf(text: string): number {
  const parsed = parseDuration(text);
  if ('ms' in parsed) return parsed.ms;
  throw new ForeshadowError('USAGE', `--past: ${parsed.problem}`, { remedy: parsed.remedy });
}

function limitOf(text: string): number {
  const limit = Number(text);
  if (Number.isInteger(limit) && limit > 0 && limit <= TURNS_SHOWN_MAX) return limit;
  throw new ForeshadowError('USAGE', `--limit ${text} is no number of turns`, { remedy: `give one from 1 to ${number(TURNS_SHOWN_MAX)}` });
}

const right = true;

function planText(report: PlanReport): string {
  if (!report.running) return 'nothing runs, so nothing is planned: foreshadow start (what was done before: foreshadow plan --past)\n';
  const { turn, nextCapture, troubles } = report;
  const lines = [
    `policy      ${report.policy}${modeText(report.policy, turn)}`,
    `next        ${nextCapture === null ? 'no capture is scheduled' : localTime(nextCapture.at)}${nextCapture?.because == null ? '' : `: ${nextCapture.because}`}`,
    ...(turn === null ? [] : turnLines(turn)),
    ...troubles.map((trouble) => `trouble     ${cell(trouble)}`),
  ];
  const parts = [`${lines.join('\n')}\n`];
  if (turn !== null && turn.instructions.length > 0) parts.push(instructionsText(turn.instructions));
  if (report.timeline !== null) parts.push(timelineText(report.timeline, report.load));
  return parts.join('\n');
}

function modeText(policy: PlanReport['policy'], turn: TurnReport | null): string {
  if (policy === 'stream-everything') return ': every change moves as it comes';
  if (turn === null) return ': no turn was taken yet';
  if (turn.mode === 'planned') return '';
  return turn.degraded === null ? '' : `, but quiet-first for now: ${turn.degraded}`;
}

function turnLines(turn: TurnReport): string[] {
  const bound = turn.boundBy === null ? '' : `, as ${turn.boundBy} allows`;
  const left = turn.residualRows === null ? '' : `; about ${count(turn.residualRows, 'row')} left when the capture is due`;
  return [
    `waiting     ${count(turn.waitingRows, 'row')}; ${number(turn.movedRows)} moved in this slot, with room for ${number(turn.roomRows)}${bound}${left}`,
    ...(turn.ease === 0
      ? []
      : [
          `gives way   ${Math.round(100 * turn.ease)} % of the way: batches of ${Math.round(100 * turn.batchShare)} %${turn.copiesYield ? ', copies and validation yield' : ''}`,
        ]),
  ];
}

function instructionsText(instructions: readonly InstructionReport[]): string {
  return instructions
    .map(({ kind, table, rows, until, because }) => {
      const whom = table === null ? 'all tables' : cell(table);
      const amount = rows === null ? '' : `, ${count(rows, 'row')}`;
      return `${kind.padEnd(11)} ${whom}${amount}${until === null ? '' : ` until ${localTime(until).slice(11)}`}\n            ${cell(because)}\n`;
    })
    .join('');
}

/** Rows per slot beside the room there is for them, and each resource beside its ceiling, which is a full character. */
function timelineText({ from, slotMs, rows, room }: NonNullable<PlanReport['timeline']>, load: PlanReport['load']): string {
  const each = Math.max(1, Math.ceil(rows.length / DRAWN));
  const most = Math.max(0, ...gathered(room, each).map((value) => value ?? 0));
  const figures = (values: readonly (number | null)[]): string => number(Math.round(Math.max(0, ...values.map((value) => value ?? 0))));
  const table = tableText(
    [{ title: `from ${localTime(from)}, by ${duration(slotMs * each)}` }, { title: 'most', right }, { title: '' }],
    [
      ['rows to move, by slot', figures(rows), drawn(gathered(rows, each), most)],
      ['room for rows', figures(room), drawn(gathered(room, each), most)],
      ...load.map(({ resource, ceiling, upper }) => {
        const share = Math.max(0, ...upper.map((value) => value ?? 0)) / ceiling;
        return [
          `${cell(resource)}, of its ceiling`,
          `${Math.round(100 * share)} %`,
          drawn(
            gathered(upper, each).map((value) => capped(value, ceiling)),
            ceiling,
          ),
        ];
      }),
    ],
  );
  return table;
}

function capped(value: number | null, ceiling: number): number | null {
  return value === null ? null : Math.min(value, ceiling);
}

function pastText(turns: readonly TurnReport[]): string {
  if (turns.length === 0) return 'no turn is kept of that time: plans are made by a running foreshadow start\n';
  const rows = turns.map((turn) => [
    localTime(turn.at),
    turn.mode,
    number(turn.waitingRows),
    number(turn.movedRows),
    `${number(turn.roomRows)}${turn.boundBy === null ? '' : ` (${turn.boundBy})`}`,
    turn.residualRows === null ? '-' : number(turn.residualRows),
    turn.ease === 0 ? '' : `${Math.round(100 * turn.ease)} %`,
  ]);
  const columns = [
    { title: 'turn' },
    { title: 'mode' },
    { title: 'waiting', right },
    { title: 'moved', right },
    { title: 'room', right },
    { title: 'left when due', right },
    { title: 'gave way', right },
  ];
  const [titles, ...lines] = tableText(columns, rows).trimEnd().split('\n');
  const told = lines.map((line, index) => `${line}\n${reasonsOf(turns[index], turns[index - 1])}`);
  return `${titles}\n${told.join('')}`;
}

/** What is told of the turn before goes without saying, though its figures be others. */
function reasonsOf(turn: TurnReport | undefined, before: TurnReport | undefined): string {
  const isNew = ({ kind, table }: InstructionReport): boolean =>
    before?.instructions.some((each) => each.kind === kind && each.table === table) !== true;
  const because = (turn?.instructions ?? [])
    .filter(isNew)
    .map(({ kind, table, because: why }) => `  ${kind} ${table === null ? 'all tables' : cell(table)}: ${cell(why)}\n`);
  const degraded = turn?.degraded ?? null;
  return `${degraded === null || degraded === before?.degraded ? '' : `  not planned: ${cell(degraded)}\n`}${because.join('')}`;
}
