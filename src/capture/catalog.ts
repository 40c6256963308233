import type { CaptureNumber, CaptureRecord, Seal } from '../model/capture.ts';
import type { DataSetSchema } from '../model/schema.ts';

/**
 * What is known of every capture, kept in the shadow. Each call is one durable transaction; when it resolves it survives a crash.
 * Writes need the shadow's claim.
 */
export interface Catalog {
  /** False before the shadow was ever prepared: the other calls then find nothing. */
  exists(): Promise<boolean>;
  /** Oldest first. */
  list(): Promise<readonly CaptureRecord[]>;
  get(number: CaptureNumber): Promise<CaptureRecord | null>;
  /** Inserts or replaces the record. */
  save(record: CaptureRecord): Promise<void>;
  /**
   * The cut: saves the record, pins the schema, and moves the elements it leaves out on to the next capture, in one
   * transaction. Must not wait for an `apply` in progress: it runs on a connection of its own where the engine allows.
   */
  cut(record: CaptureRecord, schema: DataSetSchema): Promise<void>;
  schema(number: CaptureNumber): Promise<DataSetSchema | null>;
  seals(number: CaptureNumber): Promise<readonly Seal[]>;
  /** Saves the record together with its seals. */
  seal(record: CaptureRecord, seals: readonly Seal[]): Promise<void>;

  /** Small documents that belong to the data set: identities, parking, cursors. JSON. */
  read(name: DocumentName): Promise<unknown>;
  write(name: DocumentName, value: unknown): Promise<void>;
}

export type DocumentName =
  | 'data-set' // {name, primaryIdentity, journalId}
  | 'parked' // {at, since} or null
  | 'unmirrored-indexes' // UnmirroredIndex[]: what policy asks for and the shadow cannot have
  | 'suspect' // tables that the next capture compares whole: something was wrong with them, or nobody watched
  | 'cursors'; // by table, where its rolling validation goes on
