import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect } from 'vitest';

const BIN = join(import.meta.dirname, '..', 'bin', 'foreshadow.js');

export interface Ended {
  readonly code: number | null;
  /** Ended by SIGKILL: by a failpoint, in these tests. */
  readonly killed: boolean;
  readonly out: string;
  readonly err: string;
}

/** Runs a command of the checkout as a process of its own, in a directory with a config, with `--json`. */
export function foreshadow(directory: string, parameters: readonly string[], failpoint?: string): Promise<Ended> {
  return spawned(directory, [BIN, ...parameters, '--json'], failpoint);
}

/** Holds rows back and moves some, then takes a capture: `holding-process.ts`. */
export function holding(directory: string, failpoint?: string): Promise<Ended> {
  return spawned(directory, [join(import.meta.dirname, 'holding-process.ts')], failpoint);
}

function spawned(directory: string, parameters: readonly string[], failpoint?: string): Promise<Ended> {
  const env = { ...process.env, ...(failpoint === undefined ? {} : { FORESHADOW_FAILPOINT: failpoint }) };
  const child = spawn(process.execPath, parameters, { cwd: directory, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, killed: signal === 'SIGKILL', out, err }));
  });
}

/** As `foreshadow`, for a command that must succeed: its report. */
export async function succeeds(directory: string, parameters: readonly string[]): Promise<Record<string, unknown>> {
  const ended = await foreshadow(directory, parameters);
  expect(ended, ended.err + ended.out).toMatchObject({ code: 0 });
  return JSON.parse(ended.out) as Record<string, unknown>;
}
