import type { Command } from 'commander';
import type { DiffReport, DiffRow, Operations } from '../../app/operations.ts';
import { EXIT } from '../failure.ts';
import { captureArgument, newCommand, operationsOf } from '../invocation.ts';
import type { Act, Invocation } from '../invocation.ts';
import { tableText } from '../table.ts';
import { cell, keyText, number } from '../words.ts';

export function diffCommand(act: Act): Command {
  return newCommand(
    'diff',
    'what changed between two captures',
    ['foreshadow diff 1 2', 'foreshadow diff 1 2 --rows', 'foreshadow diff 1 2 --exit-code --json'],
    'Says how many rows of each table were inserted, updated and deleted between two captures; with --rows, which, before and after.',
  )
    .argument('<from>', 'the number of the earlier capture')
    .argument('<to>', 'the number of the later capture')
    .option('--rows', 'print the rows, before and after')
    .option('--exit-code', 'exit with 16 if they differ')
    .action(
      act(async (invocation, from: string, to: string, options: { rows?: true; exitCode?: true }) => {
        const [a, b] = [captureArgument(from), captureArgument(to)];
        await using operations = await operationsOf(invocation);
        const report = await operations.diff(a, b, invocation.signal);
        if (invocation.json) await printJson(invocation, operations, report, options.rows === true);
        else await printText(invocation, operations, report, options.rows === true);
        return options.exitCode === true && differs(report) ? EXIT.invalid : EXIT.done;
      }),
    );
}

function differs(report: DiffReport): boolean {
  return report.tables.some((table) => table.inserted + table.updated + table.deleted > 0);
}

/** One object; the rows are written as they come, so any number of them is fine. */
async function printJson(invocation: Invocation, operations: Operations, report: DiffReport, rows: boolean): Promise<void> {
  if (!rows) {
    await invocation.out.json(report);
    return;
  }
  await invocation.out.write(`${JSON.stringify(report).slice(0, -1)},"rows":[`);
  let separator = '';
  for await (const row of operations.diffRows(report.from, report.to, invocation.signal)) {
    await invocation.out.write(`${separator}${JSON.stringify(row)}`);
    separator = ',\n';
  }
  await invocation.out.write(']}\n');
}

async function printText(invocation: Invocation, operations: Operations, report: DiffReport, rows: boolean): Promise<void> {
  const right = true;
  await invocation.out.write(
    tableText(
      [{ title: 'table' }, { title: 'inserted', right }, { title: 'updated', right }, { title: 'deleted', right }],
      report.tables.map((each) => [each.table, number(each.inserted), number(each.updated), number(each.deleted)]),
    ),
  );
  if (!rows) return;
  for await (const row of operations.diffRows(report.from, report.to, invocation.signal)) await invocation.out.write(rowText(row));
}

/** `+` a row inserted, `-` deleted, `~` updated with the columns that changed. */
function rowText(row: DiffRow): string {
  const head = `${row.table} ${keyText(row.key)}`;
  if (row.before === null) return `+ ${head}  ${columnsText(row.after ?? {})}\n`;
  if (row.after === null) return `- ${head}  ${columnsText(row.before)}\n`;
  const { before, after } = row;
  const changed = Object.keys(after).filter((column) => JSON.stringify(before[column]) !== JSON.stringify(after[column]));
  return `~ ${head}  ${changed.map((column) => `${cell(column)}: ${cell(before[column])} → ${cell(after[column])}`).join(', ')}\n`;
}

function columnsText(row: Readonly<Record<string, unknown>>): string {
  return Object.entries(row)
    .map(([column, value]) => `${cell(column)}: ${cell(value)}`)
    .join(', ');
}
