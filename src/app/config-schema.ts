import { Cron } from 'croner';
import { z } from 'zod';

/**
 * The one description of `foreshadow.yaml`: types, JSON Schema, reference page and error messages all come from here.
 * `expects` completes the sentence "write …" in a remedy.
 */

const MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const;
type DurationUnit = keyof typeof MS;

const UNIT_WORDS: Readonly<Record<string, DurationUnit>> = {
  millisecond: 'ms',
  milliseconds: 'ms',
  msec: 'ms',
  sec: 's',
  secs: 's',
  second: 's',
  seconds: 's',
  min: 'm',
  mins: 'm',
  minute: 'm',
  minutes: 'm',
  hr: 'h',
  hrs: 'h',
  hour: 'h',
  hours: 'h',
  day: 'd',
  days: 'd',
  week: 'w',
  weeks: 'w',
};

/** Milliseconds of `15m`, `1.5h`, `500ms`; or what should have been written. */
export function parseDuration(text: string): { readonly ms: number } | { readonly problem: string; readonly remedy: string } {
  const parts = /^\s*(\d+(?:\.\d+)?)\s*([\p{L}]*)\s*$/u.exec(text);
  if (parts === null) return { problem: `"${text}" is not a duration`, remedy: 'write a number with ms, s, m, h, d or w, such as 15m' };
  const amount = parts[1] as string;
  const unit = parts[2] as string;
  if (Object.hasOwn(MS, unit)) {
    const ms = Math.round(Number(amount) * MS[unit as DurationUnit]);
    if (text === text.trim() && !/\s/.test(text)) return { ms };
  }
  const meant = Object.hasOwn(MS, unit) ? unit : (UNIT_WORDS[unit.toLowerCase()] ?? null);
  if (meant !== null) return { problem: `"${text}" is not a duration`, remedy: `use ${amount}${meant}` };
  if (unit === '') return { problem: `"${text}" has no unit`, remedy: `write it with ms, s, m, h, d or w, such as ${amount}m` };
  return { problem: `"${text}" has the unknown unit "${unit}"`, remedy: `use ms, s, m, h, d or w, such as ${amount}m` };
}

const duration = z
  .string()
  .transform((text, context) => {
    const parsed = parseDuration(text);
    if ('ms' in parsed) return parsed.ms;
    context.addIssue({ code: 'custom', message: parsed.problem, params: { remedy: parsed.remedy } });
    return z.NEVER;
  })
  .meta({ expects: 'a number with ms, s, m, h, d or w, such as 15m' });

const URL_EXPECTS = 'sqlite:PATH or postgres://USER@HOST:5432/DATABASE';

const storeUrl = z
  .string()
  .superRefine((text, context) => {
    if (/^sqlite:./s.test(text) || /^postgres(ql)?:\/\/./s.test(text)) return;
    // The text may be a secret put in the wrong place: only the scheme, if it has one, is repeated.
    const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(text)?.[1];
    context.addIssue({
      code: 'custom',
      message: scheme === undefined ? 'this is not the URL of a data store' : `"${scheme}:" is not a kind of data store this version knows`,
      params: { remedy: `write ${URL_EXPECTS}` },
    });
  })
  .meta({ expects: URL_EXPECTS });

const cron = z
  .string()
  .superRefine((text, context) => {
    try {
      // A job without a function is never scheduled: this only reads the pattern.
      const job = new Cron(text, { paused: true });
      if (job.nextRun() !== null) return;
      context.addIssue({ code: 'custom', message: `"${text}" never comes`, params: { remedy: 'write a pattern such as "0 * * * *"' } });
    } catch (error) {
      const reason = error instanceof Error ? error.message.replace(/^CronPattern: /, '') : String(error);
      context.addIssue({
        code: 'custom',
        message: `"${text}" is not a cron pattern (${reason})`,
        params: { remedy: 'write minute, hour, day of month, month and day of week, such as "0 * * * *" for every hour' },
      });
    }
  })
  .meta({ expects: 'a cron pattern such as "0 * * * *"' });

const timeZone = z
  .string()
  .superRefine((text, context) => {
    if (isTimeZone(text)) return;
    context.addIssue({
      code: 'custom',
      message: `"${text}" is not a time zone`,
      params: { remedy: 'write one such as Europe/Berlin or UTC' },
    });
  })
  .meta({ expects: 'a time zone such as Europe/Berlin or UTC' });

function isTimeZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch {
    // Intl throws a RangeError for every name it does not know; there is nothing more to learn from it.
    return false;
  }
}

const PATTERN_EXPECTS = 'a list of table names, with * for any run of characters, such as ["public.*"]';
const patterns = z.array(z.string().min(1)).meta({ expects: PATTERN_EXPECTS });
const conflict = z.enum(['primary-wins']).meta({ expects: 'primary-wins' });
const lagTolerance = (description: string) => duration.meta({ description, expects: 'a number with ms, s, m, h, d or w, such as 15m' });

const onSchemaChange = z.enum(['follow', 'halt']).meta({ expects: 'follow or halt' });

const indexes = z.enum(['none', 'mirror']).meta({ expects: 'none or mirror' });

const perTable = z
  .strictObject({
    lagTolerance: lagTolerance('The lag tolerance of these tables.').optional(),
    conflict: conflict.meta({ description: 'As `policy.conflict`, for these tables.', expects: 'primary-wins' }).optional(),
    onSchemaChange: onSchemaChange
      .meta({ description: 'As `policy.onSchemaChange`, for these tables.', expects: 'follow or halt' })
      .optional(),
    indexes: indexes.meta({ description: 'As `policy.indexes`, for these tables.', expects: 'none or mirror' }).optional(),
    insertOnly: z
      .boolean()
      .meta({
        description:
          'Whether inserts (and TRUNCATE) are enough where a table has nothing that identifies its rows: it is then followed so instead of being refused, and updates and deletes of it are not seen. Tables with a key or REPLICA IDENTITY FULL are followed whole either way. PostgreSQL only: every table of SQLite has an identity.',
        expects: 'true or false',
      })
      .optional(),
  })
  .meta({ expects: 'settings such as { lagTolerance: 1m }' });

const policy = z
  .strictObject({
    lagTolerance: lagTolerance('The greatest age a change may reach before it is in the shadow.').prefault('15m'),
    conflict: conflict
      .meta({
        description:
          'What happens when a row of the shadow is not what the primary last wrote there: the primary wins, and the foreign write is reported.',
        expects: 'primary-wins',
      })
      .prefault('primary-wins'),
    onSchemaChange: onSchemaChange
      .meta({
        description:
          "What happens when a table's shape changes so that its rows must be read again (a column's type, the key): it is followed, or that table halts until `foreshadow resume`. Columns added, dropped or renamed are followed either way.",
        expects: 'follow or halt',
      })
      .prefault('follow'),
    indexes: indexes
      .meta({
        description:
          "Whether the primary's secondary indexes are made on the shadow's live tables too (PostgreSQL), never as unique ones: for queries of captures. They cost every apply what they cost the primary.",
        expects: 'none or mirror',
      })
      .prefault('none'),
    exclude: patterns
      .meta({
        description: 'Tables left out of the data set, as patterns.',
        expects: 'a list of table names or patterns, such as ["audit_*"]',
      })
      .prefault([]),
    perTable: z
      .record(z.string().min(1), perTable)
      .meta({
        description: 'Settings for some tables only. The key is a table name or a pattern; the first that matches counts.',
        expects: 'a table name with its settings, such as orders: { lagTolerance: 1m }',
      })
      .prefault({}),
  })
  .meta({ expects: 'settings such as lagTolerance: 15m' });

const captures = z
  .strictObject({
    schedule: cron
      .meta({
        description:
          'When `start` takes captures: a cron pattern of five fields, or of six with seconds first. Without it, only `foreshadow capture` does.',
        expects: 'a cron pattern such as "0 * * * *"',
      })
      .optional(),
    timeZone: timeZone
      .meta({
        description: "The time zone of the schedule. Without it, the machine's own.",
        expects: 'a time zone such as Europe/Berlin or UTC',
      })
      .optional(),
    validate: z
      .enum(['none', 'changed', 'full'])
      .meta({
        description:
          'How a capture is validated against the primary: not at all (its verdict is INCONCLUSIVE), the rows that changed, or every row.',
        expects: 'none, changed or full',
      })
      .prefault('changed'),
    onInvalid: z
      .enum(['rollback', 'repair', 'halt'])
      .meta({
        description:
          'The cure when a capture is INVALID: go back to known-good and replay, repair the rows that differ, or halt their tables.',
        expects: 'rollback, repair or halt',
      })
      .prefault('rollback'),
  })
  .meta({ expects: 'settings such as schedule: "0 * * * *"' });

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
    activity: queries
      .meta({
        description: 'Queries of one series each that give the changes a second of a table: for `foreshadow history --seed-prometheus`.',
        expects: 'a table with its query, such as orders: sum(rate(pg_stat_user_tables_n_tup_upd{relname="orders"}[5m]))',
      })
      .prefault({}),
  })
  .meta({ expects: 'settings such as url: http://HOST:9090' });

