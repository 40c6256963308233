import type { Command } from 'commander';
import type { QueryReport } from '../../app/operations.ts';
import { EXIT } from '../failure.ts';
import { captureArgument, newCommand, operationsOf } from '../invocation.ts';
import type { Act, Invocation } from '../invocation.ts';
import { tableLine, tableWidths } from '../table.ts';
import type { TableColumn } from '../table.ts';
import { cell } from '../words.ts';

export function queryCommand(act: Act): Command {
  return newCommand(
    'query',
    'one read-only statement over a capture',
    ["foreshadow query 1 'SELECT count(*) FROM orders'", "foreshadow query 1 'SELECT * FROM orders' --json"],
    "Runs one read-only statement of the shadow's own SQL, with every table of the data set standing as of the capture.",
  )
    .argument('<capture>', 'the number of a capture')
    .argument('<sql>', 'the statement')
    .action(
      act(async (invocation, capture: string, sql: string) => {
        const number = captureArgument(capture);
        await using operations = await operationsOf(invocation);
        const slices = operations.query(number, sql, invocation.signal);
        await (invocation.json ? printJson(invocation, slices) : printText(invocation, slices));
        return EXIT.done;
      }),
    );
}

/** An array of objects, column to value, one to a line. Nothing is printed before the first slice is there: errors come alone. */
async function printJson(invocation: Invocation, slices: AsyncIterable<QueryReport>): Promise<void> {
  let before = '[';
  for await (const { columns, rows } of slices) {
    const names = distinctNames(columns);
    for (const row of rows) {
      await invocation.out.write(`${before}${JSON.stringify(Object.fromEntries(names.map((name, index) => [name, row[index] ?? null])))}`);
      before = ',\n';
    }
  }
  await invocation.out.write(before === '[' ? '[]\n' : ']\n');
}

/** Two columns of one name would hide each other in an object: the second becomes `name_2`. */
function distinctNames(columns: readonly string[]): string[] {
  const taken = new Set(columns);
  const seen = new Set<string>();
  return columns.map((column) => {
    let name = column;
    for (let n = 2; seen.has(name) || (name !== column && taken.has(name)); n++) name = `${column}_${n}`;
    seen.add(name);
    return name;
  });
}

async function printText(invocation: Invocation, slices: AsyncIterable<QueryReport>): Promise<void> {
  let columns: TableColumn[] | null = null;
  // Widths are those of the first slice: waiting for the last would hold every row in memory.
  let widths: number[] = [];
  for await (const slice of slices) {
    const rows = slice.rows.map((row) => row.map(cell));
    if (columns === null) {
      columns = slice.columns.map((title, index) => ({
        title: cell(title),
        right: slice.rows.length > 0 && slice.rows.every((row) => row[index] === null || /^-?\d+(\.\d+)?$/.test(cell(row[index]))),
      }));
      widths = tableWidths(columns, rows);
      await invocation.out.line(
        tableLine(
          columns,
          widths,
          columns.map((column) => column.title),
        ),
      );
    }
    for (const row of rows) await invocation.out.line(tableLine(columns, widths, row));
  }
}
