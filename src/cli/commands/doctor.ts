import type { Command } from 'commander';
import { EXIT } from '../failure.ts';
import { hasError, printFindings } from '../findings.ts';
import { configOf, newCommand } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { count } from '../words.ts';

export function doctorCommand(act: Act): Command {
  return newCommand(
    'doctor',
    'check everything; each finding with a remedy',
    ['foreshadow doctor', 'foreshadow doctor --json'],
    'Checks the config, both ends and what is installed, and says for each finding what to do. Changes nothing. Exits with 1 if anything is an error.',
  ).action(
    act(async (invocation) => {
      const config = await configOf(invocation);
      const { doctor } = await invocation.systems();
      const report = await doctor(config, invocation.signal);
      if (invocation.json) await invocation.out.json(report);
      else {
        await printFindings(invocation.out, report.findings);
        const errors = report.findings.filter((finding) => finding.severity === 'error').length;
        await invocation.out.line(errors === 0 ? 'nothing stands in the way' : `${count(errors, 'error')}: correct them first`);
      }
      return hasError(report.findings) ? EXIT.failed : EXIT.done;
    }),
  );
}
