import { DatabaseError } from 'pg';
import type { Tuple } from '../../model/tuple.ts';
import type { Gulps } from './flow.ts';

/**
 * Messages of PostgreSQL's protocol, version 3: a type byte, an int32 length that counts itself, a body
 * (https://www.postgresql.org/docs/current/protocol-message-formats.html).
 */

/** Types sent by the server. */
export const FROM_SERVER = {
  bothCopy: 0x57, // W
  commandComplete: 0x43, // C
  copyData: 0x64, // d
  copyDone: 0x63, // c
  dataRow: 0x44, // D
  error: 0x45, // E
  portalSuspended: 0x73, // s
  ready: 0x5a, // Z
  rowDescription: 0x54, // T
} as const;

/** Takes CopyData messages in runs as they arrived: `bytes` cut anywhere, with the end of so many messages. */
export type TakeRun = (bytes: Buffer, ended: number) => void;

/**
 * Cuts what arrives into messages. Bodies are views on the chunks, which are ours once the socket handed them over; only a
 * message that spans chunks is copied together, once.
 */
export class MessageReader {
  /** The beginning of a message whose length is not known yet. At most 4 bytes. */
  #header: Buffer = Buffer.alloc(0);
  /** A message whose length is known, filled up to `#filled`. */
  #partial: Buffer | null = null;
  #filled = 0;
  /** Bytes to come of a message that is taken as part of a run. */
  #running = 0;

