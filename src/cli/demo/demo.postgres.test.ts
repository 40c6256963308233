import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const BIN = fileURLToPath(new URL('../../../bin/foreshadow.js', import.meta.url));

/** On a busy machine the schedule of the demonstration still takes its time. */
const TIMEOUT_MS = 180_000;

// Both wait for their schedule most of the time.
test.concurrent.each([['SQLite'], ['PostgreSQL', '--postgres']])(
  'the demonstration plays to its end on %s, and leaves nothing behind',
  async (_, ...options) => {
    const directory = await mkdtemp(join(tmpdir(), 'foreshadow-demo-test-'));
    // The embedded servers run as another user where this one is root, and remove their directories themselves.
    await chmod(directory, 0o1777);
    try {
      const child = spawn(process.execPath, [BIN, 'demo', ...options], {
        env: { ...process.env, TMPDIR: directory },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let [out, err] = ['', ''];
      child.stdout.on('data', (text: Buffer) => (out += text.toString()));
      child.stderr.on('data', (text: Buffer) => (err += text.toString()));
      const [exit] = (await once(child, 'close')) as [number];
      expect({ exit, err }, out).toEqual({ exit: 0, err: '' });
      expect(out).toContain('an ordinary program reads the copy: every table has the fingerprint the primary had');
      expect(out).toMatch(/validate\n[^]*INVALID[^]*customers id=7: altered in the shadow/);
      expect(out).toMatch(/validate 1\n[^$]*INVALID[^]*validate 1\n[^$]*VALID/);
      expect(await readdir(directory)).toEqual([]);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
  TIMEOUT_MS,
);
