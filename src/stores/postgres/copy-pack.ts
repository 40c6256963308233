import type { CaptureNumber } from '../../model/capture.ts';
import { RowList } from '../../model/rows.ts';
import type { RowPack } from '../../tracking/primary.ts';
import { withoutCopyHeader } from './copy-format.ts';
import type { Wire } from './wire.ts';

/** The bytes that the mark takes at the end of each row: a cell of type bigint. */
const MARK_BYTES = 12;

/**
 * What a server answered to `COPY … TO STDOUT (FORMAT binary)`, as it came: CopyData messages, one a row, the format's header in front of the
 * first row, its trailer alone at the end. Another server takes the very bytes for a `COPY … FROM STDIN`.
 */
export class CopyPack implements RowPack {
  readonly capture: CaptureNumber;
  readonly count: number;
  readonly bytes: number;
  /** Cut anywhere. */
  readonly messages: readonly Buffer[];

  constructor(capture: CaptureNumber, messages: readonly Buffer[], count: number, bytes: number) {
    this.capture = capture;
    this.messages = messages;
    this.count = count;
    this.bytes = bytes;
  }

  rows(): RowList {
    const rows = new RowList();
    const all = Buffer.concat(this.messages);
    for (let at = 0; rows.length < this.count; ) {
      const end = at + 1 + all.readInt32BE(at + 1);
      const body = all.subarray(at + 5, end);
      const start = end - (at === 0 ? withoutCopyHeader(body) : body).length;
      all.writeInt16BE(all.readInt16BE(start) - 1, start);
      rows.add(all, start, end - MARK_BYTES);
      at = end;
    }
    return rows;
  }
}

/**
 * Runs a `COPY … TO STDOUT (FORMAT binary)` of marked rows. Null where they come to more than `bytesMax`: the statement is then cancelled,
 * and the transaction has failed.
 */
export async function readPack(
  wire: Wire,
  sql: string,
  capture: CaptureNumber,
  bytesMax: number,
  signal: AbortSignal,
): Promise<CopyPack | null> {
  const stop = new AbortController();
  const messages: Buffer[] = [];
  let [ended, bytes] = [0, 0];
  try {
    await wire.copyOutRuns(
      sql,
      (some, count) => {
        bytes += some.length;
        ended += count;
        if (bytes <= bytesMax) messages.push(some);
        else stop.abort();
      },
      AbortSignal.any([signal, stop.signal]),
    );
  } catch (error) {
    if (signal.aborted || wire.broken || !stop.signal.aborted) throw error;
  }
  // The last message is the format's trailer.
  return stop.signal.aborted ? null : new CopyPack(capture, messages, ended - 1, bytes);
}
