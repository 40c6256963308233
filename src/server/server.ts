import { once } from 'node:events';
import { chmod, unlink } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Operations, ProgressListener } from '../app/operations.ts';
import { ForeshadowError, isAbort } from '../model/errors.ts';
import { alreadyServing, greetingOf } from './client.ts';
import { PROTOCOL, isOperationName, requests, toRemoteError } from './protocol.ts';
import type { AnswerLine, Greeting, OperationArguments, OperationName } from './protocol.ts';
import { prepareSocketDirectory, socketPath } from './socket-path.ts';

const REQUEST_BYTES_MAX = 16 * 1024 * 1024;
/** Progress is for eyes: more often than this says nothing more. */
const PROGRESS_EVERY_MS = 50;

export interface Served extends AsyncDisposable {
  readonly path: string;
}

/**
 * Serves operations on the data set's socket until it is disposed; work asked for by a client that went away is aborted.
 * Throws ALREADY_RUNNING where another process answers there. A socket file that nobody answers on is replaced.
 */
export async function serve(operations: Operations, place: { stateDirectory: string; dataSet: string; version: string }): Promise<Served> {
  const path = socketPath(place.stateDirectory);
  await prepareSocketDirectory(path);
  const greeting: Greeting = { protocol: PROTOCOL, version: place.version, dataSet: place.dataSet, pid: process.pid };
  const closing = new AbortController();
  const server = createServer((request, response) => {
    void answer(operations, greeting, request, response, closing.signal);
  });
  await listen(server, path);
  await chmod(path, 0o600);
  return {
    path,
    async [Symbol.asyncDispose]() {
      closing.abort();
      const closed = once(server, 'close');
      server.close();
      server.closeIdleConnections();
      // Those that are still answering have been aborted; they get a moment to say so.
      const grace = setTimeout(() => server.closeAllConnections(), 1000);
      await closed;
      clearTimeout(grace);
    },
  };
}

async function listen(server: Server, path: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      server.listen(path);
      await once(server, 'listening');
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || attempt > 2) throw error;
      const other = await greetingOf(path);
      if (other !== null) throw alreadyServing(other);
      await unlink(path).catch((cause: unknown) => {
        if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
      });
    }
  }
}

async function answer(
  operations: Operations,
  greeting: Greeting,
  request: IncomingMessage,
  response: ServerResponse,
  closing: AbortSignal,
): Promise<void> {
  const gone = new AbortController();
  // 'close' comes after a finished answer too, when aborting does nothing any more.
  response.on('close', () => gone.abort());
  response.on('error', () => gone.abort());
  const signal = AbortSignal.any([gone.signal, closing]);
  const lines = new Lines(response, gone.signal);
  try {
    if (request.method === 'GET' && request.url === '/') {
      response.end(JSON.stringify(greeting));
      return;
    }
    const name = request.url?.slice(1) ?? '';
    if (request.method !== 'POST' || !isOperationName(name)) {
      throw new ForeshadowError('VERSION_UNSUPPORTED', `the running start (${greeting.version}) does not know "${name}"`, {
        remedy: 'end it and start it again with this version',
      });
    }
    const given = requests[name].safeParse(JSON.parse(await bodyOf(request)));
    if (!given.success) {
      throw new ForeshadowError('USAGE', `"${name}" was asked with arguments the running start does not understand`, {
        remedy: 'end it and start it again with this version',
        cause: given.error,
      });
    }
    await run(operations, name, given.data, lines, signal);
  } catch (error) {
    const told = closing.aborted && isAbort(error) ? ended() : error;
    if (!gone.signal.aborted) await lines.write({ kind: 'error', error: toRemoteError(told) }).catch(() => gone.abort());
  } finally {
    response.end();
  }
}

function ended(): ForeshadowError {
  return new ForeshadowError('CONNECTION_LOST', 'the running start was ended while it worked on this', {
    remedy: 'run the command again',
    retry: 'later',
  });
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > REQUEST_BYTES_MAX) {
      throw new ForeshadowError('USAGE', `a request of more than ${REQUEST_BYTES_MAX} bytes`, { remedy: 'use a shorter statement' });
    }
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}

async function run<Name extends OperationName>(
  operations: Operations,
  name: Name,
  given: OperationArguments<Name>,
  lines: Lines,
  signal: AbortSignal,
): Promise<void> {
  const operation: Operation<Name> = table[name];
  const done = operation(operations, given, lines.progress, signal);
  if (Symbol.asyncIterator in (done as object)) {
    for await (const item of done as AsyncIterable<unknown>) await lines.write({ kind: 'item', item });
    await lines.write({ kind: 'end' });
  } else await lines.write({ kind: 'result', result: await (done as Promise<unknown>) });
}

type Operation<Name extends OperationName> = (
  operations: Operations,
  given: OperationArguments<Name>,
  progress: ProgressListener,
  signal: AbortSignal,
) => Promise<unknown> | AsyncIterable<unknown>;

const table: { readonly [Name in OperationName]: Operation<Name> } = {
  status: (operations, _, __, signal) => operations.status(signal),
  capture: (operations, _, progress, signal) => operations.capture(progress, signal),
  captures: (operations, _, __, signal) => operations.captures(signal),
  validate: (operations, { capture }, progress, signal) => operations.validate(capture, progress, signal),
  diff: (operations, { from, to }, _, signal) => operations.diff(from, to, signal),
  diffRows: (operations, { from, to }, _, signal) => operations.diffRows(from, to, signal),
  query: (operations, { capture, sql }, _, signal) => operations.query(capture, sql, signal),
  restore: (operations, request, progress, signal) => operations.restore(request, progress, signal),
  script: (operations, { capture, table: only }, _, signal) => operations.script(capture, only, signal),
  rollback: (operations, { to }, progress, signal) => operations.rollback(to, progress, signal),
  resume: (operations, _, progress, signal) => operations.resume(progress, signal),
  plan: (operations, _, __, signal) => operations.plan(signal),
  tail: (operations, _, __, signal) => operations.tail(signal),
};

/** The lines of one answer. A slow reader holds back the work behind it, never memory. */
class Lines {
  readonly #response: ServerResponse;
  readonly #gone: AbortSignal;
  #lastProgressMs = Number.NEGATIVE_INFINITY;

  constructor(response: ServerResponse, gone: AbortSignal) {
    this.#response = response;
    this.#gone = gone;
  }

  async write(line: AnswerLine): Promise<void> {
    this.#gone.throwIfAborted();
    if (!this.#send(line)) await once(this.#response, 'drain', { signal: this.#gone });
  }

  /** Skipped while the reader is behind. */
  readonly progress: ProgressListener = (step) => {
    const nowMs = performance.now();
    if (this.#gone.aborted || this.#response.writableNeedDrain || nowMs - this.#lastProgressMs < PROGRESS_EVERY_MS) return;
    this.#lastProgressMs = nowMs;
    this.#send({ kind: 'progress', step });
  };

  #send(line: AnswerLine): boolean {
    if (!this.#response.headersSent) this.#response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    return this.#response.write(`${JSON.stringify(line)}\n`);
  }
}
