import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { LocalSystem, Systems } from '../app/local-system.ts';
import type { CaptureReport, DoctorReport, RestoreRequest } from '../app/operations.ts';
import { ForeshadowError } from '../model/errors.ts';
import { PLANNED_COMMANDS } from './commands/planned.ts';
import { Output } from './output.ts';
import { newProgram, runProgram } from './program.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-cli-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const CONFIG = 'dataSet: shop\nprimary: sqlite:shop.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n';
const NOTHING: DoctorReport = { findings: [], retained: null };

/** Runs a command line with a system that can do only what the test says. */
async function run(given: string[], can: Partial<LocalSystem> = {}, options: { doctor?: DoctorReport; config?: string | null } = {}) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  const told = { out: '', err: '' };
  out.on('data', (text: Buffer) => (told.out += text.toString()));
  err.on('data', (text: Buffer) => (told.err += text.toString()));
  if (options.config !== null) await writeFile(join(directory, 'foreshadow.yaml'), options.config ?? CONFIG);
  const systems: Systems = {
    openSystem: async () => ({ async [Symbol.asyncDispose]() {}, ...can }) as LocalSystem,
    doctor: async () => options.doctor ?? NOTHING,
    uninstall: async () => undefined,
  };
  const exit = await runProgram(given, {
    env: { NAME: 'value' },
    directory,
    out: new Output(out),
    err: new Output(err),
    signal: new AbortController().signal,
    systems: async () => systems,
  });
  return { exit, ...told };
}

const REPORT: CaptureReport = {
  number: 2,
  verdict: 'VALID',
  at: '2026-01-01T00:00:00.000Z',
  rows: { inserted: 1, updated: 2, deleted: 0 },
  residualRows: 3,
  drainMs: 31,
  cutMs: 4.1,
  validateMs: 90,
  elapsedMs: 140,
  coverage: { tables: 1, rows: 9, witnessed: 0, skipped: [] },
  differences: [],
  conflicts: [],
  cure: null,
  note: null,
  leaves: null,
};

describe('what is asked wrongly changes nothing and exits with 2', () => {
  test.each([
    [['captur'], 'USAGE', 'did you mean capture?'],
    [['diff', '1'], 'USAGE', 'see foreshadow diff --help'],
    [['diff', '1', 'two'], 'USAGE', 'foreshadow captures'],
    [['query', '0', 'SELECT 1'], 'USAGE', 'foreshadow captures'],
    [['restore', '1'], 'USAGE', 'see foreshadow restore --help'],
    [['capture', '--frob'], 'USAGE', 'see foreshadow capture --help'],
    [['simulate'], 'USAGE', 'see foreshadow simulate --help'],
    [['simulate', '--trace', 'x', '--slot', '7m'], 'USAGE', 'choose a slot'],
    [['simulate', '--trace', 'x', '--slot', '0m'], 'USAGE', 'such as 5m'],
    [['simulate', '--trace', 'x', '--capacity', 'much'], 'USAGE', 'write rows per slot'],
    [['capture', 'extra'], 'USAGE', 'see foreshadow capture --help'],
    [['capture', '--config', 'other.yaml'], 'CONFIG_INVALID', 'foreshadow init'],
    ...Object.keys(PLANNED_COMMANDS).map((name): [string[], string, string] => [[name, '3', '--dry-run'], 'NOT_BUILT', 'planned']),
  ])('%j', async (given, code, remedy) => {
    const plain = await run(given);
    expect(plain).toMatchObject({ exit: 2, out: '' });
    expect(plain.err).toMatch(/^error: .* \([A-Z_]+\)\nremedy: .*\n$/);
    expect(plain.err).toContain(`(${code})`);
    expect(plain.err).toContain(remedy);
    const json = await run([...given, '--json']);
    expect(json.exit).toBe(2);
    expect(JSON.parse(json.out)).toEqual({ error: { code, message: expect.any(String) as string, remedy: expect.any(String) as string } });
  });

  test('nothing at all: the help', async () => {
    expect(await run([])).toMatchObject({ exit: 2, out: expect.stringContaining('Usage: foreshadow') as string });
  });
});

test('every command has a help with an example, and the options all commands have', async () => {
  for (const command of newProgram(() => async () => undefined).commands) {
    if (Object.hasOwn(PLANNED_COMMANDS, command.name())) continue;
    const { exit, out, err } = await run([command.name(), '--help']);
    expect({ exit, err }).toEqual({ exit: 0, err: '' });
    expect(out).toMatch(/Examples:\n {2}\$ foreshadow /);
    expect(out).toMatch(/--config <file>[^]*--json/);
  }
});

