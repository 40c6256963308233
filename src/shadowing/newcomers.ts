import { ForeshadowError, isAbort, messageOf } from '../model/errors.ts';
import { Pulse } from '../model/pulse.ts';
import type { TableName } from '../model/schema.ts';
import { Turns } from '../model/turns.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Tracker } from '../tracking/tracker.ts';
import type { Engine } from './engine.ts';
import type { Shadow } from './shadow.ts';

export interface NewcomerParts {
  readonly primary: Primary;
  readonly shadow: Shadow;
  readonly tracker: Tracker;
  readonly engine: Engine;
  readonly log: (message: string, fields: Readonly<Record<string, unknown>>) => void;
}

const RETRY_MS = 1000;

/** Takes up tables that came to the data set: tracks them, and has them copied. */
export class Newcomers {
  readonly #parts: NewcomerParts;
  readonly #turns = new Turns();
  readonly #heard = new Pulse();
  readonly #wanted = new Set<TableName>();
  readonly #stopListening: () => void;

  constructor(parts: NewcomerParts) {
    this.#parts = parts;
    this.#stopListening = parts.tracker.onTracked(({ events }) => {
      for (const { kind, table } of events) if (kind === 'created') this.want([table]);
    });
  }

  want(tables: Iterable<TableName>): void {
    for (const table of tables) this.#wanted.add(table);
    this.#heard.beat();
  }

  /** Takes them up as they are heard of, until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      while (!signal.aborted) {
        if (this.#wanted.size === 0) await this.#heard.next(signal);
        if (!(await this.adopt(signal))) await this.#heard.next(signal, RETRY_MS);
      }
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) throw error;
    } finally {
      this.#stopListening();
    }
  }

  /** Takes up those that were heard of by now. False: some have to wait, and why is in the log. */
  adopt(signal: AbortSignal): Promise<boolean> {
    return this.#turns.take(async () => {
      if (this.#wanted.size === 0) return true;
      try {
        await this.#adopt(signal);
      } catch (error) {
        if (signal.aborted || (error instanceof ForeshadowError && error.code === 'FENCED')) throw error;
        this.#parts.log('new tables could not be taken up', { reason: messageOf(error) });
      }
      return this.#wanted.size === 0;
    });
  }

  async #adopt(signal: AbortSignal): Promise<void> {
    const { primary, shadow, tracker, engine, log } = this.#parts;
    // Before anything of them is tracked: whatever is, comes after.
    const low = tracker.head;
    const described = await primary.describe(signal);
    const coming = described.tables.filter(({ table }) => this.#wanted.has(table) && !engine.elements.has(table));
    const present = new Set(described.tables.map(({ table }) => table));
    for (const table of this.#wanted) {
      const element = engine.elements.get(table);
      // One of its name may stand there still, of which an event says that it went.
      const leaving = element !== undefined && engine.backlog.hasEvent(table, element.progress.low);
      if (!present.has(table) || (element !== undefined && !leaving)) this.#wanted.delete(table);
    }
    if (coming.length === 0) return;
    await primary.install(primary.tellsShapes ? coming : described.tables, signal);
    await shadow.prepare({ ...described, tables: coming }, { generation: engine.generation, low, high: low, capture: engine.nextNumber });
    await engine.adopt();
    for (const { table } of coming) {
      this.#wanted.delete(table);
      log('a new table is copied', { table });
    }
  }
}
