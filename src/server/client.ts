import { once } from 'node:events';
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type {
  CaptureListing,
  CaptureReport,
  DiffReport,
  DiffRow,
  Operations,
  ProgressListener,
  QueryReport,
  RestoreReport,
  RestoreRequest,
  ResumeReport,
  RollbackReport,
  StatusReport,
  TailLine,
  ValidateReport,
} from '../app/operations.ts';
import type { PlanReport } from '../app/plan-report.ts';
import { ForeshadowError, isAbort } from '../model/errors.ts';
import { PROTOCOL, fromRemoteError, greetingSchema } from './protocol.ts';
import type { AnswerLine, Greeting, OperationArguments, OperationName } from './protocol.ts';
import { socketPath } from './socket-path.ts';

/** A row, and so a line, can be large; what is larger than this is not ours. */
const LINE_BYTES_MAX = 1 << 30;
const GREETING_WAIT_MS = 5000;

/** The `start` that serves this state directory; null when none runs. Throws VERSION_UNSUPPORTED for one of another version. */
export async function openRemote(stateDirectory: string): Promise<Operations | null> {
  const path = socketPath(stateDirectory);
  const greeting = await greetingOf(path);
  if (greeting === null) return null;
  if (greeting.protocol !== PROTOCOL) {
    throw new ForeshadowError(
      'VERSION_UNSUPPORTED',
      `the running start (process ${greeting.pid}) is version ${greeting.version}, which speaks otherwise`,
      {
        remedy: 'end it and start it again with this version',
      },
    );
  }
  return new RemoteOperations(path);
}

/** Who answers on a socket; null when nobody does. */
export async function greetingOf(path: string): Promise<Greeting | null> {
  const asking = request({ socketPath: path, path: '/', method: 'GET', signal: AbortSignal.timeout(GREETING_WAIT_MS) });
  asking.end();
  try {
    const [response] = (await once(asking, 'response')) as [IncomingMessage];
    let text = '';
    for await (const part of response.setEncoding('utf8') as AsyncIterable<string>) text += part;
    return greetingSchema.parse(JSON.parse(text));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTSOCK' || code === 'ECONNRESET') return null;
    if (code === 'EACCES' || code === 'EPERM') {
      throw new ForeshadowError('USAGE', `the socket ${path} belongs to another user`, {
        remedy: 'run as the user who runs foreshadow start',
        cause: error,
      });
    }
    throw new ForeshadowError('CONNECTION_LOST', `something holds the socket ${path} and does not answer`, {
      remedy: 'wait a moment and try again; if it stays so, end the foreshadow start that runs for this config',
      retry: 'later',
      cause: error,
    });
  }
}

export function alreadyServing({ pid, dataSet }: Greeting): ForeshadowError {
  return new ForeshadowError('ALREADY_RUNNING', `a foreshadow start (process ${pid}) already serves data set ${dataSet}`, {
    remedy: `use it, or end it first: kill ${pid}`,
  });
}

/** `Operations`, done by the running `start`. Closing it ends nothing there. */
class RemoteOperations implements Operations {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  status(signal: AbortSignal): Promise<StatusReport> {
    return this.#ask('status', {}, null, signal);
  }

  capture(progress: ProgressListener, signal: AbortSignal): Promise<CaptureReport> {
    return this.#ask('capture', {}, progress, signal);
  }

  captures(signal: AbortSignal): Promise<readonly CaptureListing[]> {
    return this.#ask('captures', {}, null, signal);
  }

  validate(capture: number | null, progress: ProgressListener, signal: AbortSignal): Promise<ValidateReport> {
    return this.#ask('validate', { capture }, progress, signal);
  }

  diff(from: number, to: number, signal: AbortSignal): Promise<DiffReport> {
    return this.#ask('diff', { from, to }, null, signal);
  }

  diffRows(from: number, to: number, signal: AbortSignal): AsyncIterable<DiffRow> {
    return this.#items('diffRows', { from, to }, signal);
  }

