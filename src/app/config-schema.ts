import { Cron } from 'croner';
import { z } from 'zod';
import { duration } from './config-duration.ts';
import { prediction } from './config-prediction.ts';

/**
 * The one description of `foreshadow.yaml`: types, JSON Schema, reference page and error messages all come from here.
 * `expects` completes the sentence "write …" in a remedy.
 */

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
    lagToleranceMax: lagTolerance('As `policy.lagToleranceMax`, for these tables.').optional(),
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
    lagToleranceMax: lagTolerance(
      'How far the lag tolerance may rise while the primary is busier than `prediction.ceiling`. Without it, it does not rise.',
    ).optional(),
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

const TIME_EXPECTS = 'a time of day such as "01:00"';
const timeOfDay = (description: string) =>
  z
    .string()
    .regex(/^([01]\d|2[0-3]):[0-5]\d$/)
    .meta({ description, expects: TIME_EXPECTS });

const window = z.strictObject({
  from: timeOfDay('When the window begins.'),
  to: timeOfDay('When it ends: a capture that was not taken before is taken then.'),
  pick: z.enum(['quietest']).meta({ description: 'Which moment of it is chosen.', expects: 'quietest' }).prefault('quietest'),
});

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
        description: "The time zone of the schedule or window. Without it, the machine's own.",
        expects: 'a time zone such as Europe/Berlin or UTC',
      })
      .optional(),
    window: window
      .meta({
        description:
          'Instead of a schedule: one capture a day, at the moment between `from` and `to` at which the load forecast is lowest; at `to` at the latest. Without a forecast, at `from`. `to` may be on the next day.',
        expects: '{ from: "01:00", to: "05:00", pick: quietest }',
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
  { path: ['captures', 'target'], what: 'capturing before a number of changes' },
  { path: ['captures', 'keep'], what: 'retention: every capture is kept' },
  { path: ['archive'], what: 'the archive' },
  { path: ['server'], what: 'the HTTP API and dashboard' },
];
