import type { Command } from 'commander';
import { chmod, stat, writeFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { absoluteUrl, parseConfig, redactUrl } from '../../app/config.ts';
import type { Config } from '../../app/config.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { EXIT } from '../failure.ts';
import { hasError, printFindings } from '../findings.ts';
import { newCommand } from '../invocation.ts';
import type { Act, Invocation } from '../invocation.ts';

interface InitOptions {
  readonly primary: string;
  readonly shadow: string;
  readonly dataSet?: string;
  readonly tables?: string[];
  readonly exclude?: string[];
  readonly force?: true;
}

export function initCommand(act: Act): Command {
  return newCommand(
    'init',
    'write foreshadow.yaml, check both ends, say what will be installed',
    [
      'foreshadow init --primary sqlite:shop.db --shadow sqlite:shadow.db',
      'foreshadow init --primary postgres://me@db/shop --shadow postgres://me@backup/shop_shadow --tables "public.*"',
      "foreshadow init --primary '${PRIMARY_URL}' --shadow '${SHADOW_URL}'",
    ],
    'Checks both ends, then writes the config file and says what will be installed on the primary. Installs nothing. When something stands in the way nothing is written. URLs go into the file as given; a file that holds a password is readable by you alone. To keep it out of the file give ${NAME} in single quotes: it is read from the environment.',
  )
    .requiredOption('--primary <url>', 'the database to shadow: sqlite:PATH or postgres://…')
    .requiredOption('--shadow <url>', 'a database of the same kind, of its own, for the copy and the captures')
    .option('--data-set <name>', 'the name of the data set (from the name of the database)')
    .option('--tables <patterns...>', 'which tables, as patterns (every one)')
    .option('--exclude <patterns...>', 'tables to leave out, as patterns')
    .option('--force', 'overwrite an existing config file')
    .action(act(init));
}

async function init(invocation: Invocation, options: InitOptions): Promise<typeof EXIT.done | typeof EXIT.failed> {
  const { configPath } = invocation;
  if (options.force !== true && (await exists(configPath))) {
    throw new ForeshadowError('USAGE', `${configPath} exists already`, {
      remedy: 'use it as it is, name another with --config FILE, or overwrite it with --force',
    });
  }
  const text = configText(options, invocation);
  const config = parseConfig(text, configPath, invocation.env);
  const { doctor } = await invocation.systems();
  const { findings } = await doctor(config, invocation.signal);
  if (hasError(findings)) {
    if (invocation.json) await invocation.out.json({ config: null, dataSet: config.dataSet, findings });
    else {
      await printFindings(invocation.out, findings);
      await invocation.out.line('nothing was written: correct the errors, then run the same command again');
    }
    return EXIT.failed;
  }
  const secret = holdsPassword(options);
  await writeFile(configPath, text, { mode: secret ? 0o600 : 0o644 });
  if (secret) await chmod(configPath, 0o600);
  if (invocation.json) {
    await invocation.out.json({ config: configPath, dataSet: config.dataSet, findings });
    return EXIT.done;
  }
  await printFindings(invocation.out, findings);
  await invocation.out.write(closingText(config, secret));
  return EXIT.done;
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

function holdsPassword(options: InitOptions): boolean {
  return [options.primary, options.shadow].some((url) => redactUrl(url) !== url);
}

function configText(options: InitOptions, { directory, configPath, env }: Invocation): string {
  const sqlite = isSqlite(options.primary, env);
  const url = (given: string): string => JSON.stringify(dirname(configPath) === directory ? given : absoluteUrl(given, directory));
  const tables = options.tables ?? [sqlite ? '*' : 'public.*'];
  return `# What is shadowed, where to, and when it is captured. Every setting: docs/reference/config.md
# \${NAME} in a value is read from the environment.
dataSet: ${options.dataSet ?? nameOf(options.primary)}
primary: ${url(options.primary)}
shadow: ${url(options.shadow)}

# What the data set is; * stands for any run of characters. Exclusions: policy.exclude
tables: ${listText(tables)}

policy:
  lagTolerance: 15m # no change waits longer than this to be in the shadow
${options.exclude === undefined ? '' : `  exclude: ${listText(options.exclude)}\n`}
captures:
  schedule: "0 * * * *" # cron, every hour; taken while foreshadow start runs
  validate: changed # none | changed | full
  onInvalid: rollback # rollback | repair | halt
`;
}

function listText(patterns: readonly string[]): string {
  return `[${patterns.map((pattern) => JSON.stringify(pattern)).join(', ')}]`;
}

function isSqlite(url: string, env: Readonly<Record<string, string | undefined>>): boolean {
  const variable = /^\$\{([^}]*)\}$/.exec(url)?.[1];
  return (variable === undefined ? url : (env[variable] ?? '')).startsWith('sqlite:');
}

/** `shop` of `sqlite:/data/Shop.db` and of `postgres://me@db/shop?sslmode=require`. */
function nameOf(url: string): string {
  const last = basename(url.replace(/[?#].*$/s, ''));
  const name = last
    .replace(/^sqlite:/, '')
    .replace(/\.[^.]*$/, '')
    .toLowerCase()
    .replace(/[^a-z0-9_-]+/g, '_')
    .replace(/^[^a-z]+|_+$/g, '')
    .slice(0, 40);
  return url.includes('${') || name === '' ? 'main' : name;
}

function closingText(config: Config, secret: boolean): string {
  const installed = config.primary.startsWith('sqlite:')
    ? 'three small tables (_foreshadow_log, _foreshadow_table, _foreshadow_state) and triggers on each table of the data set'
    : `the publication and the replication slot of data set ${config.dataSet}; while nothing reads the slot it holds back WAL`;
  const secrecy = secret ? 'It holds a password, so only you can read it.\n' : '';
  return `
wrote ${config.path}
${secrecy}The first capture or start will install on ${redactUrl(config.primary)}: ${installed}.
foreshadow uninstall takes it away again.

next: foreshadow capture     copies the data set and takes capture 1
      foreshadow start       keeps the shadow up to date and captures on schedule
`;
}
