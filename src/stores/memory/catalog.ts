import type { Catalog, DocumentName } from '../../capture/catalog.ts';
import { type CaptureNumber, type CaptureRecord, type Seal, captureNumber } from '../../model/capture.ts';
import type { DataSetSchema } from '../../model/schema.ts';
import type { MemoryClaim, MemoryStore } from './store.ts';

/** What is known of every capture, kept beside the rows of a shadow in memory. */
export class MemoryCatalog implements Catalog {
  readonly #store: MemoryStore;
  readonly #claim: MemoryClaim;

  constructor(store: MemoryStore, claim: MemoryClaim) {
    this.#store = store;
    this.#claim = claim;
  }

  async exists(): Promise<boolean> {
    return this.#store.isPrepared;
  }

  async list(): Promise<readonly CaptureRecord[]> {
    return [...this.#store.records.values()].toSorted((a, b) => a.number - b.number);
  }

  async get(number: CaptureNumber): Promise<CaptureRecord | null> {
    return this.#store.records.get(number) ?? null;
  }

  async save(record: CaptureRecord): Promise<void> {
    this.#claim.require();
    this.#store.records.set(record.number, record);
  }

  async cut(record: CaptureRecord, schema: DataSetSchema): Promise<void> {
    this.#claim.require();
    this.#store.records.set(record.number, record);
    this.#store.schemas.set(record.number, schema);
    for (const { table } of record.absent) {
      const element = this.#store.elements.get(table);
      if (element === undefined || element.progress.capture > record.number) continue;
      const progress = { ...element.progress, capture: captureNumber(record.number + 1) };
      this.#store.elements.set(table, { ...element, progress });
    }
  }

  async schema(number: CaptureNumber): Promise<DataSetSchema | null> {
    return this.#store.schemas.get(number) ?? null;
  }

  async seals(number: CaptureNumber): Promise<readonly Seal[]> {
    return this.#store.seals.get(number) ?? [];
  }

  async seal(record: CaptureRecord, seals: readonly Seal[]): Promise<void> {
    this.#claim.require();
    this.#store.records.set(record.number, record);
    this.#store.seals.set(
      record.number,
      seals.map((seal) => ({ ...seal, sums: Buffer.from(seal.sums) })),
    );
  }

  async read(name: DocumentName): Promise<unknown> {
    const text = this.#store.documents.get(name);
    return text === undefined ? null : JSON.parse(text);
  }

  async write(name: DocumentName, value: unknown): Promise<void> {
    this.#claim.require();
    this.#store.documents.set(name, JSON.stringify(value));
  }
}
