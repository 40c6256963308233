import { isAbort, messageOf } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { Element } from '../model/progress.ts';
import type { TableName } from '../model/schema.ts';
import type { RowLimit } from '../tracking/primary.ts';
import { Apart } from './apart.ts';
import { type Chunk, type ChunkScope, readChunks } from './copy.ts';
import type { EngineParts } from './parts.ts';

/** A chunk that is being read, or was. */
export interface OpenChunk {
  readonly scope: ChunkScope;
  outcome: { readonly chunk: Chunk } | { readonly error: unknown } | null;
  /** Those that share its snapshot. */
  readonly group: Group;
}

interface Group {
  readonly stop: AbortController;
  readonly open: Set<OpenChunk>;
}

interface Want {
  readonly element: Element;
  readonly scope: ChunkScope;
}

const CHUNK_LIMIT: RowLimit = { rows: 20_000, bytes: 8 << 20 };
/** Groups read at the same time: each holds a snapshot of the primary and what was read in it. */
const OPEN_GROUPS_MAX = 2;
/** Tables read in one snapshot, which has them all locked against rewriting. */
const GROUP_MAX = 100;

/** Reads chunks: those of many small tables in one snapshot, which is waited for once. */
export class Reads {
  readonly #parts: EngineParts;
  readonly #stir: () => void;
  readonly #open = new Map<TableName, OpenChunk>();
  #wanted = new Map<TableName, Want>();
  readonly #apart = new Apart();

  constructor(parts: EngineParts, stir: () => void) {
    this.#parts = parts;
    this.#stir = stir;
  }

  get(table: TableName): OpenChunk | undefined {
    return this.#open.get(table);
  }

  /** To be read when the next group begins. */
  want(element: Element, scope: ChunkScope): void {
    this.close(element.schema.table);
    this.#wanted.set(element.schema.table, { element, scope });
  }

  /** Begins to read what is wanted, as far as there is room. What is left must be asked for again: it may be outdated by then. */
  begin(covering: Position, signal: AbortSignal): void {
    const wants = Array.from(this.#wanted.values());
    this.#wanted = new Map();
    for (const want of wants) if (this.#apart.has(want.element.schema.table)) this.read([want], covering, signal);
    const together = wants.filter(({ element }) => !this.#apart.has(element.schema.table));
    for (let at = 0; at < together.length; at += GROUP_MAX) this.read(together.slice(at, at + GROUP_MAX), covering, signal);
  }

  /** Nothing happens where there is no room. */
  read(wants: readonly Want[], covering: Position, signal: AbortSignal): void {
    if (new Set(Array.from(this.#open.values(), ({ group }) => group)).size >= OPEN_GROUPS_MAX) return;
    const group: Group = { stop: new AbortController(), open: new Set() };
    for (const { element, scope } of wants) {
      const open: OpenChunk = { scope, outcome: null, group };
      group.open.add(open);
      this.#open.set(element.schema.table, open);
    }
    readChunks(this.#parts, wants, covering, CHUNK_LIMIT, AbortSignal.any([signal, group.stop.signal]))
      .then(
        (chunks) => this.#have(group, (table) => chunks.get(table)),
        (error: unknown) => this.#failed(group, error),
      )
      .finally(this.#stir);
  }

  /** What was read of it is of no use any more. Returns whether there was something. */
  close(table: TableName): boolean {
    const open = this.#open.get(table);
    if (open === undefined) return false;
    this.#open.delete(table);
    open.group.open.delete(open);
    if (open.group.open.size === 0) open.group.stop.abort();
    return true;
  }

  /** Those for which the group had no time are read with another. */
  #have(group: Group, chunkOf: (table: TableName) => Chunk | undefined): void {
    for (const [table, open] of Array.from(this.#open)) {
      if (open.group !== group) continue;
      const chunk = chunkOf(table);
      if (chunk === undefined) this.close(table);
      else open.outcome = { chunk };
      if (chunk !== undefined) this.#apart.succeeded(table);
    }
  }

  #failed(group: Group, error: unknown): void {
    const members = Array.from(this.#open).filter(([, open]) => open.group === group);
    const tables = members.map(([table]) => table);
    const told = tables.length <= 1 || isAbort(error) || this.#apart.blame(tables, error);
    if (!told) this.#parts.log('tables that were read together are read one by one', { tables: tables.length, reason: messageOf(error) });
    for (const [table, open] of members) {
      open.outcome = { error };
      if (!told) this.close(table);
    }
  }
}
