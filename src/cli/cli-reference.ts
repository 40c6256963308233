import { PLANNED_COMMANDS } from './commands/planned.ts';
import { newProgram } from './program.ts';

const WIDTH = 110;

/** `docs/reference/cli.md`, made from the commands; a test holds the page against them. */
export function cliReferencePage(): string {
  const program = newProgram(() => async () => undefined);
  const sections = program.commands
    .filter((command) => !Object.hasOwn(PLANNED_COMMANDS, command.name()))
    .flatMap((command) => {
      let help = '';
      command.configureHelp({ helpWidth: WIDTH }).configureOutput({ writeOut: (text) => (help += text), getOutHelpWidth: () => WIDTH });
      command.outputHelp();
      return [`## foreshadow ${command.name()}`, '', '```', help.trimEnd(), '```', ''];
    });
  return [
    '# The command line',
    '',
    'Generated from the commands in `src/cli/commands/`; `foreshadow COMMAND --help` prints the same.',
    '',
    'Every command takes `--config FILE` (default `./foreshadow.yaml`) and `--json` ([what it prints](json.md)). State lives in `.foreshadow/`',
    'beside the config. While a `foreshadow start` runs, the other commands work through it, by a socket there that only its user may',
    'open; otherwise they do the work themselves.',
    '',
    '| exit | meaning |',
    '| --- | --- |',
    '| 0 | done |',
    '| 1 | failed |',
    '| 2 | asked wrongly: usage, config, or a feature that is not built yet |',
    '| 16 | INVALID (`diff --exit-code`: they differ) |',
    '| 32 | INCONCLUSIVE |',
    '| 130 | interrupted |',
    '',
    'An error is two lines on standard error, `error: … (CODE)` and `remedy: …`; `FORESHADOW_DEBUG=1` adds the stack.',
    '',
    ...sections,
    '## Not built yet',
    '',
    `${Object.keys(PLANNED_COMMANDS)
      .map((name) => `\`${name}\``)
      .join(', ')} belong to the design. They are refused with \`NOT_BUILT\` and exit with 2.`,
    '',
  ].join('\n');
}
