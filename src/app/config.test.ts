import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ForeshadowError } from '../model/errors.ts';
import { parseDuration } from './config-duration.ts';
import { loadConfig, parseConfig, redactUrl } from './config.ts';

const MINIMAL = `dataSet: shop
primary: sqlite:shop.db
shadow: sqlite:shadow.db
tables: ["*"]
`;

function failure(text: string, env: Record<string, string> = {}): ForeshadowError {
  try {
    parseConfig(text, '/data/foreshadow.yaml', env);
  } catch (error) {
    if (error instanceof ForeshadowError) return error;
    throw error;
  }
  throw new Error('the config was accepted');
}

describe('a config that is right', () => {
  test('has its defaults, and its paths beside the file', () => {
    expect(parseConfig(MINIMAL, '/data/foreshadow.yaml', {})).toEqual({
      path: '/data/foreshadow.yaml',
      stateDirectory: '/data/.foreshadow',
      dataSet: 'shop',
      primary: 'sqlite:/data/shop.db',
      shadow: 'sqlite:/data/shadow.db',
      selection: { include: ['*'], exclude: [] },
      policy: {
        lagToleranceMs: 900_000,
        lagToleranceMaxMs: null,
        conflict: 'primary-wins',
        onSchemaChange: 'follow',
        indexes: 'none',
        perTable: [],
      },
      journal: { path: '/data/.foreshadow/journal.db' },
      captures: { schedule: null, window: null, validate: 'changed', onInvalid: 'rollback' },
      prediction: {
        intervalMs: 60_000,
        dayMs: 86_400_000,
        prometheus: null,
        loadForecast: null,
        policy: null,
        ceiling: { share: 0.7, of: new Map() },
        capacity: null,
        reserve: 1.5,
      },
    });
  });

  test('may say how busy the primary may be made, of each resource', () => {
    const ceilingOf = (text: string) => parseConfig(`${MINIMAL}prediction: { ceiling: ${text} }\n`, '/data/x.yaml', {}).prediction.ceiling;
    expect(ceilingOf('50%')).toEqual({ share: 0.5, of: new Map() });
    const of = new Map<string, object>([
      ['host.cpu', { share: 0.6 }],
      ['sessions.active', { load: 40 }],
    ]);
    expect(ceilingOf('{ host.cpu: 60%, sessions.active: 40 }')).toEqual({ share: 0.7, of });
  });

  test('may set everything that is built', () => {
    const config = parseConfig(
      `dataSet: shop
primary: \${PRIMARY_URL}
shadow: postgres://me@127.0.0.1/shadow
tables: ["public.*"]
policy:
  lagTolerance: 1.5h
  conflict: primary-wins
  onSchemaChange: halt
  exclude: ["public.audit_*"]
  perTable:
    public.orders: { lagTolerance: 500ms, lagToleranceMax: 1s, onSchemaChange: follow, indexes: mirror }
journal: { path: /var/lib/foreshadow/journal.db }
captures:
  schedule: "*/5 * * * * *"
  timeZone: Europe/Berlin
  validate: full
  onInvalid: repair
`,
      '/data/foreshadow.yaml',
      { PRIMARY_URL: 'postgres://me:pa: #{ss@db/shop' },
    );
    expect(config.primary).toBe('postgres://me:pa: #{ss@db/shop');
    expect(config.policy.lagToleranceMs).toBe(5_400_000);
    expect(config.policy.perTable).toEqual([
      {
        pattern: 'public.orders',
        lagToleranceMs: 500,
        lagToleranceMaxMs: 1000,
        onSchemaChange: 'follow',
        indexes: 'mirror',
        insertOnly: false,
      },
    ]);
    expect(config.journal.path).toBe('/var/lib/foreshadow/journal.db');
    expect(config.captures).toEqual({
      schedule: { cron: '*/5 * * * * *', timeZone: 'Europe/Berlin' },
      window: null,
      validate: 'full',
      onInvalid: 'repair',
    });
  });

  test('keeps a dollar that begins no variable', () => {
    expect(
      parseConfig(
        MINIMAL.replace('shop.db', () => 'pa$$word$${X}.db'),
        '/d/f.yaml',
        {},
      ).primary,
    ).toBe('sqlite:/d/pa$$word${X}.db');
  });
});

