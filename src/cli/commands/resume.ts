import type { Command } from 'commander';
import { EXIT } from '../failure.ts';
import { newCommand, operationsOf, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { count, duration } from '../words.ts';

export function resumeCommand(act: Act): Command {
  return newCommand(
    'resume',
    'follow the primary again after a rollback',
    ['foreshadow resume', 'foreshadow resume --json'],
    'Ends the parking that a rollback began: replays what the journal holds since that capture, or compares with the primary where the journal no longer reaches.',
  ).action(
    act(async (invocation) => {
      await using operations = await operationsOf(invocation);
      const report = await withProgress(invocation, (progress) => operations.resume(progress, invocation.signal));
      if (invocation.json) await invocation.out.json(report);
      else {
        const how = report.method === 'replay' ? 'replayed from the journal' : 'found by comparing with the primary';
        await invocation.out.line(
          `the shadow follows the primary again, from capture ${report.from}: ${count(report.rows, 'row')} ${how} in ${duration(report.elapsedMs)}`,
        );
      }
      return EXIT.done;
    }),
  );
}