  /** `runs` says, at each CopyData message, whether it and those that follow are taken in runs. */
  push(chunk: Buffer, receive: (type: number, body: Buffer) => void, runs: () => TakeRun | null = noRuns): void {
    let at = 0;
    if (this.#running > 0) at = this.#run(chunk, 0, runs() ?? dropped);
    else if (this.#partial !== null) {
      at = chunk.copy(this.#partial, this.#filled);
      this.#filled += at;
      if (this.#filled < this.#partial.length) return;
      const whole = this.#partial;
      this.#partial = null;
      receive(whole[0] as number, whole.subarray(5));
    }
    let bytes = chunk;
    if (this.#header.length > 0) {
      bytes = Buffer.concat([this.#header, chunk.subarray(at)]);
      at = 0;
      this.#header = Buffer.alloc(0);
    }
    while (bytes.length - at >= 5) {
      const run = bytes[at] === FROM_SERVER.copyData ? runs() : null;
      if (run !== null) {
        at = this.#run(bytes, at, run);
        continue;
      }
      const end = at + 1 + bytes.readInt32BE(at + 1);
      if (end < at + 5) throw new Error('the server sent a message of impossible length');
      if (end > bytes.length) {
        this.#partial = Buffer.allocUnsafe(end - at);
        this.#filled = bytes.copy(this.#partial, 0, at);
        return;
      }
      receive(bytes[at] as number, bytes.subarray(at + 5, end));
      at = end;
    }
    if (at < bytes.length) this.#header = Buffer.from(bytes.subarray(at));
  }

  /** Only lengths are looked at. Returns where the run ends: at a message of another kind, or one whose length is not there yet. */
  #run(bytes: Buffer, start: number, take: TakeRun): number {
    let ended = 0;
    let at = start + this.#running;
    if (this.#running > 0 && at <= bytes.length) ended++;
    while (at + 5 <= bytes.length && bytes[at] === FROM_SERVER.copyData) {
      const end = at + 1 + bytes.readInt32BE(at + 1);
      if (end < at + 5) throw new Error('the server sent a message of impossible length');
      at = end;
      if (at <= bytes.length) ended++;
    }
    this.#running = Math.max(0, at - bytes.length);
    const end = Math.min(at, bytes.length);
    if (end > start) take(bytes.subarray(start, end), ended);
    return end;
  }
}

const dropped: TakeRun = () => undefined;
const noRuns = (): null => null;

/** Cuts runs of CopyData messages into the messages, without making an object for each. */
export class CopyDataCutter {
  /** The beginning of a message that is not all there. */
  #parts: Buffer[] = [];
  #missingBytes = 0;

  /** What to read payloads from: `payloadEnd` from 0 on tells where each begins and ends. Null: no message is whole yet. */
  add(run: Buffer): Buffer | null {
    if (this.#parts.length === 0) return run;
    this.#parts.push(run);
    this.#missingBytes -= run.length;
    if (this.#missingBytes > 0) return null;
    const bytes = Buffer.concat(this.#parts);
    this.#parts = [];
    return bytes;
  }

  /** Where the payload of the message at `at` ends (it begins at `at + 5`); -1 where the rest of it is still to come. */
  payloadEnd(bytes: Buffer, at: number): number {
    const left = bytes.length - at;
    if (left === 0) return -1;
    const length = left < 5 ? 5 : 1 + bytes.readInt32BE(at + 1);
    if (length <= left && left >= 5) return at + length;
    this.#parts = [bytes.subarray(at)];
    this.#missingBytes = length - left;
    return -1;
  }
}

/** One message, ready to send. */
export function message(type: string, ...parts: readonly Buffer[]): Buffer {
  let length = 4;
  for (const part of parts) length += part.length;
  const bytes = Buffer.allocUnsafe(1 + length);
  bytes[0] = type.charCodeAt(0);
  let at = bytes.writeInt32BE(length, 1);
  for (const part of parts) at += part.copy(bytes, at);
  return bytes;
}

export function queryMessage(sql: string): Buffer {
  return message('Q', zeroTerminated(sql));
}

/** A parameter of a statement, in binary. */
export interface Parameter {
  /** OID of its type; 0 lets the server infer it. */
  readonly type: number;
  readonly value: Buffer | null;
}

/** Parse, Bind, Execute, Sync in one: parameters and results in binary. With `rowsMax` the portal stays open for more. */
export function statementMessages(sql: string, parameters: readonly Parameter[], rowsMax = 0): Buffer {
  const types = Buffer.alloc(2 + 4 * parameters.length);
  types.writeInt16BE(parameters.length);
  for (const [index, { type }] of parameters.entries()) types.writeUInt32BE(type, 2 + 4 * index);
  const values: Buffer[] = [Buffer.from([0, 0, 0, 1, 0, 1, (parameters.length >> 8) & 0xff, parameters.length & 0xff])];
  for (const { value } of parameters) {
    const length = Buffer.alloc(4);
    length.writeInt32BE(value === null ? -1 : value.length);
    values.push(length);
    if (value !== null) values.push(value);
  }
  values.push(Buffer.from([0, 1, 0, 1]));
  return Buffer.concat([message('P', Buffer.from([0]), zeroTerminated(sql), types), message('B', ...values), continueMessages(rowsMax)]);
}

/** Execute and Sync: the next rows of the open portal. */
export function continueMessages(rowsMax: number): Buffer {
  const limit = Buffer.alloc(5);
  limit.writeInt32BE(rowsMax, 1);
  return Buffer.concat([message('E', limit), message('S')]);
}

function zeroTerminated(text: string): Buffer {
  if (text.includes('\0')) throw new RangeError('text for PostgreSQL cannot hold a zero byte');
  return Buffer.from(`${text}\0`);
}

export function textAt(body: Buffer, at: number): { text: string; next: number } {
  const end = body.indexOf(0, at);
  return { text: body.toString('utf8', at, end), next: end + 1 };
}

const ERROR_FIELDS: Readonly<Record<string, keyof DatabaseError>> = {
  S: 'severity',
  C: 'code',
  D: 'detail',
  H: 'hint',
  P: 'position',
  p: 'internalPosition',
  q: 'internalQuery',
  W: 'where',
  s: 'schema',
  t: 'table',
  c: 'column',
  d: 'dataType',
  n: 'constraint',
  F: 'file',
  L: 'line',
  R: 'routine',
};

/** An ErrorResponse as the error that `pg` throws, so that both ways of talking to a server fail alike. */
export function errorOf(body: Buffer): DatabaseError {
  const fields: Record<string, string> = {};
  for (let at = 0; at < body.length && body[at] !== 0; ) {
    const kind = String.fromCharCode(body[at] as number);
    const { text, next } = textAt(body, at + 1);
    fields[kind] = text;
    at = next;
  }
  const error = new DatabaseError(fields['M'] ?? 'unknown error of the server', body.length, 'error');
  for (const [kind, name] of Object.entries(ERROR_FIELDS)) {
    const value = fields[kind];
    if (value !== undefined) Object.assign(error, { [name]: value });
  }
  return error;
}

/** What one statement of a simple query answered: cells as text. */
export interface TextResult {
  /** `UPDATE 3` */
  readonly tag: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
}

/** Collects the answers to a simple query. */
export class TextResults {
  readonly done: TextResult[] = [];
  #columns: string[] = [];
  #rows: (string | null)[][] = [];

  take(type: number, body: Buffer): void {
    if (type === FROM_SERVER.dataRow) this.#rows.push(textCells(body));
    else if (type === FROM_SERVER.rowDescription) this.#columns = columnNames(body);
    else if (type === FROM_SERVER.commandComplete) {
      this.done.push({ tag: textAt(body, 0).text, columns: this.#columns, rows: this.#rows });
      this.#columns = [];
      this.#rows = [];
    }
  }
}

function columnNames(body: Buffer): string[] {
  const names: string[] = [];
  let at = 2;
  for (let left = body.readInt16BE(0); left > 0; left--) {
    const { text, next } = textAt(body, at);
    names.push(text);
    at = next + 18;
  }
  return names;
}

function textCells(body: Buffer): (string | null)[] {
  const cells: (string | null)[] = [];
  let at = 2;
  for (let left = body.readInt16BE(0); left > 0; left--) {
    const length = body.readInt32BE(at);
    at += 4;
    cells.push(length === -1 ? null : body.toString('utf8', at, at + length));
    if (length > 0) at += length;
  }
  return cells;
}

/** Both directions of a replication stream. */
export interface CopyBoth {
  /**
   * What arrived since the last call, waiting for the first of it; null at the stream's end. CopyData messages, unopened and cut
   * anywhere: `CopyDataCutter` puts them together. Reading from the socket pauses while too much waits here.
   */
  read(): Promise<readonly Buffer[] | null>;
  readonly gulps: Pick<Gulps, 'rest' | 'hurry'>;
  send(payload: Buffer): void;
}

export interface RowSlice {
  readonly rows: readonly Tuple[];
  readonly more: boolean;
}

export function pickRow(type: number, body: Buffer): Tuple | null {
  return type === FROM_SERVER.dataRow ? (body as Tuple) : null;
}

export function pickCopyData(type: number, body: Buffer): Buffer | null {
  return type === FROM_SERVER.copyData ? body : null;
}