describe('a config that is wrong says where, what, and what would be right', () => {
  const cases: [name: string, text: string, code: string, message: RegExp, remedy: RegExp][] = [
    ['an unknown key', `${MINIMAL}polcy: {}\n`, 'CONFIG_INVALID', /line 5: polcy: there is no such setting/, /did you mean policy\?/],
    [
      'an unknown key inside',
      `${MINIMAL}captures: { schedul: "0 * * * *" }\n`,
      'CONFIG_INVALID',
      /line 5: captures\.schedul: there is no/,
      /did you mean captures\.schedule\?/,
    ],
    ['a far-off key', `${MINIMAL}xyzzyplugh: 1\n`, 'CONFIG_INVALID', /xyzzyplugh/, /known here: dataSet, primary/],
    [
      'a worded unit',
      `${MINIMAL}policy:\n  lagTolerance: 15 minutes\n`,
      'CONFIG_INVALID',
      /line 6: policy\.lagTolerance: "15 minutes"/,
      /use 15m$/,
    ],
    [
      'no unit',
      `${MINIMAL}policy: { lagTolerance: 15 }\n`,
      'CONFIG_INVALID',
      /policy\.lagTolerance: 15 is not right/,
      /add a unit: 15s or 15m/,
    ],
    [
      'a strange unit',
      `${MINIMAL}policy: { lagTolerance: 3fortnights }\n`,
      'CONFIG_INVALID',
      /unknown unit "fortnights"/,
      /use ms, s, m, h, d or w/,
    ],
    [
      'inserts only of a SQLite table',
      `${MINIMAL}policy:\n  perTable:\n    orders: { insertOnly: true }\n`,
      'CONFIG_INVALID',
      /policy\.perTable\.orders\.insertOnly: every table of SQLite has an identity/,
      /Remove the setting/,
    ],
    [
      'a wrong unit for one table',
      `${MINIMAL}policy:\n  perTable:\n    orders: { lagTolerance: 1 min }\n`,
      'CONFIG_INVALID',
      /line 7: policy\.perTable\.orders\.lagTolerance/,
      /use 1m/,
    ],
    [
      'a missing key',
      'dataSet: shop\nprimary: sqlite:a\ntables: ["*"]\n',
      'CONFIG_INVALID',
      /shadow: this is missing/,
      /add shadow: sqlite:PATH/,
    ],
    ['an empty value', MINIMAL.replace('sqlite:shadow.db', ''), 'CONFIG_INVALID', /line 3: shadow: an empty value/, /write sqlite:PATH/],
    [
      'a missing variable',
      MINIMAL.replace('sqlite:shop.db', '${NOPE_URL}'),
      'CONFIG_INVALID',
      /line 2: primary: .*NOPE_URL is not set/,
      /export NOPE_URL=/,
    ],
    [
      'a missing variable in a list',
      `${MINIMAL}policy: { exclude: ["a", "\${NOPE}_*"] }\n`,
      'CONFIG_INVALID',
      /policy\.exclude\[1\]: the environment variable NOPE/,
      /export NOPE/,
    ],
    [
      'another kind of store',
      MINIMAL.replace('sqlite:shop.db', 'mysql://root:secret@db/shop'),
      'CONFIG_INVALID',
      /primary: "mysql:"/,
      /postgres:\/\//,
    ],
    ['no kind of store', MINIMAL.replace('sqlite:shop.db', 'shop.db'), 'CONFIG_INVALID', /primary: this is not the URL/, /sqlite:PATH/],
    ['no tables', MINIMAL.replace('["*"]', '[]'), 'CONFIG_INVALID', /tables: this is empty/, /list of table names/],
    [
      'one table without brackets',
      MINIMAL.replace('["*"]', 'orders'),
      'CONFIG_INVALID',
      /tables: "orders" is not right/,
      /list of table names/,
    ],
    ['a bad name', MINIMAL.replace('shop\n', 'My Shop\n'), 'CONFIG_INVALID', /dataSet: "My Shop"/, /lower-case/],
    [
      'a mistyped choice',
      `${MINIMAL}captures: { validate: chnged }\n`,
      'CONFIG_INVALID',
      /"chnged" is not one of/,
      /did you mean changed\?/,
    ],
    [
      'a bad pattern of time',
      `${MINIMAL}captures: { schedule: "every hour" }\n`,
      'CONFIG_INVALID',
      /captures\.schedule: "every hour"/,
      /"0 \* \* \* \*"/,
    ],
    ['a time that never comes', `${MINIMAL}captures: { schedule: "0 0 30 2 *" }\n`, 'CONFIG_INVALID', /never comes/, /0 \* \* \* \*/],
    [
      'a bad time zone',
      `${MINIMAL}captures: { timeZone: Mars/Olympus }\n`,
      'CONFIG_INVALID',
      /"Mars\/Olympus" is not a time zone/,
      /Europe\/Berlin/,
    ],
    ['not YAML', 'dataSet: [shop\n', 'CONFIG_INVALID', /is not YAML/, /correct that line/],
    ['the primary as shadow', MINIMAL.replace('shadow.db', './shop.db'), 'SHADOW_IS_PRIMARY', /sqlite:\/data\/shop\.db/, /of its own/],
    ['two engines', MINIMAL.replace('sqlite:shadow.db', 'postgres://h/d'), 'NOT_BUILT', /postgres shadow of a sqlite primary/, /planned/],
    ['indexes in SQLite', `${MINIMAL}policy: { indexes: mirror }\n`, 'NOT_BUILT', /policy\.indexes: .*sqlite shadow/, /leave/],
    [
      "one table's indexes in SQLite",
      `${MINIMAL}policy: { perTable: { orders: { indexes: mirror } } }\n`,
      'NOT_BUILT',
      /policy\.perTable\.orders\.indexes: /,
      /leave/,
    ],
    ['a planned choice', `${MINIMAL}policy: { conflict: merge }\n`, 'NOT_BUILT', /policy\.conflict: "merge"/, /remove .*planned/],
    ['a planned filter', `${MINIMAL}policy: { exclude: ["type:bytea"] }\n`, 'NOT_BUILT', /policy\.exclude\[0\]: "type:bytea"/, /planned/],
    ['a planned mask', `${MINIMAL}policy: { masks: {} }\n`, 'NOT_BUILT', /policy\.masks: masking/, /planned/],
    ['retention', `${MINIMAL}captures: { keep: { last: 3 } }\n`, 'NOT_BUILT', /captures\.keep/, /planned/],
    [
      'half a window',
      `${MINIMAL}captures: { window: { from: "01:00" } }\n`,
      'CONFIG_INVALID',
      /captures\.window\.to: .*missing/,
      /"01:00"/,
    ],
    ['no time of day', `${MINIMAL}captures: { window: { from: "1:00", to: "05:00" } }\n`, 'CONFIG_INVALID', /window\.from/, /"01:00"/],
    ['no window', `${MINIMAL}captures: { window: { from: "01:00", to: "01:00" } }\n`, 'CONFIG_INVALID', /ends when it begins/, /"05:00"/],
    [
      'a window and a schedule',
      `${MINIMAL}captures: { schedule: "0 * * * *", window: { from: "01:00", to: "05:00" } }\n`,
      'CONFIG_INVALID',
      /captures\.window: there is a schedule too/,
      /Keep one/,
    ],
    ['a bound of the journal', `${MINIMAL}journal: { maxBytes: 50GB }\n`, 'NOT_BUILT', /journal\.maxBytes/, /planned/],
    ['a ceiling of more than all', `${MINIMAL}prediction: { ceiling: 170% }\n`, 'CONFIG_INVALID', /prediction\.ceiling: "170%"/, /70%/],
    ['a ceiling of nothing', `${MINIMAL}prediction: { ceiling: { cpu: 0 } }\n`, 'CONFIG_INVALID', /prediction\.ceiling/, /70%/],
    ['no policy', `${MINIMAL}prediction: { policy: predictiv }\n`, 'CONFIG_INVALID', /"predictiv"/, /did you mean predictive/],
    ['a day without minutes', `${MINIMAL}prediction: { day: 1s }\n`, 'CONFIG_INVALID', /line 5: prediction.day: /, /1440ms/],
    ['the archive', `${MINIMAL}archive: { url: "file:./a" }\n`, 'NOT_BUILT', /archive/, /planned/],
    ['the server', `${MINIMAL}server: { listen: "127.0.0.1:7440" }\n`, 'NOT_BUILT', /server/, /planned/],
  ];
  test.each(cases)('%s', (_, text, code, message, remedy) => {
    const error = failure(text);
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
    expect(error.remedy).toMatch(remedy);
    expect(`${error.message}${error.remedy}`).not.toContain('secret');
  });

  test('several mistakes are told at once, each with its line', () => {
    const error = failure(`${MINIMAL}policy: { lagTolerance: 15 minutes }\narchiv: x\narchive: {}\n`);
    expect(error.code).toBe('CONFIG_INVALID');
    expect(error.message).toMatch(/3 mistakes:\n.*line 5.*use 15m\n.*line 6: archiv.*\n.*line 7: archive/s);
  });

  test('a missing file is named, with the command that writes one', async () => {
    await expect(loadConfig('/nowhere/foreshadow.yaml', {})).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('/nowhere/foreshadow.yaml') as string,
      remedy: expect.stringContaining('foreshadow init') as string,
    });
  });
});

