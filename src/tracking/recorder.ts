import type { Journal } from '../journal/journal.ts';
import type { TrackedBatch, TransactionId, TransactionPart, TransactionPiece } from '../model/change.ts';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import { Turns } from '../model/turns.ts';
import { Activity } from './activity.ts';
import type { History, Observation, SlotActivity, SlotLengths, SlotLoad } from './history.ts';
import { type LoadSample, type Rate, ratesBetween } from './load.ts';
import type { Primary } from './primary.ts';

export interface RecorderParts {
  readonly primary: Primary;
  readonly journal: Journal;
  readonly history: History;
  readonly lengths: SlotLengths;
  /** How often what was counted is written down. */
  readonly everyMs: number;
  readonly keyOf: (table: TableName) => readonly number[] | null;
  /** Whether we copy rows from the primary, which makes it busier than it is without us. */
  readonly copies: () => boolean;
  readonly log: (level: 'debug' | 'warn', message: string, fields: Readonly<Record<string, unknown>>) => void;
}

/** Samples of load in a minute. */
const SAMPLES = 6;
const SAMPLE_MS_MIN = 100;
/** However short a minute is, load sampled since then is that of now. */
const RECENT_MS_MIN = 1000;
/** Samples further apart than this many pauses say too little of the time between them. */
const PAUSES_MAX = 5;
/** How long the primary may take to tell of its load. */
const PATIENCE_MS = 5000;
/** A reader that has heard nothing for so long has caught up. */
const QUIET_MS = 2000;
/** Changes that come so soon after tracking was resumed were made before. */
const RESUMED_MS = 1000;
/** A clock that differs by more from what has passed was set. */
const CLOCK_SET_MS = 60_000;
/** What cannot be written is kept up to this many entries. */
const UNWRITTEN_MAX = 8192;

/**
 * Writes down what prediction learns from: activity as it passes the tracker, and samples of load. It never stops tracking: what cannot be
 * written is tried again, and in the end given up and left as a gap.
 */
export class Recorder {
  readonly #parts: RecorderParts;
  readonly #activity: Activity;
  /** Whether the primary says when a transaction committed, or we only know when we heard of it. */
  readonly #dates: boolean;
  #connected = false;
  #heardAtMs = performance.now();
  /** When tracking lost the primary; null while it has it, and before. */
  #lostAtMs: number | null = null;
  #undatedUntilMs = 0;
  /** Of the primary's clock against ours. */
  #aheadMs = 0;
  /** Until when everything was seen, by the primary's clock; null: from the next time on. */
  #observedToMs: number | null = null;
  /** When that was found, by a clock that does not jump; null: the reader was behind then. */
  #observedAtMs: number | null = null;
  #at: Position | null = null;
  #unwritten: SlotActivity[] = [];
  /** Seen, as what is unwritten was counted. */
  #unwrittenSeen: Observation['observed'] = null;
  #load: SlotLoad[] = [];
  #sample: { readonly sample: LoadSample; readonly atMs: number; readonly copying: boolean } | null = null;
  /** The newest rates, of a minute. */
  #recent: { readonly atMs: number; readonly rates: readonly Rate[] }[] = [];
  readonly #turns = new Turns();
  readonly #troubles = new Map<'history' | 'load', string>();

  private constructor(parts: RecorderParts) {
    this.#parts = parts;
    this.#activity = new Activity({ minuteMs: parts.lengths.minuteMs, keyOf: parts.keyOf });
    this.#dates = parts.primary.kind !== 'sqlite';
  }

  /** Counts what an earlier process made durable in the journal and did not live to write down. `tables` are those of the data set. */
  static async open(parts: RecorderParts, tables: readonly TableName[], signal: AbortSignal): Promise<Recorder> {
    const recorder = new Recorder(parts);
    try {
      await recorder.#resume(tables, signal);
    } catch (error) {
      signal.throwIfAborted();
      recorder.#failed('history', error);
    }
    return recorder;
  }

