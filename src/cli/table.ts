import { stripVTControlCharacters } from 'node:util';

/** Columns that hold numbers only are set to the right. */
export interface TableColumn {
  readonly title: string;
  readonly right?: boolean;
}

const CELL_WIDTH_MAX = 60;

/** An aligned table with a line of titles; empty string for no rows and no titles. */
export function tableText(columns: readonly TableColumn[], rows: readonly (readonly string[])[]): string {
  const widths = tableWidths(columns, rows);
  const titles = columns.map((column) => column.title);
  return [titles, ...rows].map((row) => `${tableLine(columns, widths, row)}\n`).join('');
}

export function tableWidths(columns: readonly TableColumn[], rows: readonly (readonly string[])[]): number[] {
  return columns.map((column, index) =>
    rows.reduce((widest, row) => Math.max(widest, Math.min(CELL_WIDTH_MAX, displayWidth(row[index] ?? ''))), displayWidth(column.title)),
  );
}

export function tableLine(columns: readonly TableColumn[], widths: readonly number[], row: readonly string[]): string {
  const cells = columns.map((column, index) => {
    const text = row[index] ?? '';
    const pad = ' '.repeat(Math.max(0, (widths[index] ?? 0) - displayWidth(text)));
    return column.right === true ? pad + text : text + pad;
  });
  return cells.join('  ').trimEnd();
}

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });

/** Terminal columns, closely enough to align: wide East Asian characters and emoji take two. */
function displayWidth(text: string): number {
  const plain = stripVTControlCharacters(text);
  if (/^[\u0020-\u007e]*$/.test(plain)) return plain.length;
  let width = 0;
  for (const { segment } of graphemes.segment(plain)) {
    width += /[\p{Emoji_Presentation}\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/u.test(
      segment,
    )
      ? 2
      : 1;
  }
  return width;
}
