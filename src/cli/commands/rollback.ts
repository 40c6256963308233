import type { Command } from 'commander';
import { EXIT } from '../failure.ts';
import { captureArgument, newCommand, operationsOf, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { count, duration } from '../words.ts';

export function rollbackCommand(act: Act): Command {
  return newCommand(
    'rollback',
    'make the live shadow equal to a capture again',
    ['foreshadow rollback 1', 'foreshadow rollback 1 --json'],
    'Makes the live shadow equal to a capture again, going forward: no capture is lost, and what the shadow held is captured first. The shadow is then parked: tracking goes on, and foreshadow resume follows the primary again. The primary is never written to.',
  )
    .argument('<capture>', 'the number of a capture')
    .action(
      act(async (invocation, capture: string) => {
        const number = captureArgument(capture);
        await using operations = await operationsOf(invocation);
        const report = await withProgress(invocation, (progress) => operations.rollback(number, progress, invocation.signal));
        if (invocation.json) await invocation.out.json(report);
        else {
          const proof = report.proved ? 'proved against its seal' : 'NOT proved: it does not add up to the seal';
          const before = report.before === null ? '' : `  what it held before is capture ${report.before}\n`;
          const parked = report.parked ? '  parked: foreshadow resume follows the primary again\n' : '';
          const head = `the shadow is at capture ${report.to} again: ${count(report.rows, 'row')} rewritten in ${duration(report.elapsedMs)}, ${proof}`;
          const untouched =
            report.untouched.length === 0 ? '' : `  left as they stand, because the capture lacks them: ${report.untouched.join(', ')}\n`;
          await invocation.out.write(`${head}\n${untouched}${before}${parked}`);
        }
        return report.proved ? EXIT.done : EXIT.invalid;
      }),
    );
}
