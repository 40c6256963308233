import type { Command } from 'commander';
import type { CaptureReport } from '../../app/operations.ts';
import { exitOf } from '../failure.ts';
import { newCommand, operationsOf, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { coverageText, differencesText, rowsText } from '../verdict.ts';
import { cell, count, duration, keyText } from '../words.ts';

export function captureCommand(act: Act): Command {
  return newCommand(
    'capture',
    'take a capture now',
    ['foreshadow capture', 'foreshadow capture --json'],
    'Takes a capture now, through the running start or alone: alone it copies what was never copied, tracks, drains, cuts, validates, and says what it leaves on the primary. Exits with 16 when the verdict is INVALID, 32 when it is INCONCLUSIVE.',
  ).action(
    act(async (invocation) => {
      await using operations = await operationsOf(invocation);
      const report = await withProgress(invocation, (progress) => operations.capture(progress, invocation.signal));
      if (invocation.json) await invocation.out.json(report);
      else await invocation.out.write(captureText(report));
      return exitOf(report.verdict);
    }),
  );
}

function captureText(report: CaptureReport): string {
  const times = `drained ${duration(report.drainMs)}, cut ${duration(report.cutMs)}, validated ${duration(report.validateMs)}`;
  const lines = [
    `capture ${report.number}: ${report.verdict} in ${duration(report.elapsedMs)} (${times})`,
    `  ${rowsText(report.rows)}; ${count(report.residualRows, 'row')} left to move when it was due`,
    `  ${coverageText(report.coverage)}`,
    ...report.conflicts.map(({ table, key }) => `  foreign write to the shadow undone: ${table} ${keyText(key)}`),
  ];
  const cure = report.cure === null ? '' : `  cure: ${report.cure.action}, ${count(report.cure.rows, 'row')}: ${report.cure.note}\n`;
  const note = report.note === null || report.note === report.cure?.note ? '' : `  ${cell(report.note)}\n`;
  const leaves = report.leaves === null ? '' : `  from now on ${report.leaves}\n`;
  return `${lines.join('\n')}\n${differencesText(report.differences)}${cure}${note}${leaves}`;
}