  /** Why something is not being learned; empty while everything is. */
  get troubles(): readonly string[] {
    return [...this.#troubles.values()];
  }

  /** How busy each resource is now: the mean over the newest samples. What could not be sampled lately is left out. */
  loadNow(): ReadonlyMap<string, number> {
    const sums = new Map<string, { sum: number; count: number }>();
    const sinceMs = performance.now() - Math.max(RECENT_MS_MIN, 2 * this.#parts.lengths.minuteMs);
    for (const { atMs, rates } of this.#recent) {
      if (atMs < sinceMs) continue;
      for (const { resource, value } of rates) {
        const { sum, count } = sums.get(resource) ?? { sum: 0, count: 0 };
        sums.set(resource, { sum: sum + value, count: count + 1 });
      }
    }
    return new Map(Array.from(sums, ([resource, { sum, count }]) => [resource, sum / count]));
  }

  connected(): void {
    this.#activity.abandon();
    const nowMs = performance.now();
    if (!this.#dates && this.#lostAtMs !== null && nowMs - this.#lostAtMs > this.#parts.lengths.minuteMs) this.#resumed();
    this.#lostAtMs = null;
    this.#connected = true;
    this.#heardAtMs = nowMs;
    this.#observedToMs ??= this.#primaryNow();
  }

  disconnected(): void {
    this.#connected = false;
    this.#lostAtMs ??= performance.now();
    this.#observedAtMs = null;
  }

  piece(piece: TransactionPiece): void {
    this.#activity.piece(piece);
  }

  rolledBack(transaction: TransactionId, part: TransactionPart | null): void {
    this.#activity.rolledBack(transaction, part);
  }

  /** Resolves at once, or when what has gathered is written down because there is too much of it. */
  async batch(batch: TrackedBatch): Promise<void> {
    const nowMs = performance.now();
    this.#activity.undated = nowMs < this.#undatedUntilMs;
    this.#activity.batch(batch);
    if (batch.blocks.length > 0 || batch.adopts.length > 0) this.#heardAtMs = nowMs;
    if (batch.events.some(({ kind }) => kind === 'gap')) this.#observedToMs = null;
    if (this.#activity.isFull) await this.flush();
  }

  /** Samples load and writes down what was counted until `signal` aborts, and once more then. */
  async run(signal: AbortSignal): Promise<void> {
    const { lengths, everyMs } = this.#parts;
    const pauseMs = Math.max(SAMPLE_MS_MIN, Math.min(everyMs, lengths.minuteMs / SAMPLES));
    let flushedAtMs = performance.now();
    while (!signal.aborted) {
      await this.#takeSample(pauseMs, signal);
      if (performance.now() - flushedAtMs >= everyMs) {
        flushedAtMs = performance.now();
        await this.flush();
      }
      await new Pulse().next(signal, pauseMs).catch(() => undefined); // aborted: the loop ends
    }
    await this.flush();
  }

  /** Writes down what was counted. A failure is told, and what failed is tried again with the next. */
  async flush(): Promise<void> {
    await this.#turns.take(async () => {
      const observed = joined(this.#unwrittenSeen, this.#observe());
      const activity = [...this.#unwritten, ...this.#activity.take()];
      const load = this.#load;
      this.#at = this.#activity.through ?? this.#at;
      this.#unwritten = [];
      this.#unwrittenSeen = null;
      this.#load = [];
      const counted = this.#at === null ? null : { journal: this.#parts.journal.id, at: this.#at, observedToMs: this.#observedToMs };
      try {
        await this.#parts.history.add({ counted, observed, activity, load });
        this.#troubles.delete('history');
      } catch (error) {
        this.#failed('history', error);
        if (activity.length > UNWRITTEN_MAX) this.#observedToMs = null;
        else {
          this.#unwritten = activity;
          this.#unwrittenSeen = observed;
        }
      }
    });
  }

  async #resume(tables: readonly TableName[], signal: AbortSignal): Promise<void> {
    const { history, journal, lengths } = this.#parts;
    const counted = await history.counted();
    const head = journal.head()?.at ?? null;
    this.#at = head;
    if (counted === null || counted.journal !== journal.id || head === null) return;
    if (this.#dates) this.#observedToMs = counted.observedToMs;
    else if (counted.observedToMs === null || this.#primaryNow() - counted.observedToMs > lengths.minuteMs) this.#resumed();
    for (const table of tables) {
      try {
        for await (const block of journal.read(table, counted.at, head, signal)) this.#activity.recount(block, counted.at, head);
      } catch (error) {
        if (!(error instanceof ForeshadowError && error.code === 'JOURNAL_GAP')) throw error;
        // Pruned after a capture, before it was written down.
        this.#observedToMs = null;
      }
    }
    await this.flush();
  }

  /** Nobody saw what was changed before: it comes now, and nothing tells when it was. */
  #resumed(): void {
    this.#observedToMs = null;
    this.#undatedUntilMs = performance.now() + RESUMED_MS;
  }

  #primaryNow(): number {
    return Date.now() + this.#aheadMs;
  }

  /** The stretch of time that was seen since it was last asked. */
  #observe(): Observation['observed'] {
    if (!this.#connected) return null;
    const nowMs = performance.now();
    const isLive = nowMs - this.#heardAtMs > QUIET_MS;
    const primaryNow = this.#primaryNow();
    const untilMs = isLive ? primaryNow : Math.min(primaryNow, this.#activity.lastCommitMs ?? primaryNow);
    let fromMs = this.#observedToMs ?? untilMs;
    const passedMs = this.#observedAtMs === null ? null : nowMs - this.#observedAtMs;
    if (passedMs !== null && isLive && Math.abs(untilMs - fromMs - passedMs) > CLOCK_SET_MS) fromMs = untilMs - passedMs;
    if (untilMs < fromMs) return null;
    this.#observedToMs = untilMs;
    this.#observedAtMs = isLive ? nowMs : null;
    return { fromMs, untilMs };
  }

  async #takeSample(pauseMs: number, signal: AbortSignal): Promise<void> {
    const before = this.#sample;
    this.#sample = null;
    const patience = AbortSignal.timeout(PATIENCE_MS);
    try {
      const askedMs = Date.now();
      const sample = await this.#parts.primary.load(AbortSignal.any([signal, patience]));
      const [atMs, copying] = [performance.now(), this.#parts.copies()];
      this.#aheadMs = sample.atMs - (askedMs + Date.now()) / 2;
      this.#sample = { sample, atMs, copying };
      this.#troubles.delete('load');
      const lengthMs = before === null ? 0 : atMs - before.atMs;
      if (before === null || lengthMs > PAUSES_MAX * pauseMs) return;
      const mixed = copying || before.copying;
      const rates = ratesBetween(before.sample, sample, lengthMs, !mixed);
      this.#recent = [...this.#recent.slice(1 - SAMPLES), { atMs, rates }];
      for (const { resource, value } of rates) {
        this.#load.push({ resource, atMs: sample.atMs - lengthMs, lengthMs, value });
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#failed('load', patience.aborted ? new Error('the primary does not answer') : error);
    }
  }

  #failed(what: 'history' | 'load', error: unknown): void {
    const reason = messageOf(error);
    // Of load it is told at length by those who cannot do their work without the primary.
    const level = what === 'history' && !this.#troubles.has(what) ? 'warn' : 'debug';
    this.#troubles.set(what, reason);
    this.#parts.log(level, what === 'history' ? 'activity cannot be written down' : 'the load of the primary is not known', { reason });
  }
}

/** One stretch of time, where the later begins where the earlier ended; else the later, and the earlier is a gap. */
function joined(earlier: Observation['observed'], later: Observation['observed']): Observation['observed'] {
  if (earlier === null || later === null) return later ?? earlier;
  return earlier.untilMs === later.fromMs ? { fromMs: earlier.fromMs, untilMs: later.untilMs } : later;
}
