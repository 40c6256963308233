import { Command, CommanderError } from 'commander';
import { ForeshadowError } from '../model/errors.ts';
import { captureCommand } from './commands/capture.ts';
import { capturesCommand } from './commands/captures.ts';
import { demoCommand } from './commands/demo.ts';
import { diffCommand } from './commands/diff.ts';
import { doctorCommand } from './commands/doctor.ts';
import { forecastCommand } from './commands/forecast.ts';
import { historyCommand } from './commands/history.ts';
import { initCommand } from './commands/init.ts';
import { planCommand } from './commands/plan.ts';
import { PLANNED_COMMANDS, plannedCommands } from './commands/planned.ts';
import { queryCommand } from './commands/query.ts';
import { restoreCommand } from './commands/restore.ts';
import { resumeCommand } from './commands/resume.ts';
import { rollbackCommand } from './commands/rollback.ts';
import { simulateCommand } from './commands/simulate.ts';
import { startCommand } from './commands/start.ts';
import { statusCommand } from './commands/status.ts';
import { tailCommand } from './commands/tail.ts';
import { uninstallCommand } from './commands/uninstall.ts';
import { validateCommand } from './commands/validate.ts';
import { EXIT, failureJson, failureOf, failureText } from './failure.ts';
import type { ExitCode } from './failure.ts';
import { configPathOf } from './invocation.ts';
import type { Act, Invocation, Surroundings } from './invocation.ts';
import { ReaderGone } from './output.ts';
import { version } from './version.ts';

const COMMANDS: readonly ((act: Act) => Command)[] = [
  initCommand,
  doctorCommand,
  startCommand,
  statusCommand,
  historyCommand,
  forecastCommand,
  planCommand,
  captureCommand,
  capturesCommand,
  queryCommand,
  diffCommand,
  restoreCommand,
  validateCommand,
  rollbackCommand,
  resumeCommand,
  tailCommand,
  simulateCommand,
  uninstallCommand,
  demoCommand,
];

/** The program with all its commands. `act` decides what a command's work runs in. */
export function newProgram(act: Act): Command {
  const program = new Command('foreshadow')
    .description('Point-in-time captures of a live database in moments, because the copying has already been done.')
    .version(version())
    .helpCommand(false)
    .addHelpText('after', `\nNot built yet: ${Object.keys(PLANNED_COMMANDS).join(', ')}`)
    .addHelpText(
      'after',
      '\nExamples:\n  $ foreshadow init --primary sqlite:shop.db --shadow sqlite:shadow.db\n  $ foreshadow capture\n  $ foreshadow demo',
    );
  for (const make of COMMANDS) program.addCommand(make(act));
  for (const planned of plannedCommands(act)) program.addCommand(planned, { hidden: true });
  return program;
}

/** Runs one command line (without node and script) and tells what went wrong. Resolves to the exit code. */
export async function runProgram(given: readonly string[], surroundings: Surroundings): Promise<ExitCode> {
  let exit: ExitCode = EXIT.done;
  const act: Act =
    <Given extends unknown[]>(work: (invocation: Invocation, ...given: Given) => Promise<ExitCode>) =>
    async (...all: [...Given, Command]): Promise<void> => {
      const command = all.at(-1) as Command;
      const options = command.opts<{ config?: string; json?: true }>();
      const invocation: Invocation = {
        ...surroundings,
        configPath: configPathOf(options.config ?? 'foreshadow.yaml', surroundings.directory),
        json: options.json === true,
      };
      // Commander passes what the command declared, its arguments and options, and then the command.
      exit = await work(invocation, ...(all.slice(0, -1) as unknown as Given));
    };
  const program = newProgram(act);
  const said: string[] = [];
  for (const command of [program, ...program.commands]) {
    command.exitOverride().configureOutput({ writeOut: (text) => said.push(text), writeErr: () => undefined });
  }
  try {
    if (given.length === 0) said.push(program.helpInformation());
    else await program.parseAsync([...given], { from: 'user' });
  } catch (error) {
    exit = await told(error, given, surroundings);
  }
  await surroundings.out.write(said.join('')).catch((error: unknown) => {
    if (!(error instanceof ReaderGone)) throw error;
  });
  return given.length === 0 ? EXIT.usage : exit;
}

async function told(error: unknown, given: readonly string[], { out, err, env, signal }: Surroundings): Promise<ExitCode> {
  if (error instanceof CommanderError && error.exitCode === 0) return EXIT.done; // --help and --version
  if (error instanceof ReaderGone || signal.reason instanceof ReaderGone) return EXIT.done;
  const failure = signal.aborted
    ? { code: 'INTERRUPTED', message: 'interrupted', remedy: 'run it again: what was durable stays', exit: EXIT.interrupted }
    : failureOf(error instanceof CommanderError ? usageError(error, given) : error);
  if (given.includes('--json')) await out.write(failureJson(failure));
  err.note(failureText(failure));
  if (env['FORESHADOW_DEBUG'] !== undefined) err.note(`${stackOf(error)}\n`);
  return failure.exit;
}

function usageError(error: CommanderError, given: readonly string[]): ForeshadowError {
  const [first = '', suggestion] = error.message.replace(/^error: /, '').split('\n');
  const command = given.find((each) => !each.startsWith('-') && each !== first);
  const help = error.code === 'commander.unknownCommand' || command === undefined ? 'foreshadow --help' : `foreshadow ${command} --help`;
  const meant = /Did you mean (.*)\?/.exec(suggestion ?? '')?.[1];
  return new ForeshadowError('USAGE', first, {
    remedy: meant === undefined ? `see ${help}` : `did you mean ${meant}? See ${help}`,
    cause: error,
  });
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? String(error.stack) : `${error.stack}\ncaused by: ${stackOf(error.cause)}`;
}
