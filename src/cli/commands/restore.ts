import type { Command } from 'commander';
import { absoluteUrl, redactUrl } from '../../app/config.ts';
import type { RestoreReport } from '../../app/operations.ts';
import { EXIT } from '../failure.ts';
import { captureArgument, newCommand, operationsOf, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { count, duration } from '../words.ts';

export function restoreCommand(act: Act): Command {
  return newCommand(
    'restore',
    'write a capture into a new database, or as SQL',
    [
      'foreshadow restore 1 --to sqlite:copy.db',
      'foreshadow restore 1 --to postgres://me@localhost/copy',
      'foreshadow restore 1 --table orders --to - > orders.sql',
    ],
    'Writes a capture into a new, empty database of the same kind, with its keys, indexes, constraints, defaults, sequences, views and triggers; or one table of it; or, with "-", SQL on standard output.',
  )
    .argument('<capture>', 'the number of a capture')
    .requiredOption('--to <url>', 'URL of the new database, or - for SQL on standard output')
    .option('--table <table>', 'only this table')
    .action(
      act(async (invocation, capture: string, options: { to: string; table?: string }) => {
        const number = captureArgument(capture);
        const table = options.table ?? null;
        await using operations = await operationsOf(invocation);
        if (options.to === '-') {
          for await (const text of operations.script(number, table, invocation.signal)) await invocation.out.write(text);
          return EXIT.done;
        }
        const to = absoluteUrl(options.to, invocation.directory);
        const report = await withProgress(invocation, (progress) =>
          operations.restore({ capture: number, to, table }, progress, invocation.signal),
        );
        // As it was given: scripts compare it with what they asked, and a password stays unsaid.
        const shown = { ...report, to: redactUrl(options.to) };
        if (invocation.json) await invocation.out.json(shown);
        else await invocation.out.write(restoreText(shown));
        return EXIT.done;
      }),
    );
}

function restoreText(report: RestoreReport): string {
  const proof = report.proved ? 'proved equal to its seal' : 'not proved: the capture has no seal';
  const skipped = report.skipped.map(({ object, reason }) => `  not restored: ${object}: ${reason}\n`).join('');
  const rows = `${count(report.rows, 'row')} of ${count(report.tables, 'table')}`;
  return `capture ${report.capture} restored to ${report.to}: ${rows} in ${duration(report.elapsedMs)}, ${proof}\n${skipped}`;
}
