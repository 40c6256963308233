import type { Command } from 'commander';
import type { StatusReport } from '../../app/operations.ts';
import { EXIT } from '../failure.ts';
import { newCommand, operationsOf } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { tableText } from '../table.ts';
import { cell, count, duration, localTime, number, size } from '../words.ts';

export function statusCommand(act: Act): Command {
  return newCommand('status', 'lag by table, journal, next capture, known-good', ['foreshadow status', 'foreshadow status --json']).action(
    act(async (invocation) => {
      await using operations = await operationsOf(invocation);
      const report = await operations.status(invocation.signal);
      if (invocation.json) await invocation.out.json(report);
      else await invocation.out.write(statusText(report));
      return EXIT.done;
    }),
  );
}

function statusText(report: StatusReport): string {
  const { captures, journal, nextCapture } = report;
  const lines = [
    `data set    ${report.dataSet} (${report.running ? 'running' : 'not running: foreshadow start'})`,
    `lag         ${report.lagMs === null ? 'unknown while nothing tracks' : duration(report.lagMs)}`,
    `captures    last ${captures.last ?? 'none'}, known-good ${captures.knownGood ?? 'none'}${parked(captures.parkedAt)}`,
    `next        ${nextCapture === null ? (report.running ? 'none scheduled' : 'none while nothing runs') : localTime(nextCapture.at)}${forecast(nextCapture?.forecastResidualRows ?? null)}${nextCapture?.because == null ? '' : `; ${nextCapture.because}`}`,
    `journal     ${journal.path}, ${size(journal.bytes)}${journal.onPrimaryHost === true ? ', on the host of the primary: lost together with it' : ''}`,
    ...trackingLines(report.tracking),
    ...report.unmirroredIndexes.map(({ table, index, reason }) => `index       ${index} of ${table} is not mirrored: ${cell(reason)}`),
    ...report.learning.troubles.map((trouble) => `learning    ${cell(trouble)}`),
  ];
  const table = tableText(
    [
      { title: 'table' },
      { title: 'state' },
      { title: 'lag', right: true },
      { title: 'pending', right: true },
      { title: 'last hour', right: true },
      { title: 'reason' },
    ],
    report.tables.map((each) => [
      each.table,
      stateText(each),
      each.lagMs === null ? '-' : duration(each.lagMs),
      number(each.pendingRows),
      each.lastHour === null ? '-' : changed(each.lastHour),
      each.reason ?? '',
    ]),
  );
  return `${lines.join('\n')}\n\n${report.tables.length === 0 ? 'nothing is shadowed yet: foreshadow capture, or foreshadow start\n' : table}`;
}

function stateText({ state, copiedRows, insertOnly }: StatusReport['tables'][number]): string {
  if (state === 'copying' && copiedRows !== null) return `copying (${count(copiedRows, 'row')} so far)`;
  return insertOnly ? `${state}, inserts only` : state;
}

function trackingLines({ trouble, retained }: StatusReport['tracking']): string[] {
  const lines: string[] = [];
  if (retained !== null) {
    const { slot, bytes, growthBytesPerSecond: growth, limitBytes, secondsLeft, heldBy } = retained;
    const rate = growth === null ? '' : `, ${growth > 0 ? '+' : ''}${growth < 0 ? '-' : ''}${size(Math.abs(growth))}/s`;
    const until = secondsLeft === null ? '' : `, reached in about ${duration(secondsLeft * 1000)}`;
    const limit = limitBytes === null ? 'no limit set' : `limit ${size(limitBytes)}${until}`;
    lines.push(
      `slot        ${slot} keeps ${bytes === null ? 'nothing any more: lost' : size(bytes)} of WAL on the primary${rate} (${limit})`,
    );
    for (const who of heldBy) lines.push(`            held back by ${cell(who)}`);
  }
  if (trouble !== null)
    lines.push(
      `tracking    stands still since ${localTime(trouble.since)}: ${cell(trouble.message)} (${trouble.code})`,
      `            remedy: ${trouble.remedy}`,
    );
  return lines;
}

function changed({ changes, distinctRows }: NonNullable<StatusReport['tables'][number]['lastHour']>): string {
  if (changes === 0) return 'idle';
  return `${count(changes, 'change')}${distinctRows === null ? '' : ` of ${count(distinctRows, 'row')}`}`;
}

function parked(at: number | null): string {
  return at === null ? '' : `; parked at capture ${at} until: foreshadow resume`;
}

function forecast(rows: number | null): string {
  return rows === null ? '' : `, about ${count(rows, 'row')} left to move then`;
}
