import { StringDecoder } from 'node:string_decoder';
import type { CaptureNumber } from '../../model/capture.ts';
import type { TableName } from '../../model/schema.ts';
import { identifier } from './connection.ts';
import { qualified } from './layout.ts';
import { BEGIN_READING, layoutAt } from './segments.ts';
import type { Wire } from './wire.ts';

/**
 * `Shadow.script`: a COPY block as psql runs it and pg_dump writes it. The text form of COPY keeps every value of every type exact, and
 * gives columns their values where an INSERT may not (identities GENERATED ALWAYS).
 */
export async function* scriptRows(wire: Wire, table: TableName, at: CaptureNumber, signal: AbortSignal): AsyncIterable<string> {
  await wire.query(BEGIN_READING);
  const layout = await layoutAt(wire, table, at);
  const { columns } = layout.segment.schema;
  const written = columns.flatMap((column, index) => (column.hidden || column.generated ? [] : [index]));
  const names = written.map((index) => identifier(columns[index]?.name ?? ''));
  const stored = written.map((index) => `v.${layout.columns[index]}`).join(', ');
  // A table may consist of computed columns alone, or of none: its rows are then empty lines.
  yield `COPY ${qualified(table)}${names.length === 0 ? '' : ` (${names.join(', ')})`} FROM stdin;\n`;
  // A character may be cut in two between pieces.
  const decoder = new StringDecoder('utf8');
  for await (const pieces of wire.copyOut(`COPY (SELECT ${stored} FROM (${layout.asOf(at)}) v${layout.unfolded('v')}) TO STDOUT`, signal)) {
    yield pieces.map((piece) => decoder.write(piece)).join('');
  }
  yield `${decoder.end()}\\.\n\n`;
}
