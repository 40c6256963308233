import type { Command } from 'commander';
import type { CaptureListing } from '../../app/operations.ts';
import { EXIT } from '../failure.ts';
import { newCommand, operationsOf } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { tableText } from '../table.ts';
import { count, localTime, number } from '../words.ts';

export function capturesCommand(act: Act): Command {
  return newCommand('captures', 'list the captures', ['foreshadow captures', 'foreshadow captures --json']).action(
    act(async (invocation) => {
      await using operations = await operationsOf(invocation);
      const listings = await operations.captures(invocation.signal);
      if (invocation.json) await invocation.out.json(listings);
      else if (listings.length === 0) await invocation.out.line('no captures yet: foreshadow capture takes one');
      else await invocation.out.write(capturesText(listings));
      return EXIT.done;
    }),
  );
}

function capturesText(listings: readonly CaptureListing[]): string {
  const right = true;
  return tableText(
    [
      { title: 'capture', right },
      { title: 'taken' },
      { title: 'verdict' },
      { title: 'inserted', right },
      { title: 'updated', right },
      { title: 'deleted', right },
      { title: 'notes' },
    ],
    listings.map((each) => [
      String(each.number),
      each.at === null ? '-' : localTime(each.at),
      each.verdict ?? each.state,
      ...(each.rows === null ? ['-', '-', '-'] : [number(each.rows.inserted), number(each.rows.updated), number(each.rows.deleted)]),
      notes(each),
    ]),
  );
}

/** So many tables are named in a line; `--json` has them all. */
const NAMED_MAX = 3;

function notes(listing: CaptureListing): string {
  const named = (what: string, tables: CaptureListing['absent']): string[] => [
    ...tables.slice(0, NAMED_MAX).map(({ table, reason }) => `${what} ${table} (${reason})`),
    ...(tables.length > NAMED_MAX ? [`${what} ${count(tables.length - NAMED_MAX, 'more table', 'more tables')}`] : []),
  ];
  const holds = listing.holds.map(({ name, until }) => `held: ${name}${until === null ? '' : ` until ${localTime(until)}`}`);
  return [
    ...(listing.note === null ? [] : [listing.note]),
    ...named('without', listing.absent),
    ...named('not compared:', listing.notCompared),
    ...holds,
  ].join('; ');
}
