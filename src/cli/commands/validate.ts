import type { Command } from 'commander';
import type { ValidateReport } from '../../app/operations.ts';
import { exitOf } from '../failure.ts';
import { captureArgument, newCommand, operationsOf, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { coverageText, differencesText, verdictText } from '../verdict.ts';
import { duration } from '../words.ts';

export function validateCommand(act: Act): Command {
  return newCommand(
    'validate',
    'the live shadow against the primary, or a capture against its seal',
    ['foreshadow validate', 'foreshadow validate 3', 'foreshadow validate --json'],
    'Compares the live shadow with the primary or, given a number, that capture with its own seal, for which the primary is not needed. Only reports. Exits with 16 when the verdict is INVALID, 32 when it is INCONCLUSIVE.',
  )
    .argument('[capture]', 'the number of a capture')
    .action(
      act(async (invocation, capture: string | undefined) => {
        const number = capture === undefined ? null : captureArgument(capture);
        await using operations = await operationsOf(invocation);
        const report = await withProgress(invocation, (progress) => operations.validate(number, progress, invocation.signal));
        if (invocation.json) await invocation.out.json(report);
        else await invocation.out.write(validateText(report));
        return exitOf(report.verdict);
      }),
    );
}

function validateText(report: ValidateReport): string {
  const what = report.capture === null ? 'the live shadow against the primary' : `capture ${report.capture} against its seal`;
  const verdict = report.against === 'seal' && report.verdict === 'VALID' ? 'VALID: as it was sealed' : verdictText(report.verdict);
  const head = `${what}: ${verdict} (${duration(report.elapsedMs)})\n  ${coverageText(report.coverage)}\n`;
  return head + differencesText(report.differences, report.moreDifferences);
}
