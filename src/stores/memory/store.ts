import { randomUUID } from 'node:crypto';
import type { DocumentName } from '../../capture/catalog.ts';
import type { CaptureNumber, CaptureRecord, Seal } from '../../model/capture.ts';
import { ForeshadowError } from '../../model/errors.ts';
import type { Element } from '../../model/progress.ts';
import type { DataSetSchema, TableName } from '../../model/schema.ts';
import type { Segment } from './segment.ts';

/** What a shadow and its catalog share, and what is left when they are closed. */
export class MemoryStore {
  readonly identity = `memory:${randomUUID()}`;
  isPrepared = false;
  /** Who writes; null: nobody. */
  holder: { readonly name: string; readonly claim: MemoryClaim } | null = null;
  /** Tables of somebody else's. */
  readonly occupied = new Set<TableName>();
  readonly elements = new Map<TableName, Element>();
  /** Oldest first; the last one of a table that has an element is live. */
  readonly segments = new Map<TableName, readonly Segment[]>();
  readonly records = new Map<CaptureNumber, CaptureRecord>();
  readonly schemas = new Map<CaptureNumber, DataSetSchema>();
  readonly seals = new Map<CaptureNumber, readonly Seal[]>();
  /** JSON. */
  readonly documents = new Map<DocumentName, string>();
}

/** The right of one opened shadow to write. */
export class MemoryClaim {
  readonly #store: MemoryStore;

  constructor(store: MemoryStore) {
    this.#store = store;
  }

  take(name: string): void {
    const { holder } = this.#store;
    if (holder !== null && holder.claim !== this) {
      throw new ForeshadowError('ALREADY_RUNNING', `the shadow is already written to by ${holder.name}`, {
        remedy: 'Stop it first, or use another shadow.',
      });
    }
    this.#store.holder = { name, claim: this };
  }

  release(): void {
    if (this.#store.holder?.claim === this) this.#store.holder = null;
  }

  require(): void {
    if (this.#store.holder?.claim === this) return;
    throw new ForeshadowError('FENCED', 'this instance has no claim on the shadow', {
      remedy: 'Claim the shadow before writing to it; if another instance took over, leave it the work.',
    });
  }
}
