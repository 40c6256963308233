import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { parseDuration } from '../../app/config-duration.ts';
import { type ForecastReport, bareType, forecastReport } from '../../app/forecast-report.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { DRAWN, drawn, gathered } from '../drawing.ts';
import { EXIT } from '../failure.ts';
import { configOf, newCommand, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { tableText } from '../table.ts';
import { cell, duration, localTime, number, size } from '../words.ts';

interface Options {
  readonly ahead: string;
  readonly by: 'rows' | 'bytes';
  readonly limit: number;
  readonly table?: string[];
  readonly exclude?: string[];
  readonly minSize?: number;
  readonly maxSize?: number;
  readonly withoutType?: string[];
}

export function forecastCommand(act: Act): Command {
  return newCommand(
    'forecast',
    'hotspots and load ahead',
    ['foreshadow forecast', 'foreshadow forecast --ahead 6h --by bytes --json', "foreshadow forecast --exclude 'audit_*' --min-size 1GB"],
    'Says from what was learned (`foreshadow history`) which tables will be modified most, and how busy the primary will be, with what one hour in ten exceeds.',
  )
    .option('--ahead <duration>', 'how far ahead', '24h')
    .addOption(new Option('--by <measure>', 'what makes a hotspot: distinct rows or bytes').choices(['rows', 'bytes']).default('rows'))
    .option('--limit <number>', 'how many hotspots', toLimit, 10)
    .option('--table <patterns...>', 'only tables of these names')
    .option('--exclude <patterns...>', 'no tables of these names')
    .option('--min-size <size>', 'only tables that take as much on the primary, with their indexes, such as 100MB', toBytes)
    .option('--max-size <size>', 'only tables that take no more', toBytes)
    .option('--without-type <types...>', 'no tables that have a column of these types, such as bytea')
    .action(
      act(async (invocation, { ahead, by, limit, table, exclude, minSize, maxSize, withoutType }: Options) => {
        const filter = {
          tables: { include: table ?? ['*'], exclude: exclude ?? [] },
          ...(minSize === undefined ? {} : { sizeBytesMin: minSize }),
          ...(maxSize === undefined ? {} : { sizeBytesMax: maxSize }),
          ...(withoutType === undefined ? {} : { withoutTypes: withoutType.map(bareType) }),
        };
        const options = { aheadMs: durationOf(ahead), by, limit, filter };
        const config = await configOf(invocation);
        const report = await withProgress(invocation, (progress) => forecastReport(config, options, progress, invocation.signal));
        if (invocation.json) await invocation.out.json(report);
        else await invocation.out.write(forecastText(report));
        return EXIT.done;
      }),
    );
}

function toLimit(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > 1000) throw new InvalidArgumentError('A whole number from 1 to 1000 is needed.');
  return limit;
}

const BYTES: Readonly<Record<string, number>> = { '': 1, b: 1, kb: 1e3, mb: 1e6, gb: 1e9, tb: 1e12 };

function toBytes(text: string): number {
  const [, amount, unit = ''] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = BYTES[unit.toLowerCase()];
  if (amount === undefined || factor === undefined) throw new InvalidArgumentError('A size such as 500kB, 100MB or 1.5GB is needed.');
  return Number(amount) * factor;
}

/** Beyond a week nothing that is learned here says more than the week before. */
const AHEAD_MAX_MS = 7 * 86_400_000;

function durationOf(text: string): number {
  const parsed = parseDuration(text);
  if (!('ms' in parsed)) throw new ForeshadowError('USAGE', parsed.problem, { remedy: parsed.remedy });
  if (parsed.ms <= AHEAD_MAX_MS && parsed.ms > 0) return parsed.ms;
  throw new ForeshadowError('USAGE', `--ahead ${text} is not within a week`, { remedy: 'Ask for up to 7d.' });
}

function forecastText({ from, stepMs, hotspots, held, load, troubles }: ForecastReport): string {
  const wrong = troubles.map((trouble) => `${trouble}\n`).join('');
  if (hotspots.length + load.length === 0) {
    return `nothing can be forecast yet: the first ${duration(stepMs)} has to be over (foreshadow start), or what was before put in (foreshadow history --seed)\n${wrong}`;
  }
  const right = true;
  const hot = tableText(
    [{ title: 'hotspot' }, { title: 'rows', right }, { title: 'bytes', right }, { title: 'share', right }],
    hotspots.map(({ table, distinctRows, bytes, share }) => [
      cell(table),
      number(distinctRows),
      size(bytes),
      `${Math.round(100 * share)} %`,
    ]),
  );
  const before =
    held === null
      ? 'no forecast of this length has been put to the test yet'
      : `the last ${held.forecasts} such forecasts named ${Math.round(100 * held.recall)} % of the hottest ${held.of}`;
  const figure = (value: number | null | undefined) => (value === null || value === undefined ? '-' : number(Number(value.toPrecision(3))));
  // All that was asked for is drawn, in as many characters as there is room for.
  const steps = load[0]?.middle.length ?? 0;
  const stride = Math.max(1, Math.ceil(steps / DRAWN));
  const picture = `middle, and what is exceeded one time in ten, by ${duration(stepMs * stride)}`;
  const busy = tableText(
    [
      { title: 'load, and who speaks (error)' },
      { title: `next ${duration(stepMs)}`, right },
      { title: 'at most', right },
      { title: picture },
    ],
    load.flatMap(({ resource, basis, middle, upper, voices, given }) => {
      const most = Math.max(0, ...[...upper, ...(given?.counts === true ? given.values : [])].map((value) => value ?? 0));
      const who =
        voices.length === 0
          ? basis
          : `${basis}: ${voices
              .slice(0, 3)
              .map(({ name, error }) => `${name} ${figure(error)}`)
              .join(', ')}`;
      return [
        [cell(resource), figure(middle[0]), figure(upper[0]), drawn(gathered(middle, stride), most)],
        [`  ${who}`, '', '', drawn(gathered(upper, stride), most)],
        ...(given === null ? [] : [[`  ${goesBy(given)}`, figure(given.values[0]), '', drawn(gathered(given.values, stride), most)]]),
      ];
    }),
  );
  const sections = [
    hotspots.length === 0 ? 'no hotspots: no table asked for was seen to be modified in an hour that is over\n' : `${hot}${before}\n`,
    load.length === 0 ? null : busy,
    troubles.length === 0 ? null : wrong,
  ].filter((each) => each !== null);
  return `from ${localTime(from)} on\n\n${sections.join('\n')}`;
}

/** Which forecast the live loop goes by. */
function goesBy({ by, values, counts }: NonNullable<ForecastReport['load'][number]['given']>): string {
  const said = values.filter((value) => value !== null).length;
  if (!counts || said === 0) return `${by}: start goes by ours`;
  return `${by}: start goes by it${said === values.length ? '' : `, for ${said} of ${values.length}, else by ours`}`;
}
