import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, platform, release, tmpdir, totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { median } from './measuring.ts';

const ROOT = resolve(import.meta.dirname, '..');
const RESULTS = join(ROOT, 'bench/results');

/** A table of a result: what a reader sees. The JSON beside it has every single measurement. */
export interface ResultTable {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | number)[])[];
}

export interface Result {
  readonly name: string;
  readonly title: string;
  /** How it was measured, in sentences. */
  readonly method: readonly string[];
  /** The command line's part that matters: sizes, rounds, whether this was a quick run. */
  readonly settings: Readonly<Record<string, unknown>>;
  readonly versions?: Readonly<Record<string, string>>;
  readonly tables: readonly ResultTable[];
  /** What the run had to show. */
  readonly checks: readonly Check[];
  readonly measurements: unknown;
}

export interface Check {
  readonly what: string;
  /** Null where the data are too few to tell. */
  readonly passed: boolean | null;
  readonly found: string;
}

/** Writes bench/results/<name>.md and .json, prints the first, and sets the exit code where a check failed. */
export async function record(result: Result): Promise<void> {
  const machine = describeMachine(result.versions ?? {});
  const when = { date: new Date().toISOString(), commit: commit() };
  const text = markdown(result, machine, when);
  await mkdir(RESULTS, { recursive: true });
  await writeFile(join(RESULTS, `${result.name}.md`), text);
  await writeFile(join(RESULTS, `${result.name}.json`), `${JSON.stringify({ ...result, machine, ...when }, null, 1)}\n`);
  process.stdout.write(`\n${text}\n`);
  if (result.checks.some(({ passed }) => passed === false)) process.exitCode = 1;
}

/** A directory of its own under the system's temporary one, removed afterwards: also where a run is ended by Ctrl-C or a deadline. */
export async function temporaryDirectory(): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'foreshadow-bench-'));
  process.once('exit', () => rmSync(path, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** One line on the terminal as work goes on. */
export function say(text: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${text}\n`);
}

export function check(what: string, passed: boolean | null, found: string | number): Check {
  say(`${passed === null ? 'open  ' : passed ? 'ok    ' : 'FAILED'} ${what}: ${found}`);
  return { what, passed, found: String(found) };
}

/** Three digits that mean something. */
export function shown(value: number | null): string {
  if (value === null) return 'unknown';
  if (value === 0) return '0';
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

export function megabytes(bytes: number | null): string {
  return bytes === null ? 'unknown' : shown(bytes / 1e6);
}

/** No name of a host and no path: figures are for strangers. */
function describeMachine(versions: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const cores = cpus();
  return {
    cores: `${cores.length} × ${cores[0]?.model.trim() ?? 'unknown'}`,
    memory: `${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
    system: `${platform()} ${release().split('-')[0]}`,
    'flush of 4 KiB': `${shown(flushMs())} ms (median of 21)`,
    node: process.versions.node,
    sqlite: process.versions.sqlite ?? 'unknown',
    ...versions,
  };
}

function flushMs(): number {
  const path = join(tmpdir(), `foreshadow-bench-flush-${process.pid}`);
  const file = openSync(path, 'w');
  try {
    const page = Buffer.alloc(4096, 1);
    const each = Array.from({ length: 21 }, (_, index) => {
      const begunMs = performance.now();
      writeSync(file, page, 0, page.length, index * page.length);
      fsyncSync(file);
      return performance.now() - begunMs;
    });
    return median(each);
  } finally {
    closeSync(file);
    rmSync(path);
  }
}

function git(...args: string[]): string {
  return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();
}

function commit(): string {
  try {
    const changed = git('status', '--porcelain', '--', 'src') !== '';
    return `${git('rev-parse', '--short', 'HEAD')}${changed ? ' with uncommitted changes in src' : ''}`;
  } catch {
    // A published package has no repository: the version is in package.json.
    return 'unknown';
  }
}

function markdown(
  { title, method, settings, tables, checks }: Result,
  machine: Readonly<Record<string, string>>,
  { date, commit: at }: { readonly date: string; readonly commit: string },
): string {
  const parts = [`# ${title}`, `${date}, commit ${at}.`, method.join(' ')];
  for (const table of tables) parts.push(`## ${table.title}`, grid(table));
  if (checks.length > 0) {
    const rows = checks.map(({ what, passed, found }) => [what, found, passed === null ? 'cannot be judged' : passed ? 'yes' : '**no**']);
    parts.push('## What it had to show', grid({ title: '', columns: ['what', 'found', 'reached'], rows }));
  }
  const pairs = {
    ...machine,
    settings: Object.entries(settings)
      .map(([name, value]) => `${name} ${String(value)}`)
      .join(', '),
  };
  parts.push('## Machine and settings', grid({ title: '', columns: ['', ''], rows: Object.entries(pairs) }));
  return `${parts.join('\n\n')}\n`;
}

function grid({ columns, rows }: ResultTable): string {
  return [columns, columns.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
