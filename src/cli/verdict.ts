import type { DifferenceReport } from '../app/operations.ts';
import type { Coverage, RowCounts, Verdict } from '../model/capture.ts';
import { count, keyText } from './words.ts';

/** How many differences are worth a person's lines; `--json` has them all. */
const SHOWN_MAX = 20;

export function coverageText(coverage: Coverage): string {
  const compared = `${count(coverage.rows, 'row')} compared in ${count(coverage.tables, 'table')}`;
  const witnessed = coverage.witnessed === 0 ? '' : `, ${count(coverage.witnessed, 'row')} vouched for by the journal`;
  const skipped = coverage.skipped.map(({ table, reason }) => `\n  skipped ${table}: ${reason}`).join('');
  const inserts = (coverage.insertOnly ?? []).map(
    (table) => `\n  insert-only ${table}: looked for what the primary has, not for what it has no more`,
  );
  return `${compared}${witnessed}${skipped}${inserts.join('')}`;
}

export function differencesText(differences: readonly DifferenceReport[], more: number = 0): string {
  const shown = differences.slice(0, SHOWN_MAX).map(({ table, key, diagnosis }) => `  ${table} ${keyText(key)}: ${diagnosis}\n`);
  const rest = differences.length - shown.length + more;
  return shown.join('') + (rest > 0 ? `  and ${count(rest, 'more difference', 'more differences')}\n` : '');
}

export function rowsText(rows: RowCounts): string {
  return `${count(rows.inserted, 'row')} inserted, ${rows.updated} updated, ${rows.deleted} deleted`;
}

/** What a verdict means for the reader. */
export function verdictText(verdict: Verdict): string {
  switch (verdict) {
    case 'VALID':
      return 'VALID: equal to the primary as far as was compared';
    case 'INVALID':
      return 'INVALID: rows differ';
    case 'INCONCLUSIVE':
      return 'INCONCLUSIVE: not everything could be compared';
    default:
      return verdict;
  }
}
