import type { Journal } from '../journal/journal.ts';
import type { TableName } from '../model/schema.ts';
import type { Primary } from '../tracking/primary.ts';
import type { Tracker } from '../tracking/tracker.ts';
import type { HoldingParts } from './holding.ts';
import type { Shadow } from './shadow.ts';

/** What the engine is made of. */
export interface EngineParts {
  readonly primary: Primary;
  readonly journal: Journal;
  readonly tracker: Tracker;
  readonly shadow: Shadow;
  /** Names a place where a test may kill the process. */
  readonly failpoint: (name: string) => void;
  readonly log: (message: string, fields: Readonly<Record<string, unknown>>) => void;
  /** The shortest time between two folds of live changes: longer means fewer writes of hot rows, and more lag. */
  readonly foldEveryMs: number;
  /** How old a table's changes may grow: the earliest deadline is served first. */
  readonly lagToleranceMs: (table: TableName) => number;
  /** Whether a table whose new shape asks for its rows to be read again is to be followed, or halted. */
  readonly followsShape: (table: TableName) => boolean;
  /** Rows may be held back until they are called for; without it everything moves as it comes. */
  readonly holding?: HoldingParts;
}
