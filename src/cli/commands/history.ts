import { Option } from 'commander';
import type { Command } from 'commander';
import { resolve } from 'node:path';
import { parseDuration } from '../../app/config-duration.ts';
import { type HistoryReport, type SeedReport, type Step, historyReport, seedFromFile, seedFromQueries } from '../../app/history-report.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { EXIT } from '../failure.ts';
import { configOf, newCommand } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { drawn } from '../drawing.ts';
import { tableText } from '../table.ts';
import { cell, count, localTime, number } from '../words.ts';

interface Options {
  readonly step: Step;
  readonly since: string;
  readonly seed?: string;
  readonly seedPrometheus?: string;
}

export function historyCommand(act: Act): Command {
  return newCommand(
    'history',
    'activity and load, as learned',
    ['foreshadow history', 'foreshadow history --step minute --since 2h --json', 'foreshadow history --seed activity.csv'],
    'Shows what was learned of activity per table and load per resource, or seeds it with what was observed before: docs/reference/history.md.',
  )
    .addOption(new Option('--step <length>', 'the length of slots').choices(['minute', 'hour', 'day']).default('hour'))
    .option('--since <duration>', 'how far back to show', '24h')
    .addOption(new Option('--seed <file>', 'put in what a file holds (CSV or NDJSON)').conflicts('seedPrometheus'))
    .option('--seed-prometheus <duration>', 'put in what prediction.prometheus tells of that long')
    .action(
      act(async (invocation, { step, since, seed, seedPrometheus }: Options) => {
        const config = await configOf(invocation);
        if (seed !== undefined || seedPrometheus !== undefined) {
          const report =
            seed !== undefined
              ? await seedFromFile(config, resolve(invocation.directory, seed))
              : await seedFromQueries(config, durationOf(seedPrometheus as string), invocation.signal);
          if (invocation.json) await invocation.out.json(report);
          else await invocation.out.line(seedText(report));
          return EXIT.done;
        }
        const report = await historyReport(config, step, durationOf(since));
        if (invocation.json) await invocation.out.json(report);
        else await invocation.out.write(historyText(report, step));
        return EXIT.done;
      }),
    );
}

function durationOf(text: string): number {
  const parsed = parseDuration(text);
  if ('ms' in parsed) return parsed.ms;
  throw new ForeshadowError('USAGE', parsed.problem, { remedy: parsed.remedy });
}

function seedText({ tables, resources, slots }: SeedReport): string {
  return `seeded ${count(slots, 'slot')}: ${count(tables.length, 'table')}, ${count(resources.length, 'resource')}`;
}

function historyText({ from, tables, load }: HistoryReport, step: Step): string {
  if (tables.length + load.length === 0) return 'nothing is learned of that time: foreshadow start\n';
  const right = true;
  const sum = (values: readonly (number | null)[]): number => values.reduce<number>((total, value) => total + (value ?? 0), 0);
  const activity = tableText(
    [{ title: 'table' }, { title: 'changes', right }, { title: `most rows in a ${step}`, right }, { title: 'changes over time' }],
    tables.map(({ table, changes, distinctRows }) => [
      cell(table),
      number(Math.round(sum(changes))),
      number(Math.max(0, ...distinctRows.map((value) => value ?? 0))),
      drawn(changes),
    ]),
  );
  const busy = tableText(
    [{ title: 'load' }, { title: 'mean', right }, { title: 'peak', right }, { title: 'mean over time' }],
    load.map(({ resource, mean, peak }) => {
      const known = mean.filter((value) => value !== null);
      const average = known.length === 0 ? '-' : number(Number((sum(mean) / known.length).toPrecision(3)));
      return [cell(resource), average, number(Number(Math.max(0, ...peak.map((value) => value ?? 0)).toPrecision(3))), drawn(mean)];
    }),
  );
  return `since ${localTime(from)}, by the ${step}\n\n${tables.length === 0 ? '' : activity}${load.length === 0 ? '' : `\n${busy}`}`;
}
