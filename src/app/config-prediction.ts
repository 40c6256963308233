import { z } from 'zod';
import { duration } from './config-duration.ts';

/** The part of `foreshadow.yaml` that is about prediction. */

const queries = z.record(z.string().min(1), z.string().min(1));

const prometheus = z
  .strictObject({
    url: z
      .string()
      .refine((text) => /^https?:\/\/./.test(text) && URL.canParse(text), {
        message: 'this is not the address of a Prometheus',
        params: { remedy: 'write http://HOST:9090 or https://USER:PASSWORD@HOST' },
      })
      .meta({ description: 'A Prometheus that knows how busy the primary is.', expects: 'http://HOST:9090' }),
    token: z.string().min(1).meta({ description: 'Sent to it as a bearer token.', expects: 'a token, best as ${NAME}' }).optional(),
    load: queries
      .meta({
        description:
          'Queries (PromQL) of one series each, by the name of what they measure: sampled each minute beside what the primary tells itself.',
        expects: 'a name with its query, such as cpu: avg(1 - rate(node_cpu_seconds_total{mode="idle"}[5m]))',
      })
      .prefault({}),
    forecast: queries
      .meta({
        description:
          'Queries of one series each that forecast a load, by the name of the resource as `foreshadow history` shows it: asked for the two days to come, and taken instead of our own forecast where they answer.',
        expects: 'a resource with its query, such as host.cpu: avg(instance:cpu:share offset 1w)',
      })
      .prefault({}),
    activity: queries
      .meta({
        description: 'Queries of one series each that give the changes a second of a table: for `foreshadow history --seed-prometheus`.',
        expects: 'a table with its query, such as orders: sum(rate(pg_stat_user_tables_n_tup_upd{relname="orders"}[5m]))',
      })
      .prefault({}),
  })
  .meta({ expects: 'settings such as url: http://HOST:9090' });

const CEILING_EXPECTS = 'a share such as 70%, or resources such as { host.cpu: 60%, sessions.active: 40 }';

const share = z
  .string()
  .regex(/^(100|[1-9]\d?)%$/)
  .transform((text) => ({ share: Number.parseInt(text, 10) / 100 }));

export type Ceiling = { readonly share: number } | { readonly load: number };

const ceiling = z.union([
  share,
  z.record(
    z.string().min(1),
    z.union([
      share,
      z
        .number()
        .positive()
        .transform((load) => ({ load })),
    ]),
  ),
]);

export const prediction = z
  .strictObject({
    policy: z
      .enum(['predictive', 'quiet-first', 'stream-everything'])
      .meta({
        description:
          'What moves ahead of captures while `start` runs: what the plan says, rows that have been quiet longest first, or every change as it comes. Without it: predictive where captures have a window, or a schedule with ten slots or more between them, else stream-everything.',
        expects: 'predictive, quiet-first or stream-everything',
      })
      .optional(),
    ceiling: ceiling
      .meta({
        description:
          "The load that shadowing must not push the primary above: a share of all processors, of the disk's time and of that in which SQLite's write lock is held, of other resources of their busiest hour (the highest in a hundred left out, which may be mistakes). For some resources only, under their names (`docs/reference/load.md`), a share or a load; the others have 70%. Above it nothing moves but what lag tolerance forces.",
        expects: CEILING_EXPECTS,
      })
      .prefault('70%'),
    capacity: z
      .number()
      .positive()
      .meta({
        description:
          'The most rows a second that move ahead of captures, were the primary idle; under load fewer. Without it, as many as the two stores were seen to move.',
        expects: 'a number of rows such as 2000',
      })
      .optional(),
    reserve: z
      .number()
      .min(1)
      .max(10)
      .meta({
        description:
          'How many times as much work as forecast a plan keeps room for. Less moves fewer rows ahead and leaves more to the capture, more the other way round: `foreshadow simulate` says what would have served best.',
        expects: 'a number from 1 to 10 such as 1.5',
      })
      .prefault(1.5),
    interval: duration
      .refine((ms) => ms >= 100, { message: 'this is too short', params: { remedy: 'write 100ms or more' } })
      .meta({
        description: 'How often what was learned of activity and load is written down, and decided what moves (in whole minutes of `day`).',
        expects: 'a number with ms, s, m, h, d or w, such as 1m',
      })
      .prefault('1m'),
    day: duration
      .refine((ms) => ms >= 1440 && Number.isInteger(ms / 1440), {
        message: 'this cannot be cut into 1440 minutes',
        params: { remedy: 'write a multiple of 1440ms, such as 24h or 24m' },
      })
      .meta({
        description:
          'The length of the cycle that activity and load follow, which is learned in 24 hours of 60 minutes each. Shorter ones are for trials.',
        expects: '24h, or a multiple of 1440ms',
      })
      .prefault('24h'),
    loadForecast: z
      .string()
      .min(1)
      .meta({
        description:
          'A file with a forecast of load that somebody else made, a line `time,resource,value` for each point (as for `foreshadow history --seed`): read again when it changes, and taken instead of our own forecast where it says something.',
        expects: 'a path, such as forecast.csv',
      })
      .optional(),
    prometheus: prometheus.optional(),
  })
  .meta({ expects: 'settings such as interval: 1m' });
