import type { Socket } from 'node:net';
import type { Client } from 'pg';
import { type ForeshadowError, messageOf } from '../../model/errors.ts';
import type { Rows } from '../../model/rows.ts';
import type { Tuple } from '../../model/tuple.ts';
import { type ConnectOptions, connect, failureOf, silenceMsOf, streamOf } from './connection.ts';
import { cancelStatement } from './cancel.ts';
import { CopyFrames, framed, framedPieces, type RowEnd, withoutCopyHeader } from './copy-format.ts';
import { Flow, gulpMsOf, inGulps } from './flow.ts';
import {
  type CopyBoth,
  continueMessages,
  errorOf,
  FROM_SERVER,
  MessageReader,
  message,
  type Parameter,
  pickCopyData,
  pickRow,
  queryMessage,
  type RowSlice,
  statementMessages,
  type TakeRun,
  type TextResult,
  TextResults,
  textAt,
} from './messages.ts';
import { Silence } from './silence.ts';

export type { CopyBoth, Parameter, RowSlice, TextResult } from './messages.ts';

/** Rows wait here at most for their consumer. */
const ROWS_BYTES_MAX = 1 << 20;
const CANCEL_EVERY_MS = 100;

type Take = (type: number, body: Buffer) => void;

interface Request {
  readonly take: Take;
  /** Takes CopyData in runs, instead of `take`. */
  readonly run: TakeRun | null;
  readonly signal: AbortSignal | null;
  readonly answered: PromiseWithResolvers<void>;
  /** The server was asked to cancel it; no other statement may be sent before that request is through. */
  cancelling: Promise<void> | null;
  error: unknown;
}

/**
 * A connection spoken to directly, for what a driver does slowly or not at all: COPY both ways, rows as bytes, replication.
 * `pg` opens it (TLS, authentication), then its socket is ours.
 *
 * Requests are answered in order and may be sent before earlier ones are answered: call without awaiting. An error of the server
 * rejects with `pg`'s DatabaseError (`code` is the SQLSTATE); a broken connection rejects everything waiting and all that follows.
 * `failure` turns either into a ForeshadowError. Aborting cancels the statement and rejects with the signal's reason.
 */
export class Wire implements AsyncDisposable {
  readonly #client: Client;
  readonly #socket: Socket;
  readonly #url: string;
  readonly #options: ConnectOptions;
  readonly #reader = new MessageReader();
  /** Sent and not answered yet, oldest first. */
  readonly #requests: Request[] = [];
  /** Why nothing can be sent any more. */
  #broken: unknown = null;
  readonly #silence: Silence;
  /** Resolves when the last sender is done; the next one waits for it. */
  #sending: Promise<unknown> | null = null;
  /** Resolves when all that this signal may cancel is answered, and no cancel request is on its way. */
  #cancellable: { readonly signal: AbortSignal; readonly over: Promise<unknown> } | null = null;

  static async open(url: string, options: ConnectOptions, signal?: AbortSignal): Promise<Wire> {
    return new Wire(await connect(url, options, signal), url, options);
  }

  private constructor(client: Client, url: string, options: ConnectOptions) {
    this.#client = client;
    this.#url = url;
    this.#options = options;
    this.#socket = streamOf(client);
    const owed = (): boolean => this.#requests.length > 0 && this.#broken === null;
    const limitMs = options.watched === true ? silenceMsOf(url, options) : null;
    this.#silence = new Silence(limitMs, { owed, deaf: () => this.#socket.isPaused(), giveUp: (error) => this.fail(error) });
    // The client's parser is idle: everything it asked for was answered before `connect` returned.
    this.#socket.removeAllListeners('data');
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#socket.on('error', (error) => this.fail(error));
    this.#socket.on('close', () => this.fail(new Error('the connection was closed by the server')));
  }

