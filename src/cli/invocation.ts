import { Command } from 'commander';
import { resolve } from 'node:path';
import { loadConfig } from '../app/config.ts';
import type { Config } from '../app/config.ts';
import type { Systems } from '../app/local-system.ts';
import type { Operations, ProgressListener } from '../app/operations.ts';
import { ForeshadowError } from '../model/errors.ts';
import { openRemote } from '../server/client.ts';
import type { ExitCode } from './failure.ts';
import type { Output } from './output.ts';
import { Progress } from './progress.ts';

/** What a command is run in: everything of the process that it may touch. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly directory: string;
  readonly out: Output;
  /** Progress, notes and errors. */
  readonly err: Output;
  /** Aborted by the first Ctrl-C, or when nobody reads `out` any more. */
  readonly signal: AbortSignal;
  readonly systems: () => Promise<Systems>;
}

/** One run of a command. */
export interface Invocation extends Surroundings {
  readonly configPath: string;
  readonly json: boolean;
}

/** Turns a command's work into what commander calls: the command's arguments, its options, and the command itself. */
export type Act = <Given extends unknown[]>(
  work: (invocation: Invocation, ...given: Given) => Promise<ExitCode>,
) => (...given: [...Given, Command]) => Promise<void>;

/** A command with what all commands have: `--config`, `--json` and examples. */
export function newCommand(name: string, summary: string, examples: readonly string[], description: string = summary): Command {
  const text = examples.map((example) => `  $ ${example}`).join('\n');
  return new Command(name)
    .summary(summary)
    .description(description.endsWith('.') ? description : `${description[0]?.toUpperCase()}${description.slice(1)}.`)
    .option('--config <file>', 'the config file', 'foreshadow.yaml')
    .option('--json', 'print JSON for scripts (docs/reference/json.md)')
    .addHelpText('after', `\nExamples:\n${text}`);
}

/** The config this command was told to use. */
export function configOf(invocation: Invocation): Promise<Config> {
  return loadConfig(invocation.configPath, invocation.env);
}

/** The operations of the data set: those of the running `start` if one answers, else done in this process. */
export async function operationsOf(invocation: Invocation): Promise<Operations> {
  const config = await configOf(invocation);
  const remote = await openRemote(config.stateDirectory);
  if (remote !== null) return remote;
  const { openSystem } = await invocation.systems();
  return openSystem(config, {
    log: (level, message) => {
      if (level === 'warn' || level === 'error') invocation.err.note(`${level === 'warn' ? 'warning' : 'error'}: ${message}\n`);
    },
  });
}

/** Runs work that reports progress, and shows it. */
export async function withProgress<Report>(invocation: Invocation, work: (progress: ProgressListener) => Promise<Report>): Promise<Report> {
  using progress = new Progress(invocation.err);
  return await work(progress.listener);
}

/** A capture number as typed. */
export function captureArgument(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text)) {
    throw new ForeshadowError('USAGE', `"${text}" is not the number of a capture`, {
      remedy: 'give a number that foreshadow captures lists, such as 1',
    });
  }
  return Number(text);
}

export function configPathOf(file: string, directory: string): string {
  return resolve(directory, file);
}
