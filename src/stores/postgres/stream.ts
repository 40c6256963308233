import { bytesOf, type TransactionId } from '../../model/change.ts';
import { commitEndOf, type Position } from '../../model/position.ts';
import { Pulse } from '../../model/pulse.ts';
import { Batches, type BatchParts, type StreamItem } from './batches.ts';
import { identifier, literal } from './connection.ts';
import { EPOCH_MICROS, type RelationMessage } from './pgoutput.ts';
import { CopyDataCutter } from './messages.ts';
import type { Announced, Reading } from './watch.ts';
import type { CopyBoth, Wire } from './wire.ts';

export interface StreamParts extends BatchParts {
  readonly slot: string;
  readonly publications: readonly string[];
  /** Says what a relation of the stream is to us. */
  readonly announce: (relation: RelationMessage, within: Reading) => Promise<Announced>;
}

/** Waiting in memory between the socket and the journal, at most; beside one batch of at most 6 MiB. */
const BUFFER_BYTES_MAX = 4 << 20;
/** How often an idle data set's position is handed out, so that it does not hold back the primary's log. */
const IDLE_EVERY_MS = 1000;
/** After a batch of less than this the next ones are left to gather, for so many times as long as it took to put that one away. */
const SMALL_BYTES = 64 << 10;
const REST_TIMES = 4;
const REST_MS_MIN = 5;
const REST_MS_MAX = 25;
const STATUS_EVERY_MS = 5000;
const SENDER_TIMEOUT = '60s';

/** The walsender's stream of one slot, from `after` on: batches out, acknowledged positions back. */
export class ReplicationStream {
  readonly #wire: Wire;
  readonly #copy: CopyBoth;
  readonly #parts: StreamParts;
  readonly #batches: Batches;
  readonly #cutter = new CopyDataCutter();
  readonly #wanted = new Pulse();
  #wantedAt: Position;
  /** LSNs, without the numbering's base. */
  #received = 0n;
  #durable = 0n;
  readonly #timer: NodeJS.Timeout;

  /** Takes over a replication connection. */
  static async start(wire: Wire, parts: StreamParts, signal: AbortSignal): Promise<ReplicationStream> {
    // However small the server's own limit is: neither a slow journal nor a large write must look like a dead client. And however large:
    // where we vanish without a word, the slot must be free again soon.
    await wire.query(`SET wal_sender_timeout = '${SENDER_TIMEOUT}'`, signal);
    const [version] = await wire.query('SHOW server_version_num', signal);
    // From 2 on, which 14 speaks, the server sends large transactions while they are in progress instead of keeping them until they end.
    const number = Number(version?.rows[0]?.[0]);
    const protocol = number >= 160_000 ? 4 : number >= 150_000 ? 3 : 2;
    const options = `proto_version '${protocol}', publication_names ${literal(parts.publications.map(identifier).join(','))}, binary 'true', messages 'true', streaming 'on'`;
    // From where the slot stands, which may be before `after`: what it repeats is held against the journal (`Continuity`).
    const sql = `START_REPLICATION SLOT "${parts.slot}" LOGICAL 0/0 (${options})`;
    const copy = await wire.replicate(sql, BUFFER_BYTES_MAX, signal);
    return new ReplicationStream(wire, copy, parts);
  }

  private constructor(wire: Wire, copy: CopyBoth, parts: StreamParts) {
    this.#wire = wire;
    this.#copy = copy;
    this.#parts = parts;
    this.#batches = new Batches(parts);
    this.#wantedAt = parts.after;
    // On a timer of its own: the server must hear from us also while nothing is read because the journal is slow.
    // It is asked to answer, so that its silence means something (`Wire`).
    this.#timer = setInterval(() => this.#status(true), STATUS_EVERY_MS);
    this.#timer.unref();
    this.#status();
  }