const prediction = z
  .strictObject({
    interval: duration
      .refine((ms) => ms >= 100, { message: 'this is too short', params: { remedy: 'write 100ms or more' } })
      .meta({
        description: 'How often what was learned of activity and load is written down.',
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
    prometheus: prometheus.optional(),
  })
  .meta({ expects: 'settings such as interval: 1m' });

export const configSchema = z.strictObject({
  dataSet: z
    .string()
    .regex(/^[a-z][a-z0-9_-]{0,39}$/)
    .meta({
      description: 'The name of the data set. It names what is installed on the primary, so keep it.',
      expects: 'a name of at most 40 lower-case letters, digits, - and _, beginning with a letter',
    }),
  primary: storeUrl.meta({
    description: 'The database that is shadowed. A relative SQLite path is relative to this file.',
    expects: URL_EXPECTS,
  }),
  shadow: storeUrl.meta({
    description: 'The database that holds the copy and all captures: of the same kind as the primary, and empty at first.',
    expects: URL_EXPECTS,
  }),
  tables: patterns.min(1).meta({ description: 'What the data set is: tables, as patterns.', expects: PATTERN_EXPECTS }),
  policy: policy.prefault({}),
  journal: z
    .strictObject({
      path: z
        .string()
        .min(1)
        .meta({
          description: 'The file of the journal. Relative to this file. Best on another host than the primary: see `foreshadow status`.',
          expects: 'a path',
        })
        .prefault('.foreshadow/journal.db'),
    })
    .meta({ expects: 'settings such as path: .foreshadow/journal.db' })
    .prefault({}),
  captures: captures.prefault({}),
  prediction: prediction.prefault({}),
});

export type ConfigDocument = z.output<typeof configSchema>;

/** Settings of the design whose feature does not exist yet. Refused by name, never ignored. */
export interface PlannedSetting {
  /** `*` stands for any one key, or any item of a list. */
  readonly path: readonly string[];
  /** Only these values are planned; without it, the whole key is. */
  readonly values?: RegExp;
  readonly what: string;
}

const LATER_CONFLICTS = /^(shadow-wins|last-write-wins|merge|halt)$/;

export const PLANNED_SETTINGS: readonly PlannedSetting[] = [
  { path: ['primaries'], what: 'several primaries in one data set' },
  { path: ['policy', 'consistency'], what: 'keeping the whole shadow at one position' },
  { path: ['policy', 'conflict'], values: LATER_CONFLICTS, what: 'resolving conflicts otherwise than primary-wins' },
  { path: ['policy', 'perTable', '*', 'conflict'], values: LATER_CONFLICTS, what: 'resolving conflicts otherwise than primary-wins' },
  { path: ['policy', 'exclude', '*'], values: /^type:/, what: 'leaving out columns by type' },
  { path: ['policy', 'columns'], what: 'choosing columns' },
  { path: ['policy', 'masks'], what: 'masking values' },
  { path: ['policy', 'rows'], what: 'choosing rows' },
  { path: ['policy', 'perTable', '*', 'columns'], what: 'choosing columns' },
  { path: ['policy', 'perTable', '*', 'exclude'], what: 'leaving out columns' },
  { path: ['policy', 'perTable', '*', 'masks'], what: 'masking values' },
  { path: ['policy', 'perTable', '*', 'rows'], what: 'choosing rows' },
  { path: ['policy', 'perTable', '*', 'where'], what: 'choosing rows' },
  { path: ['journal', 'keep'], what: 'keeping the journal for restores to any moment' },
  { path: ['journal', 'maxBytes'], what: 'a bound on the journal' },
  { path: ['journal', 'walBudget'], what: 'a bound on what the primary holds back' },
  { path: ['captures', 'window'], what: 'choosing the quietest moment of a window' },
  { path: ['captures', 'target'], what: 'capturing before a number of changes' },
  { path: ['captures', 'keep'], what: 'retention: every capture is kept' },
  { path: ['prediction', 'ceiling'], what: 'slowing down while the primary is busy' },
  { path: ['archive'], what: 'the archive' },
  { path: ['server'], what: 'the HTTP API and dashboard' },
];
