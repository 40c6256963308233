import type { TableName } from '../model/schema.ts';
import type { LearnedRows } from '../prediction/learned.ts';

/** What it was learned in: counts per slot of another length, or of a day of another length, mean something else. */
export interface LearnedIn {
  readonly dayMs: number;
  readonly slotMs: number;
}

/** What is learned of rows, with the tables that elements stand for. */
export interface KeptLearning {
  readonly tables: readonly TableName[];
  readonly rows: LearnedRows;
}

interface Document extends LearnedIn {
  readonly format: number;
  readonly tables: readonly TableName[];
  readonly rows: LearnedRows;
}

/** Raised with everything that makes earlier documents say something else, the features and stretches of time of survival included. */
const FORMAT = 1;

/** At most some 3 MB and a table's name for each that changes; of daily captures some 0.5 MB. */
export function learningDocument({ dayMs, slotMs }: LearnedIn, { tables, rows }: KeptLearning): string {
  const named = new Set(rows.elements.map(([element]) => element));
  const kept = tables.flatMap((table, element) => (named.has(element) ? [{ table, element }] : []));
  const place = new Map(kept.map(({ element }, index) => [element, index]));
  const elements = rows.elements.map(([element, changed]) => [place.get(element) ?? -1, changed] as const);
  const document: Document = { format: FORMAT, dayMs, slotMs, tables: kept.map(({ table }) => table), rows: { ...rows, elements } };
  return JSON.stringify(document);
}

/** @throws Error for what is of no use here, saying why. Whether its numbers can be is for those to say who count with them. */
export function readLearning(text: string, { dayMs, slotMs }: LearnedIn): KeptLearning {
  const document = JSON.parse(text) as Document;
  if (document.format !== FORMAT) throw new Error(`it has format ${document.format}, and this version knows ${FORMAT}`);
  if (document.dayMs !== dayMs || document.slotMs !== slotMs) {
    throw new Error(
      `it was learned in slots of ${document.slotMs} ms of a day of ${document.dayMs} ms, not of ${slotMs} ms and ${dayMs} ms`,
    );
  }
  const { tables, rows } = document;
  if (rows.elements.some(([element]) => typeof tables[element] !== 'string')) throw new Error('it names elements that are no tables');
  return { tables, rows };
}
