import type { TableName } from '../model/schema.ts';
import { type KeyTuple, identityOf } from '../model/tuple.ts';

interface Repair {
  readonly keys: readonly KeyTuple[];
  done: boolean;
}

/** Keys that are to be read from the primary again, by whoever asked. */
export class Repairs {
  readonly #wanted = new Map<TableName, Repair[]>();

  /** Returns whether it is done by now. */
  request(table: TableName, keys: readonly KeyTuple[]): () => boolean {
    const repair: Repair = { keys, done: false };
    this.#wanted.set(table, [...(this.#wanted.get(table) ?? []), repair]);
    return () => repair.done;
  }

  has(table: TableName): boolean {
    return this.#wanted.has(table);
  }

  keysOf(table: TableName): KeyTuple[] {
    return (this.#wanted.get(table) ?? []).flatMap(({ keys }) => keys);
  }

  /** The rows of these keys are as the primary has them. */
  done(table: TableName, keys: readonly KeyTuple[]): void {
    const covered = new Set(keys.map(identityOf));
    const rest = (this.#wanted.get(table) ?? []).filter((repair) => {
      repair.done = repair.keys.every((key) => covered.has(identityOf(key)));
      return !repair.done;
    });
    if (rest.length === 0) this.#wanted.delete(table);
    else this.#wanted.set(table, rest);
  }
}