describe('exit codes', () => {
  test.each([
    ['VALID', 0],
    ['INVALID', 16],
    ['INCONCLUSIVE', 32],
  ] as const)('a verdict of %s exits with %i', async (verdict, exit) => {
    const can: Partial<LocalSystem> = { capture: async () => ({ ...REPORT, verdict }) };
    const json = await run(['capture', '--json'], can);
    expect(json).toMatchObject({ exit, err: '' });
    expect(JSON.parse(json.out)).toEqual({ ...REPORT, verdict });
    const plain = await run(['capture'], can);
    expect(plain).toMatchObject({ exit, out: expect.stringMatching(new RegExp(`^capture 2: ${verdict} in 140 ms`)) as string });
  });

  test('diff says that captures differ only when asked to', async () => {
    const can: Partial<LocalSystem> = {
      diff: async (from, to) => ({ from, to, tables: [{ table: 'orders', inserted: 0, updated: to - 2, deleted: 0 }] }),
    };
    expect((await run(['diff', '1', '3'], can)).exit).toBe(0);
    expect((await run(['diff', '1', '3', '--exit-code'], can)).exit).toBe(16);
    expect((await run(['diff', '1', '2', '--exit-code'], can)).exit).toBe(0);
  });

  test('what fails is told with its remedy, and exits with 1', async () => {
    const can: Partial<LocalSystem> = {
      diff: async () => {
        throw new ForeshadowError('CAPTURE_MISSING', 'there is no capture 9', { remedy: 'see foreshadow captures' });
      },
    };
    const told = await run(['diff', '1', '9', '--json'], can);
    expect(told).toMatchObject({ exit: 1, err: 'error: there is no capture 9 (CAPTURE_MISSING)\nremedy: see foreshadow captures\n' });
    expect(JSON.parse(told.out)).toEqual({
      error: { code: 'CAPTURE_MISSING', message: 'there is no capture 9', remedy: 'see foreshadow captures' },
    });
  });

  test('a fault of our own is told as one, without its stack', async () => {
    const can: Partial<LocalSystem> = {
      resume: async () => {
        throw new TypeError('x is undefined');
      },
    };
    const { exit, err } = await run(['resume'], can);
    expect(exit).toBe(1);
    expect(err).toMatch(/^error: x is undefined \(INTERNAL\)\nremedy: .*FORESHADOW_DEBUG/);
    expect(err).not.toMatch(/^\s+at /m);
  });

  test('doctor fails if anything is an error', async () => {
    const finding = {
      severity: 'error' as const,
      code: 'PRIMARY_SETTING',
      subject: 'wal_level',
      message: 'is replica',
      remedy: 'set it to logical',
    };
    expect((await run(['doctor'])).exit).toBe(0);
    const told = await run(['doctor'], {}, { doctor: { findings: [finding], retained: null } });
    expect(told.exit).toBe(1);
    expect(told.out).toContain('error    wal_level: is replica (PRIMARY_SETTING)\n         remedy: set it to logical\n');
  });
});

const querying = (rows: unknown[][]): Partial<LocalSystem> => ({
  query: async function* () {
    yield { columns: ['id', 'id', 'name'], rows: [] };
    yield { columns: ['id', 'id', 'name'], rows };
  },
});

describe('query', () => {
  test('prints an array of objects, with two columns of one name apart', async () => {
    const { out } = await run(['query', '1', 'SELECT …', '--json'], querying([[1, '9007199254740993', null]]));
    expect(JSON.parse(out)).toEqual([{ id: 1, id_2: '9007199254740993', name: null }]);
    expect((await run(['query', '1', 'SELECT …', '--json'], querying([]))).out).toBe('[]\n');
  });

  test('prints a table, and nothing a terminal would obey', async () => {
    const { out } = await run(['query', '1', 'SELECT …'], querying([[1, 2, 'a\u001b[2Jb\nc']]));
    expect(out).toBe('id  id  name\n1   2   a\\u001b[2Jb\\nc\n');
  });
});

test('diff --rows --json adds the rows to the report', async () => {
  const rows = [
    { table: 't', key: { id: 1 }, before: null, after: { id: 1 } },
    { table: 't', key: { id: 2 }, before: { id: 2 }, after: null },
  ];
  const can: Partial<LocalSystem> = {
    diff: async (from, to) => ({ from, to, tables: [] }),
    diffRows: async function* () {
      yield* rows;
    },
  };
  expect(JSON.parse((await run(['diff', '1', '2', '--rows', '--json'], can)).out)).toEqual({ from: 1, to: 2, tables: [], rows });
});