  /** Process id of the server's end. */
  get processId(): number {
    return (this.#client as unknown as { processID: number }).processID;
  }

  get broken(): boolean {
    return this.#broken !== null;
  }

  failure(error: unknown): ForeshadowError {
    return failureOf(error, this.#url, this.#options.side, this.#options.database);
  }

  /** One or several statements without parameters; a result for each. */
  async query(sql: string, signal?: AbortSignal): Promise<TextResult[]> {
    const results = new TextResults();
    await this.#submit(queryMessage(sql), (type, body) => results.take(type, body), signal).answered;
    return results.done;
  }

  /** One statement with binary parameters, whose rows do not matter. Returns its tag: `UPDATE 3`. */
  async execute(sql: string, parameters: readonly Parameter[], signal?: AbortSignal): Promise<string> {
    let tag = '';
    const take: Take = (type, body) => {
      if (type === FROM_SERVER.commandComplete) tag = textAt(body, 0).text;
    };
    await this.#submit(statementMessages(sql, parameters), take, signal).answered;
    return tag;
  }

  /**
   * Rows of one statement, in binary, as many at a time as have arrived. Sent when the loop begins; ending the loop early
   * cancels the statement.
   */
  select(sql: string, parameters: readonly Parameter[], signal?: AbortSignal): AsyncIterable<readonly Tuple[]> {
    return this.#stream(() => statementMessages(sql, parameters), pickRow, signal);
  }

  /**
   * The first rows of one statement, inside a transaction; `more` where the portal holds others, which `fetchMore` gets. Any other
   * statement closes the portal.
   */
  fetch(sql: string, parameters: readonly Parameter[], rowsMax: number, signal?: AbortSignal): Promise<RowSlice> {
    return this.#slice(statementMessages(sql, parameters, rowsMax), signal);
  }

  fetchMore(rowsMax: number, signal?: AbortSignal): Promise<RowSlice> {
    return this.#slice(continueMessages(rowsMax), signal);
  }

  async #slice(bytes: Buffer, signal: AbortSignal | undefined): Promise<RowSlice> {
    const rows: Tuple[] = [];
    let more = false;
    const take: Take = (type, body) => {
      if (type === FROM_SERVER.dataRow) rows.push(body as Tuple);
      else if (type === FROM_SERVER.portalSuspended) more = true;
    };
    await this.#submit(bytes, take, signal).answered;
    return { rows, more };
  }

  /** The bytes of a `COPY … TO STDOUT`, in the server's chunks. */
  copyOut(sql: string, signal?: AbortSignal): AsyncIterable<readonly Buffer[]> {
    return this.#stream(() => queryMessage(sql), pickCopyData, signal);
  }

  /** The rows of a `COPY … TO STDOUT (FORMAT binary)`. */
  copyRows(sql: string, signal?: AbortSignal): AsyncIterable<readonly Tuple[]> {
    let first = true;
    const pick = (type: number, body: Buffer): Tuple | null => {
      if (type !== FROM_SERVER.copyData) return null;
      // The server sends a row a message: the header before the first row, the trailer (a field count of -1) alone.
      const row = first ? withoutCopyHeader(body) : body;
      first = false;
      return row.length === 0 || row.readInt16BE(0) === -1 ? null : (row as Tuple);
    };
    return this.#stream(() => queryMessage(sql), pick, signal);
  }

  /** The messages of a `COPY … TO STDOUT`, unopened, as they arrive: without back-pressure. */
  copyOutRuns(sql: string, run: TakeRun, signal: AbortSignal): Promise<void> {
    return this.#submit(queryMessage(sql), () => undefined, signal, undefined, inGulps(this.#socket, run)).answered;
  }

  /** Feeds a `COPY … FROM STDIN`; the source's chunks may be cut anywhere. Returns the number of rows. */
  copyIn(sql: string, source: Iterable<Buffer> | AsyncIterable<Buffer>, signal?: AbortSignal): Promise<number> {
    const frames = new CopyFrames('raw');
    return this.#copyIn(sql, frames, framedPieces(source, frames), signal);
  }

  /** Feeds a `COPY … FROM STDIN (FORMAT binary)` with whole rows, each with `end` after it. Returns their number. */
  copyRowsIn(sql: string, kind: 'rows' | 'patches', rows: Rows, signal?: AbortSignal, end: RowEnd | null = null): Promise<number> {
    const frames = new CopyFrames(kind, end);
    return this.#copyIn(sql, frames, framed(rows, frames), signal);
  }

  /** Feeds a `COPY … FROM STDIN` with messages that a server sent. Returns the number of rows. */
  copyMessagesIn(sql: string, messages: Iterable<Buffer>, signal?: AbortSignal): Promise<number> {
    const frames = new CopyFrames('messages');
    return this.#copyIn(sql, frames, framedPieces(messages, frames), signal);
  }

  /** Runs `START_REPLICATION …` and hands over both directions. Aborting closes the connection. */
  async replicate(sql: string, bufferBytesMax: number, signal: AbortSignal): Promise<CopyBoth> {
    signal.throwIfAborted();
    const flow = new Flow<Buffer>(bufferBytesMax, this.#socket, gulpMsOf(this.#socket, 'changes'));
    const started = Promise.withResolvers<void>();
    const take: Take = (type) => {
      if (type === FROM_SERVER.bothCopy) started.resolve();
      else if (type === FROM_SERVER.copyDone) this.#write(message('c'));
    };
    const run: TakeRun = (bytes) => flow.push(bytes, bytes.length);
    const { answered } = this.#submit(queryMessage(sql), take, undefined, undefined, run);
    const abort = (): void => this.fail(signal.reason);
    signal.addEventListener('abort', abort);
    const over = (error: unknown): void => {
      signal.removeEventListener('abort', abort);
      started.reject(error);
      flow.end(error);
    };
    answered.then(() => over(null), over);
    await started.promise;
    return {
      read: () => flow.take(),
      gulps: flow,
      send: (payload) => this.#write(message('d', payload)),
    };
  }

  /** Ends the connection. What still waits for an answer fails. Idempotent. */
  async close(): Promise<void> {
    if (this.#socket.destroyed) return;
    const closed = new Promise<void>((resolve) => {
      this.#socket.once('close', () => resolve());
    });
    this.#broken ??= new Error('the connection was closed');
    this.#settleAll(this.#broken);
    this.#socket.resume();
    this.#socket.end(message('X'));
    const timer = setTimeout(() => this.#socket.destroy(), 1000);
    await closed;
    clearTimeout(timer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Sends a request as soon as earlier senders are done; `until` keeps the way to the server for more that belongs to it. A cancel request
   * names no statement, and may come late: so nothing is sent behind what may be cancelled, but what is cancelled with it.
   * `sent` never rejects; `answered` does.
   */
  #submit(
    bytes: Buffer,
    take: Take,
    signal?: AbortSignal,
    until?: Promise<void>,
    run: TakeRun | null = null,
  ): { sent: Promise<void>; answered: Promise<void> } {
    const request: Request = { take, run, signal: signal ?? null, answered: Promise.withResolvers(), cancelling: null, error: null };
    const go = (): void => {
      if (this.#broken !== null) request.answered.reject(this.#broken);
      else if (signal?.aborted === true) request.answered.reject(signal.reason);
      else {
        if (this.#requests.length === 0) this.#silence.heard();
        this.#requests.push(request);
        this.#silence.watch();
        const cancel = (): void => this.#cancelFirst();
        signal?.addEventListener('abort', cancel);
        // Signals outlive requests by far: what stays attached to them would pile up.
        const forget = (): void => signal?.removeEventListener('abort', cancel);
        request.answered.promise.then(forget, forget);
        this.#write(bytes);
      }
    };
    const alone = this.#cancellable !== null && this.#cancellable.signal !== signal ? this.#cancellable.over : null;
    const before = alone === null ? this.#sending : Promise.all([this.#sending, alone]);
    let sent: Promise<void> = Promise.resolve();
    if (before === null) go();
    else sent = before.then(go);
    if (before !== null || until !== undefined) {
      const turn = Promise.all([sent, until]);
      this.#sending = turn;
      void turn.finally(() => {
        if (this.#sending === turn) this.#sending = null;
      });
    }
    const answered = request.answered.promise;
    answered.catch(() => undefined); // a caller that comes late to await it still gets the error
    if (signal !== undefined) this.#mayCancel(signal, answered);
    return { sent, answered };
  }

  #mayCancel(signal: AbortSignal, answered: Promise<void>): void {
    const earlier = this.#cancellable?.signal === signal ? this.#cancellable.over : null;
    const cancellable = { signal, over: Promise.allSettled([earlier, answered]) };
    this.#cancellable = cancellable;
    void cancellable.over.then(() => {
      if (this.#cancellable === cancellable) this.#cancellable = null;
    });
  }

  async *#stream<Item extends Buffer>(
    bytes: () => Buffer,
    pick: (type: number, body: Buffer) => Item | null,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<readonly Item[]> {
    signal?.throwIfAborted();
    const flow = new Flow<Item>(ROWS_BYTES_MAX, this.#socket);
    const stop = new AbortController();
    const abort = (): void => {
      stop.abort(signal?.reason);
      flow.discard(signal?.reason);
    };
    signal?.addEventListener('abort', abort, { once: true });
    const take: Take = (type, body) => {
      const item = pick(type, body);
      if (item !== null) flow.push(item, body.length);
    };
    const { answered } = this.#submit(bytes(), take, stop.signal);
    const over = answered.then(
      () => flow.end(null),
      (error: unknown) => flow.end(error),
    );
    try {
      for (let items = await flow.take(); items !== null; items = await flow.take()) yield items;
    } finally {
      signal?.removeEventListener('abort', abort);
      flow.discard(null);
      stop.abort();
      await over;
    }
  }

  async #copyIn(
    sql: string,
    frames: CopyFrames,
    filling: Iterable<void> | AsyncIterable<void>,
    signal: AbortSignal | undefined,
  ): Promise<number> {
    let tag = '';
    let over = false;
    const take: Take = (type, body) => {
      if (type === FROM_SERVER.commandComplete) tag = textAt(body, 0).text;
      else if (type === FROM_SERVER.error) over = true; // the server ignores the rest; so it need not be sent
    };
    const turn = Promise.withResolvers<void>();
    const { sent, answered } = this.#submit(queryMessage(sql), take, signal, turn.promise);
    const stopped = (): boolean => over || this.#broken !== null || signal?.aborted === true;
    try {
      await sent;
      for await (const _ of filling) {
        for (const frame of frames.take()) await this.#writeSlowly(frame);
        if (stopped()) break;
      }
      if (!stopped()) for (const frame of frames.end()) await this.#writeSlowly(frame);
    } catch (error) {
      this.#write(message('f', Buffer.from('the source of the rows failed\0')));
      turn.resolve();
      await answered.catch(() => undefined);
      throw error;
    }
    turn.resolve();
    await answered;
    return Number(tag.split(' ').at(-1));
  }

  #write(bytes: Buffer): void {
    if (this.#broken === null) this.#socket.write(bytes);
  }

  async #writeSlowly(bytes: Buffer): Promise<void> {
    if (this.#broken !== null || this.#socket.write(bytes)) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        this.#socket.off('drain', done).off('close', done);
        resolve();
      };
      this.#socket.on('drain', done).on('close', done);
    });
  }

  #receive(chunk: Buffer): void {
    this.#silence.heard();
    try {
      this.#reader.push(
        chunk,
        (type, body) => this.#message(type, body),
        () => this.#requests[0]?.run ?? null,
      );
    } catch (error) {
      this.fail(error);
    }
  }

  #message(type: number, body: Buffer): void {
    const request = this.#requests[0];
    if (type === FROM_SERVER.error) {
      const error = errorOf(body);
      if (request === undefined || error.severity === 'FATAL' || error.severity === 'PANIC') this.fail(error);
      else request.error ??= error;
    }
    if (request === undefined) return;
    if (type !== FROM_SERVER.ready) {
      request.take(type, body);
      return;
    }
    this.#requests.shift();
    void this.#answer(request);
    this.#cancelFirst();
  }

  async #answer(request: Request): Promise<void> {
    await request.cancelling;
    if (request.error === null) request.answered.resolve();
    else request.answered.reject(request.signal?.aborted === true ? request.signal.reason : request.error);
  }

  /** A cancel request hits what runs: so it waits until that is the aborted one. */
  #cancelFirst(): void {
    const request = this.#requests[0];
    if (request?.signal?.aborted === true && request.cancelling === null) void this.#cancel(request);
  }

  /** Again and again, as the request comes to nothing where it overtakes the statement. */
  async #cancel(request: Request): Promise<void> {
    while (this.#requests[0] === request) {
      request.cancelling = cancelStatement(this.#client);
      await request.cancelling;
      await new Promise((resolve) => {
        setTimeout(resolve, CANCEL_EVERY_MS).unref();
      });
    }
  }

  /** Gives the connection up: all that waits, and all that follows, fails with this. */
  fail(error: unknown): void {
    if (this.#broken !== null) return;
    this.#broken = error ?? new Error(messageOf(error));
    this.#socket.destroy();
    this.#settleAll(this.#broken);
  }

  #settleAll(error: unknown): void {
    for (const request of this.#requests.splice(0))
      request.answered.reject(request.signal?.aborted === true ? request.signal.reason : error);
  }
}
