#!/usr/bin/env node
// Plain JavaScript for any Node.js from 20 on: finds a Node.js that can run Foreshadow, then runs it there.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as modules from 'node:module';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const NEEDED = 24;
const here = dirname(fileURLToPath(import.meta.url));

/** node_modules/.bin/node of the package `node`, beside or above this file, if it is new enough. */
function newerNode() {
  for (let folder = dirname(here); ; folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', '.bin', 'node');
    if (existsSync(candidate)) {
      const answer = spawnSync(candidate, ['--version'], { encoding: 'utf8' });
      if (answer.status === 0 && Number(/^v(\d+)/.exec(answer.stdout)?.[1]) >= NEEDED) return candidate;
    }
    if (dirname(folder) === folder) return null;
  }
}

if (Number(process.versions.node.split('.')[0]) >= NEEDED) {
  if (process.env['FORESHADOW_WRAPPED'] !== undefined) {
    // Killed hard, the process that started this one tells nobody: without this the work would go on behind the user's back.
    delete process.env['FORESHADOW_WRAPPED'];
    process.once('disconnect', () => process.kill(process.pid, 'SIGKILL'));
    process.channel?.unref();
  }
  const published = join(here, '..', 'dist', 'cli', 'main.js');
  const source = join(here, '..', 'src', 'cli', 'main.ts');
  // In a checkout the types are stripped anew in each run; kept, that costs a third.
  if (existsSync(source)) modules.enableCompileCache(join(here, '..', 'node_modules', '.cache', 'foreshadow'));
  const { main } = await import(existsSync(source) ? source : published);
  await main();
} else {
  const node = newerNode();
  if (node === null) {
    process.stderr.write(
      `error: Foreshadow needs Node.js ${NEEDED} or newer, this is ${process.versions.node} (VERSION_UNSUPPORTED)\n` +
        `remedy: install it from https://nodejs.org, or put it beside Foreshadow: npm install node@${NEEDED}\n`,
    );
    process.exitCode = 1;
  } else {
    const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
      stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
      env: { ...process.env, FORESHADOW_WRAPPED: '1' },
    });
    // A terminal sends Ctrl-C to both, a supervisor here only: the child takes two within a moment for one. It decides how to end.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
    child.on('error', (error) => {
      process.stderr.write(`error: ${node} cannot be run: ${error.message} (VERSION_UNSUPPORTED)\n`);
      process.exitCode = 1;
    });
    child.on('exit', (code, signal) => {
      process.exitCode = code ?? 128 + (constants.signals[signal] ?? 0);
    });
  }
}
