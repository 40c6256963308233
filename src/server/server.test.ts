import { link, mkdtemp, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Operations, QueryReport, RestoreRequest, TailLine } from '../app/operations.ts';
import { ForeshadowError } from '../model/errors.ts';
import { openRemote } from './client.ts';
import { serve } from './server.ts';
import { socketPath } from './socket-path.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-socket-'));
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(directory, { recursive: true, force: true });
});

const never = new AbortController().signal;
const place = () => ({ stateDirectory: directory, dataSet: 'shop', version: '0.0.0' });

/** Only what a test speaks of is there; anything else that is called fails it. */
function operations(some: Partial<Operations>): Operations {
  return { async [Symbol.asyncDispose]() {}, ...some } as Operations;
}

async function remote(): Promise<Operations> {
  const opened = await openRemote(directory);
  if (opened === null) throw new Error('nobody serves');
  return opened;
}

describe('through the socket as in the process', () => {
  test('reports come back as they were made, with their arguments', async () => {
    const asked: unknown[] = [];
    const report = { capture: 3, to: 'sqlite:é.db', tables: 1, rows: 2, elapsedMs: 0.5, proved: true, skipped: [] };
    await using _ = await serve(
      operations({
        restore: async (request: RestoreRequest) => {
          asked.push(request);
          return report;
        },
        captures: async () => [],
      }),
      place(),
    );
    await using client = await remote();
    const request = { capture: 3, to: 'sqlite:é.db', table: null };
    expect(await client.restore(request, () => undefined, never)).toEqual(report);
    expect(asked).toEqual([request]);
    expect(await client.captures(never)).toEqual([]);
  });

  test('streams keep their slices, however the bytes are cut', async () => {
    const slices: QueryReport[] = Array.from({ length: 300 }, (_, index) => ({
      columns: ['naïve', '\n'],
      rows: [
        [index, '🦊\n'.repeat(index * 10)],
        [null, '9007199254740993'],
      ],
    }));
    await using _ = await serve(
      operations({
        query: async function* (capture: number, sql: string) {
          expect([capture, sql]).toEqual([1, 'SELECT ✓']);
          yield* slices;
        },
      }),
      place(),
    );
    const client = await remote();
    expect(await Array.fromAsync(client.query(1, 'SELECT ✓', never))).toEqual(slices);
  });

  test('progress is heard, and the error keeps code, remedy and retry', async () => {
    await using _ = await serve(
      operations({
        rollback: async (to, progress) => {
          progress({ phase: 'comparing', table: 'orders', done: 1, total: null, unit: 'rows' });
          throw new ForeshadowError('CAPTURE_MISSING', `there is no capture ${to}`, { remedy: 'see foreshadow captures', retry: 'later' });
        },
      }),
      place(),
    );
    const client = await remote();
    const steps: unknown[] = [];
    await expect(client.rollback(9, (step) => steps.push(step), never)).rejects.toMatchObject({
      code: 'CAPTURE_MISSING',
      message: 'there is no capture 9',
      remedy: 'see foreshadow captures',
      retry: 'later',
    });
    expect(steps).toEqual([{ phase: 'comparing', table: 'orders', done: 1, total: null, unit: 'rows' }]);
  });

  test('an error in the middle of a stream comes after what was sent before it', async () => {
    await using _ = await serve(
      operations({
        script: async function* () {
          yield 'one;';
          throw new TypeError('a fault');
        },
      }),
      place(),
    );
    const client = await remote();
    const got: string[] = [];
    await expect(
      (async () => {
        for await (const text of client.script(1, null, never)) got.push(text);
      })(),
    ).rejects.toThrow('a fault');
    expect(got).toEqual(['one;']);
  });

  test('a client that goes away, by signal or by reading no further, aborts the work', async () => {
    const aborted: string[] = [];
    const line: TailLine = { table: 't', kind: 'delete', key: { id: 1 }, row: null, transaction: '1', position: 'p', committedAt: '' };
    await using _ = await serve(
      operations({
        tail: async function* (signal) {
          try {
            for (;;) {
              signal.throwIfAborted();
              yield line;
            }
          } finally {
            aborted.push('tail');
          }
        },
        resume: (_progress, signal) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => {
              aborted.push('resume');
              reject(signal.reason as Error);
            });
          }),
      }),
      place(),
    );
    const client = await remote();
    for await (const got of client.tail(never)) {
      expect(got).toEqual(line);
      break;
    }
    const leaving = new AbortController();
    const resumed = client.resume(() => undefined, leaving.signal);
    setTimeout(() => leaving.abort(new Error('leaving')), 50);
    await expect(resumed).rejects.toThrow('leaving');
    await expect.poll(() => aborted.toSorted()).toEqual(['resume', 'tail']);
  });

  test('when the server ends, what it was doing is told as cut off', async () => {
    const served = await serve(
      operations({
        resume: (_progress, signal) =>
          new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
      }),
      place(),
    );
    const client = await remote();
    const resumed = client.resume(() => undefined, never);
    const told = expect(resumed).rejects.toMatchObject({ code: 'CONNECTION_LOST', retry: 'later' });
    await new Promise((resolve) => setTimeout(resolve, 50));
    await served[Symbol.asyncDispose]();
    await told;
    expect(await openRemote(directory)).toBeNull();
  });
});

describe('the socket', () => {
  test('is open to its user only', async () => {
    await using served = await serve(operations({}), place());
    expect((await stat(served.path)).mode & 0o777).toBe(0o600);
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
  });

  test('belongs to one server at a time', async () => {
    await using _ = await serve(operations({}), place());
    await expect(serve(operations({}), place())).rejects.toMatchObject({
      code: 'ALREADY_RUNNING',
      message: expect.stringContaining(String(process.pid)) as string,
    });
  });

  test('left behind by a process that died, is replaced', async () => {
    const path = socketPath(directory);
    const dead = createServer().listen(path);
    await new Promise((resolve) => dead.once('listening', resolve));
    // A copy of the file outlives the server, as after kill -9.
    await link(path, `${path}.kept`);
    await new Promise((resolve) => dead.close(resolve));
    await rename(`${path}.kept`, path);
    expect(await openRemote(directory)).toBeNull();
    await using _ = await serve(operations({ captures: async () => [] }), place());
    expect(await (await remote()).captures(never)).toEqual([]);
  });

  test('is where nothing was: nobody runs', async () => {
    expect(await openRemote(directory)).toBeNull();
    await writeFile(socketPath(directory), 'not a socket');
    expect(await openRemote(directory)).toBeNull();
  });

  test('of a long path lies under a short one', async () => {
    vi.stubEnv('TMPDIR', directory);
    const long = join(directory, 'x'.repeat(60), 'y'.repeat(60));
    expect(Buffer.byteLength(socketPath(long))).toBeLessThanOrEqual(103);
    expect(socketPath(long)).not.toBe(socketPath(join(long, 'z')));
    await using served = await serve(operations({ captures: async () => [] }), { ...place(), stateDirectory: long });
    expect(await (await openRemote(long))?.captures(never)).toEqual([]);
    expect((await stat(served.path)).mode & 0o777).toBe(0o600);
  });
});