  query(capture: number, sql: string, signal: AbortSignal): AsyncIterable<QueryReport> {
    return this.#items('query', { capture, sql }, signal);
  }

  restore(asked: RestoreRequest, progress: ProgressListener, signal: AbortSignal): Promise<RestoreReport> {
    return this.#ask('restore', { ...asked }, progress, signal);
  }

  script(capture: number, table: string | null, signal: AbortSignal): AsyncIterable<string> {
    return this.#items('script', { capture, table }, signal);
  }

  rollback(to: number, progress: ProgressListener, signal: AbortSignal): Promise<RollbackReport> {
    return this.#ask('rollback', { to }, progress, signal);
  }

  resume(progress: ProgressListener, signal: AbortSignal): Promise<ResumeReport> {
    return this.#ask('resume', {}, progress, signal);
  }

  plan(signal: AbortSignal): Promise<PlanReport> {
    return this.#ask('plan', {}, null, signal);
  }

  tail(signal: AbortSignal): AsyncIterable<TailLine> {
    return this.#items('tail', {}, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Every operation has a connection of its own, which ends with it.
  }

  // The server runs the same version and the same types (the protocol number says so): the shape of what it says is taken on trust.
  async #ask<Report, Name extends OperationName>(
    name: Name,
    given: OperationArguments<Name>,
    progress: ProgressListener | null,
    signal: AbortSignal,
  ): Promise<Report> {
    for await (const line of this.#answer(name, given, signal)) {
      if (line.kind === 'progress') progress?.(line.step);
      if (line.kind === 'result') return line.result as Report;
    }
    throw cutOff(name);
  }

  async *#items<Item, Name extends OperationName>(name: Name, given: OperationArguments<Name>, signal: AbortSignal): AsyncGenerator<Item> {
    for await (const line of this.#answer(name, given, signal)) {
      if (line.kind === 'item') yield line.item as Item;
      if (line.kind === 'end') return;
    }
    throw cutOff(name);
  }

  async *#answer<Name extends OperationName>(name: Name, given: OperationArguments<Name>, signal: AbortSignal): AsyncGenerator<AnswerLine> {
    signal.throwIfAborted();
    const asking = request({ socketPath: this.#path, path: `/${name}`, method: 'POST', signal });
    asking.end(JSON.stringify(given));
    try {
      const [response] = (await once(asking, 'response')) as [IncomingMessage];
      for await (const text of splitLines(response)) {
        const line = JSON.parse(text) as AnswerLine;
        if (line.kind === 'error') throw fromRemoteError(line.error);
        yield line;
      }
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (isAbort(error) || (error as NodeJS.ErrnoException).code !== undefined) {
        throw error instanceof ForeshadowError ? error : cutOff(name, error);
      }
      throw error;
    } finally {
      // Also when the reader stops early: the server sees the connection end and aborts the work.
      asking.destroy();
    }
  }
}

function cutOff(name: string, cause?: unknown): ForeshadowError {
  return new ForeshadowError('CONNECTION_LOST', `the running start ended before it answered "${name}"`, {
    remedy: 'run the command again; foreshadow captures shows what was finished',
    retry: 'later',
    cause,
  });
}

/** Lines of UTF-8, split before decoding so that no character is torn. */
async function* splitLines(source: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  for await (const part of source) {
    let start = 0;
    for (let end = part.indexOf(10); end >= 0; end = part.indexOf(10, start)) {
      held.push(part.subarray(start, end));
      yield Buffer.concat(held).toString('utf8');
      [held, heldBytes, start] = [[], 0, end + 1];
    }
    const rest = part.subarray(start);
    held.push(rest);
    heldBytes += rest.length;
    if (heldBytes > LINE_BYTES_MAX) throw new RangeError(`a line of more than ${LINE_BYTES_MAX} bytes`);
  }
}