  /** Whole transactions, as many as have arrived, and pieces of larger ones; ends with an error only. */
  async *items(): AsyncGenerator<StreamItem> {
    const batches = this.#batches;
    let handed = batches.through;
    let handedAt = performance.now();
    const take = (): StreamItem => {
      const item = batches.take();
      if (item.kind === 'batch') {
        handed = batches.through;
        handedAt = performance.now();
      }
      return item;
    };
    let reading: Promise<readonly Buffer[] | null> | null = null;
    for (;;) {
      reading ??= this.#copy.read();
      const idle = batches.through > handed && !batches.inTransaction;
      const runs: readonly Buffer[] | null | undefined = idle ? await this.#readOrDue(reading, handedAt) : await reading;
      if (runs === null) throw new Error('the connection was closed by the server');
      if (runs !== undefined) {
        reading = null;
        for (const run of runs) {
          const bytes = this.#cutter.add(run);
          if (bytes === null) continue;
          let at = 0;
          for (let end = this.#cutter.payloadEnd(bytes, at); end !== -1; end = this.#cutter.payloadEnd(bytes, at)) {
            const announced = this.#payload(bytes, at + 5, end);
            if (announced !== null) batches.settle(announced, await this.#parts.announce(announced, batches.reading));
            while (batches.due) yield take();
            at = end;
          }
        }
      }
      if (batches.through >= this.#wantedAt) this.#copy.gulps.hurry(false);
      const moved = batches.through > handed;
      const due = batches.filled || (moved && (performance.now() - handedAt >= IDLE_EVERY_MS || this.#isWanted(handed)));
      if (!batches.inTransaction && due) {
        const item = take();
        yield item;
        // Else each of many small transactions would be an append of its own, and written to the disk by itself.
        if (item.kind === 'batch' && bytesOf(item.batch.blocks) < SMALL_BYTES)
          this.#copy.gulps.rest(restMsAfter(performance.now() - handedAt));
      }
    }
  }

  /** The transactions in progress of which pieces were handed out. */
  get inPieces(): readonly TransactionId[] {
    return this.#batches.inPieces;
  }

  /** Somebody waits for this position: it is handed out as soon as it is reached, also if nothing else happens. */
  want(at: Position): void {
    if (at > this.#wantedAt) this.#wantedAt = at;
    if (this.#batches.through < this.#wantedAt) this.#copy.gulps.hurry(true);
    this.#wanted.beat();
  }

  /** Durable in the journal up to here. Moves forward only. */
  acknowledge(upTo: Position): void {
    const lsn = commitEndOf(upTo) - this.#parts.numbering.base;
    if (lsn <= this.#durable) return;
    this.#durable = lsn;
    if (this.#received < lsn) this.#received = lsn;
    this.#status();
  }

  /** Ends it with this error. */
  fail(error: Error): void {
    this.#wire.fail(error);
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#status();
    await this.#wire.close();
  }

  #isWanted(handed: Position): boolean {
    return handed < this.#wantedAt && this.#batches.through >= this.#wantedAt;
  }

  /** Undefined where it is time to hand out the position although nothing has arrived. */
  async #readOrDue(reading: Promise<readonly Buffer[] | null>, handedAt: number): Promise<readonly Buffer[] | null | undefined> {
    const stop = new AbortController();
    const waitMs = Math.max(1, IDLE_EVERY_MS - (performance.now() - handedAt));
    try {
      return await Promise.race([reading, this.#wanted.next(stop.signal, waitMs).then(() => undefined)]);
    } finally {
      stop.abort();
    }
  }

  /** XLogData, or a keepalive. Returns a relation that was announced. */
  #payload(bytes: Buffer, at: number, end: number): RelationMessage | null {
    const kind = bytes[at];
    if (kind === 0x77) return this.#batches.read(bytes, at + 25, end);
    if (kind !== 0x6b) throw new Error(`the walsender sent a message of unknown kind ${kind}`);
    const lsn = bytes.readBigUInt64BE(at + 1);
    if (lsn > this.#received) this.#received = lsn;
    this.#batches.reached(lsn);
    if (bytes[at + 17] === 1) this.#status();
    return null;
  }

  /** Standby status update: what was received, and as flushed and applied only what is durable. */
  #status(answer = false): void {
    const status = Buffer.alloc(34);
    status[0] = 0x72;
    status.writeBigUInt64BE(this.#received, 1);
    status.writeBigUInt64BE(this.#durable, 9);
    status.writeBigUInt64BE(this.#durable, 17);
    status.writeBigInt64BE(BigInt(Date.now()) * 1000n - EPOCH_MICROS, 25);
    status[33] = answer ? 1 : 0;
    this.#copy.send(status);
  }
}

function restMsAfter(tookMs: number): number {
  return Math.min(Math.max(REST_MS_MIN, REST_TIMES * tookMs), REST_MS_MAX);
}

/** `16/B374D848`, as the server writes log positions. */
export function parseLsn(text: string): bigint {
  const [high, low] = text.split('/');
  return (BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`);
}