test('restore goes to a path as seen from where it was asked, and repeats no password', async () => {
  const asked: RestoreRequest[] = [];
  const can: Partial<LocalSystem> = {
    restore: async (request) => {
      asked.push(request);
      return { capture: 1, to: request.to, tables: 1, rows: 2, elapsedMs: 3, proved: true, skipped: [] };
    },
  };
  const { out } = await run(['restore', '1', '--to', 'sqlite:copy.db', '--json'], can);
  expect(JSON.parse(out)).toMatchObject({ to: 'sqlite:copy.db' });
  await run(['restore', '1', '--to', 'postgres://me:hunter2@h/d', '--table', 'public.t'], can).then((told) =>
    expect(told.out).not.toContain('hunter2'),
  );
  expect(asked).toEqual([
    { capture: 1, to: `sqlite:${join(directory, 'copy.db')}`, table: null },
    { capture: 1, to: 'postgres://me:hunter2@h/d', table: 'public.t' },
  ]);
});

const path = () => join(directory, 'foreshadow.yaml');

describe('init', () => {
  const ends = ['--primary', 'sqlite:My Shop.db', '--shadow', 'sqlite:shadow.db'];

  test('writes a config that the other commands read', async () => {
    const { exit, out } = await run(['init', ...ends], {}, { config: null });
    expect({ exit, out }).toMatchObject({ exit: 0, out: expect.stringContaining('foreshadow capture') as string });
    expect(await readFile(path(), 'utf8')).toContain('dataSet: my_shop\nprimary: "sqlite:My Shop.db"\n');
    expect((await stat(path())).mode & 0o777).toBe(0o644 & ~process.umask());
    expect((await run(['doctor', '--json'], {}, { config: await readFile(path(), 'utf8') })).exit).toBe(0);
  });

  test('overwrites only when told to', async () => {
    expect(await run(['init', ...ends])).toMatchObject({ exit: 2, err: expect.stringContaining('--force') as string });
    expect(await readFile(path(), 'utf8')).toBe(CONFIG);
    expect((await run(['init', ...ends, '--force', '--data-set', 'other'])).exit).toBe(0);
    expect(await readFile(path(), 'utf8')).toContain('dataSet: other\n');
  });

  test('keeps a password for its user, and takes it from the environment if told so', async () => {
    const given = ['init', '--primary', 'postgres://me:hunter2@h/shop', '--shadow', 'postgres://me@h/shadow'];
    const { out, err } = await run(given, {}, { config: null });
    expect(out + err).not.toContain('hunter2');
    expect((await stat(path())).mode & 0o777).toBe(0o600);
    await rm(path());
    await run(['init', '--primary', 'sqlite:${NAME}.db', '--shadow', 'sqlite:s.db'], {}, { config: null });
    expect(await readFile(path(), 'utf8')).toContain('primary: "sqlite:${NAME}.db"\n');
  });

  test('writes nothing while something stands in the way', async () => {
    const findings = [
      { severity: 'error' as const, code: 'PRIMARY_ACCESS', subject: 'x', message: 'wrong password', remedy: 'the right one' },
    ];
    const { exit, out } = await run(['init', ...ends], {}, { config: null, doctor: { findings, retained: null } });
    expect(exit).toBe(1);
    expect(out).toContain('nothing was written');
    await expect(stat(path())).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

test('a reader that goes away ends the command quietly', async () => {
  await writeFile(join(directory, 'foreshadow.yaml'), CONFIG);
  const [out, err] = [new PassThrough(), new PassThrough()];
  let told = '';
  err.on('data', (text: Buffer) => (told += text.toString()));
  const output = new Output(out);
  const system = {
    async [Symbol.asyncDispose]() {},
    tail: async function* () {
      for (;;) {
        yield { table: 't', kind: 'truncate', key: null, row: null, transaction: '1', position: '', committedAt: '' };
        out.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
        await new Promise((resolve) => setImmediate(resolve));
      }
    },
  } as unknown as LocalSystem;
  const systems: Systems = { openSystem: async () => system, doctor: async () => NOTHING, uninstall: async () => undefined };
  const surroundings = { env: {}, directory, out: output, err: new Output(err), signal: output.closed, systems: async () => systems };
  expect(await runProgram(['tail'], surroundings)).toBe(0);
  expect(told).toBe('');
});