test('durations are read exactly, whatever the unit', () => {
  const units = { ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 };
  fc.assert(
    fc.property(fc.nat(1e6), fc.constantFrom(...Object.entries(units)), (amount, [unit, ms]) => {
      expect(parseDuration(`${amount}${unit}`)).toEqual({ ms: amount * ms });
    }),
  );
});

describe('redactUrl', () => {
  test.each([
    ['sqlite:/data/a:b@c.db', 'sqlite:/data/a:b@c.db'],
    ['postgres://me@h:5432/d', 'postgres://me@h:5432/d'],
    ['postgres://h:5432/d', 'postgres://h:5432/d'],
    ['postgres://me:hunter2@h/d?sslmode=require', 'postgres://me:***@h/d?sslmode=require'],
    ['postgres://h/d?user=me&password=hunter2&sslmode=require', 'postgres://h/d?user=me&password=***&sslmode=require'],
    ['postgresql://:hunter2@h/d', 'postgresql://:***@h/d'],
  ])('%s', (url, shown) => {
    expect(redactUrl(url)).toBe(shown);
  });

  test('no password survives, whatever is in it', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 6, unit: fc.constantFrom(...'abcXYZ019@:/?#&=%$+! '.split('')) }), (password) => {
        fc.pre(!/^[@:/?#&=%$+! ]*$/.test(password));
        const shown = redactUrl(`postgres://me:${password}@db.example/shop`);
        expect(shown).toBe('postgres://me:***@db.example/shop');
      }),
    );
  });
});
