import type { TableName } from './schema.ts';

/** Which tables a data set consists of: patterns with `*` for any run of characters; what `exclude` matches is left out. */
export interface Selection {
  readonly include: readonly string[];
  readonly exclude: readonly string[];
  /** Whether inserts alone are enough where a table has nothing that identifies its rows. The first pattern that matches counts. */
  readonly insertOnly?: readonly { readonly pattern: string; readonly asked: boolean }[];
}

export function selects(selection: Selection, table: TableName): boolean {
  return matches(selection.include, table) && !matches(selection.exclude, table);
}

export function asksInsertsOnly({ insertOnly }: Selection, table: TableName): boolean {
  return insertOnly?.find(({ pattern }) => matches([pattern], table))?.asked === true;
}

function matches(patterns: readonly string[], table: TableName): boolean {
  return patterns.some((pattern) => toExpression(pattern).test(table));
}

function toExpression(pattern: string): RegExp {
  const escaped = pattern.split('*').map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'));
  return new RegExp(`^${escaped.join('.*')}$`, 'su');
}
