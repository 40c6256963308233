import { readFile } from 'node:fs/promises';
import { basename, dirname, isAbsolute, resolve } from 'node:path';
import { LineCounter, isPair, isScalar, isSeq, parseDocument, visit } from 'yaml';
import type { Document } from 'yaml';
import { ForeshadowError, messageOf } from '../model/errors.ts';
import type { TableName } from '../model/schema.ts';
import { type Selection, selects } from '../model/selection.ts';
import type { Ceiling } from './config-prediction.ts';
import { configSchema } from './config-schema.ts';
import type { ConfigDocument } from './config-schema.ts';
import { pathText, plannedIn, problemsOf } from './config-problems.ts';
import type { ConfigProblem } from './config-problems.ts';

export type OnSchemaChange = 'follow' | 'halt';

type IndexPolicy = 'none' | 'mirror';

export interface TableRule {
  readonly pattern: string;
  readonly lagToleranceMs: number | null;
  readonly lagToleranceMaxMs: number | null;
  readonly onSchemaChange: OnSchemaChange | null;
  readonly indexes: IndexPolicy | null;
  readonly insertOnly: boolean;
}

export interface PrometheusRule {
  /** Both may hold secrets. */
  readonly url: string;
  readonly token: string | null;
  /** Queries by the name of what they measure, and by table. */
  readonly load: ReadonlyMap<string, string>;
  readonly activity: ReadonlyMap<TableName, string>;
  /** Forecasts of load, by resource. */
  readonly forecast: ReadonlyMap<string, string>;
}

/** What `foreshadow.yaml` says, checked, with every path absolute and every duration in milliseconds. */
export interface Config {
  /** The config file, absolute. */
  readonly path: string;
  /** `.foreshadow` beside the config: state, journal, socket. */
  readonly stateDirectory: string;
  readonly dataSet: string;
  /** May hold a password: show it only through `redactUrl`. */
  readonly primary: string;
  readonly shadow: string;
  readonly selection: Selection;
  readonly policy: {
    readonly lagToleranceMs: number;
    /** How far it may rise under load; null: it does not. */
    readonly lagToleranceMaxMs: number | null;
    readonly conflict: 'primary-wins';
    readonly onSchemaChange: OnSchemaChange;
    readonly indexes: IndexPolicy;
    /** In the order of the file; the first pattern that matches a table counts. Null: as in general. */
    readonly perTable: readonly TableRule[];
  };
  readonly journal: { readonly path: string };
  readonly captures: {
    /** Null: only on demand, or in a window. A null time zone is the machine's. */
    readonly schedule: { readonly cron: string; readonly timeZone: string | null } | null;
    /** One capture a day between two times of day (`HH:MM`). */
    readonly window: { readonly from: string; readonly to: string; readonly timeZone: string | null } | null;
    readonly validate: 'none' | 'changed' | 'full';
    readonly onInvalid: 'rollback' | 'repair' | 'halt';
  };
  readonly prediction: {
    readonly intervalMs: number;
    /** 24 hours, in earnest. */
    readonly dayMs: number;
    readonly prometheus: PrometheusRule | null;
    /** A file with a forecast of load. */
    readonly loadForecast: string | null;
    /** Null: as captures are due (`due-times.ts`). */
    readonly policy: PredictionPolicy | null;
    readonly ceiling: CeilingRule;
    /** Rows a second; null: what the stores were seen to move. */
    readonly capacity: number | null;
    readonly reserve: number;
  };
}

/** What moves ahead of captures while `start` runs. */
export type PredictionPolicy = 'predictive' | 'quiet-first' | 'stream-everything';

export interface CeilingRule {
  readonly share: number;
  /** Of resources that have one of their own. */
  readonly of: ReadonlyMap<string, Ceiling>;
}

const CEILING_SHARE = 0.7;

/** The first of the rules by table that matches one. */
export function ruleFor({ perTable }: Pick<Config['policy'], 'perTable'>, table: TableName): TableRule | undefined {
  return perTable.find(({ pattern }) => selects({ include: [pattern], exclude: [] }, table));
}

/**
 * Reads and checks a config. `env` fills `${NAME}`; a URL or password in it is never repeated in an error.
 * Throws CONFIG_INVALID (naming file, line, path, what is wrong and what would be right), or NOT_BUILT for a planned setting.
 */
export async function loadConfig(path: string, env: Readonly<Record<string, string | undefined>>): Promise<Config> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    throw new ForeshadowError('CONFIG_INVALID', missing ? `there is no ${path}` : `${path} cannot be read: ${messageOf(error)}`, {
      remedy: missing
        ? 'write one with: foreshadow init --primary URL --shadow URL, or name another with --config FILE'
        : 'give this user permission to read it, or name another with --config FILE',
      cause: error,
    });
  }
  return parseConfig(text, path, env);
}

/** As `loadConfig`, for a text at hand. */
export function parseConfig(text: string, path: string, env: Readonly<Record<string, string | undefined>>): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const broken = document.errors[0];
  if (broken !== undefined) {
    throw new ForeshadowError(
      'CONFIG_INVALID',
      `${basename(path)} line ${lines.linePos(broken.pos[0]).line} is not YAML: ${broken.message}`,
      {
        remedy: 'correct that line; values with ": ", "#", "*" or "{" need quotes',
        cause: broken,
      },
    );
  }
  const missing = substitute(document, env);
  const raw: unknown = document.toJS({ maxAliasCount: 100 }) ?? {};
  // A variable that is missing says more than what the checks would make of the text left in its place.
  const planned = missing.length > 0 ? [] : plannedIn(raw);
  const parsed = configSchema.safeParse(raw);
  const problems = missing.length > 0 ? missing : parsed.success ? [] : problemsOf(parsed.error, raw);
  const all = [...problems.filter((each) => !planned.some((other) => covers(other, each))), ...planned];
  if (all.length > 0 || !parsed.success) throw refusal(all, path, document, lines);
  return resolved(parsed.data, resolve(path));
}

/** A planned setting is also an unknown one to the schema: it is reported once. */
function covers(planned: ConfigProblem, problem: ConfigProblem): boolean {
  return planned.path.length <= problem.path.length && planned.path.every((part, index) => part === problem.path[index]);
}

/** Puts variables into every text value, after parsing: what one holds can never change the structure. `$${` stands for `${`. */
function substitute(document: Document, env: Readonly<Record<string, string | undefined>>): ConfigProblem[] {
  const missing: ConfigProblem[] = [];
  visit(document, {
    Scalar(key, node, ancestors) {
      if (key === 'key' || typeof node.value !== 'string' || !node.value.includes('$')) return;
      node.value = node.value.replace(/\$\$\{|\$\{([^}]*)\}/g, (whole, name: string | undefined) => {
        if (name === undefined) return '${';
        const value = env[name];
        if (value !== undefined && value !== '') return value;
        const path = pathOf(ancestors, key);
        const state = value === undefined ? 'is not set' : 'is empty';
        missing.push({ path, what: `the environment variable ${name} ${state}`, remedy: `set it: export ${name}=…`, notBuilt: false });
        return whole;
      });
    },
  });
  return missing;
}

function pathOf(ancestors: readonly unknown[], last: unknown): PropertyKey[] {
  return ancestors.flatMap((node, index): PropertyKey[] => {
    if (isPair(node)) return isScalar(node.key) ? [String(node.key.value)] : [];
    if (!isSeq(node)) return [];
    // In a list the way on is the index of the next ancestor, or of the scalar itself.
    const next = ancestors[index + 1];
    return [next === undefined ? Number(last) : node.items.indexOf(next)];
  });
}

function refusal(problems: readonly ConfigProblem[], path: string, document: Document, lines: LineCounter): ForeshadowError {
  const file = basename(path);
  const code = problems.every((each) => each.notBuilt) ? 'NOT_BUILT' : 'CONFIG_INVALID';
  const located = problems.map((each) => {
    const line = lineOf(each.path, document, lines);
    const what = `${each.path.length === 0 ? 'the file' : pathText(each.path)}: ${each.what}`;
    return { where: line === null ? file : `${file} line ${line}`, what, remedy: each.remedy };
  });
  const only = located[0];
  if (located.length === 1 && only !== undefined) return new ForeshadowError(code, `${only.where}: ${only.what}`, { remedy: only.remedy });
  const list = located.map((each) => `\n  ${each.where}: ${each.what}: ${each.remedy}`).join('');
  return new ForeshadowError(code, `${file} has ${located.length} mistakes:${list}`, { remedy: `correct them in ${path}` });
}

function lineOf(path: readonly PropertyKey[], document: Document, lines: LineCounter): number | null {
  for (let length = path.length; length > 0; length--) {
    const node: unknown = document.getIn(path.slice(0, length), true);
    const range = (node as { range?: readonly number[] | null } | undefined)?.range;
    if (range?.[0] !== undefined) return lines.linePos(range[0]).line;
  }
  return null;
}

function resolved(document: ConfigDocument, path: string): Config {
  const directory = dirname(path);
  const primary = absoluteUrl(document.primary, directory);
  const shadow = absoluteUrl(document.shadow, directory);
  if (primary === shadow) {
    throw new ForeshadowError('SHADOW_IS_PRIMARY', `${basename(path)}: primary and shadow are the same database (${redactUrl(primary)})`, {
      remedy: 'give the shadow a database of its own',
    });
  }
  if (schemeOf(primary) !== schemeOf(shadow)) {
    throw new ForeshadowError(
      'NOT_BUILT',
      `${basename(path)}: shadow: a ${schemeOf(shadow)} shadow of a ${schemeOf(primary)} primary is not built yet`,
      {
        remedy: `use a ${schemeOf(primary)} database as the shadow; other pairs are planned`,
      },
    );
  }
  const { policy, captures, prediction } = document;
  if (schemeOf(shadow) === 'sqlite') refuseIndexes(policy, basename(path));
  const perTable = Object.entries(policy.perTable).map(([pattern, each]) => ({
    pattern,
    lagToleranceMs: each.lagTolerance ?? null,
    lagToleranceMaxMs: each.lagToleranceMax ?? null,
    onSchemaChange: each.onSchemaChange ?? null,
    indexes: each.indexes ?? null,
    insertOnly: each.insertOnly ?? false,
  }));
  return {
    path,
    stateDirectory: resolve(directory, '.foreshadow'),
    dataSet: document.dataSet,
    primary,
    shadow,
    selection: selectionOf(document, perTable, path),
    policy: {
      lagToleranceMs: policy.lagTolerance,
      lagToleranceMaxMs: policy.lagToleranceMax ?? null,
      conflict: policy.conflict,
      onSchemaChange: policy.onSchemaChange,
      indexes: policy.indexes,
      perTable,
    },
    journal: { path: resolve(directory, document.journal.path) },
    captures: {
      schedule: captures.schedule === undefined ? null : { cron: captures.schedule, timeZone: captures.timeZone ?? null },
      window: windowRule(captures, basename(path)),
      validate: captures.validate,
      onInvalid: captures.onInvalid,
    },
    prediction: predictionRule(prediction, directory),
  };
}

function refuseIndexes(policy: ConfigDocument['policy'], file: string): void {
  const asking = Object.entries(policy.perTable).find(([, { indexes }]) => indexes === 'mirror');
  if (policy.indexes !== 'mirror' && asking === undefined) return;
  const where = policy.indexes === 'mirror' ? 'policy.indexes' : `policy.perTable.${asking?.[0]}.indexes`;
  throw new ForeshadowError('NOT_BUILT', `${file}: ${where}: mirroring secondary indexes into a sqlite shadow is not built yet`, {
    remedy: 'leave the setting out, or write none; a capture that is restored has its indexes either way',
  });
}

function selectionOf({ tables, policy, primary }: ConfigDocument, perTable: readonly TableRule[], path: string): Selection {
  const selection = { include: tables, exclude: policy.exclude };
  const asking = perTable.find(({ insertOnly }) => insertOnly);
  if (asking === undefined) return selection;
  if (schemeOf(primary) === 'sqlite') {
    const at = pathText(['policy', 'perTable', asking.pattern, 'insertOnly']);
    throw new ForeshadowError('CONFIG_INVALID', `${basename(path)}: ${at}: every table of SQLite has an identity, and is followed whole`, {
      remedy: 'Remove the setting: it is for PostgreSQL.',
    });
  }
  return { ...selection, insertOnly: perTable.map(({ pattern, insertOnly }) => ({ pattern, asked: insertOnly })) };
}

function predictionRule({ policy, ceiling, ...rest }: ConfigDocument['prediction'], directory: string): Config['prediction'] {
  const isShare = typeof ceiling['share'] === 'number';
  return {
    intervalMs: rest.interval,
    dayMs: rest.day,
    prometheus: prometheusRule(rest.prometheus),
    loadForecast: rest.loadForecast === undefined ? null : resolve(directory, rest.loadForecast),
    policy: policy ?? null,
    ceiling: isShare
      ? { share: ceiling['share'] as number, of: new Map() }
      : { share: CEILING_SHARE, of: new Map(Object.entries(ceiling as Record<string, Ceiling>)) },
    capacity: rest.capacity ?? null,
    reserve: rest.reserve,
  };
}

function windowRule({ schedule, window, timeZone }: ConfigDocument['captures'], file: string): Config['captures']['window'] {
  if (window === undefined) return null;
  const wrong = schedule !== undefined ? 'there is a schedule too' : window.from === window.to ? 'it ends when it begins' : null;
  if (wrong === null) return { from: window.from, to: window.to, timeZone: timeZone ?? null };
  throw new ForeshadowError('CONFIG_INVALID', `${file}: captures.window: ${wrong}`, {
    remedy: schedule !== undefined ? 'Keep one of captures.schedule and captures.window.' : 'Write another time, such as to: "05:00".',
  });
}

function prometheusRule(document: ConfigDocument['prediction']['prometheus']): PrometheusRule | null {
  if (document === undefined) return null;
  const { url, token, load, activity, forecast } = document;
  return {
    url,
    token: token ?? null,
    load: new Map(Object.entries(load)),
    activity: new Map(Object.entries(activity) as [TableName, string][]),
    forecast: new Map(Object.entries(forecast)),
  };
}

function schemeOf(url: string): 'sqlite' | 'postgres' {
  return url.startsWith('sqlite:') ? 'sqlite' : 'postgres';
}

/** A relative SQLite path becomes absolute; other URLs are left as they are. */
export function absoluteUrl(url: string, directory: string): string {
  if (!url.startsWith('sqlite:')) return url;
  const path = url.slice('sqlite:'.length);
  return isAbsolute(path) ? url : `sqlite:${resolve(directory, path)}`;
}

/** The URL as it may be shown: passwords, in the user part or in a parameter, become ***. */
export function redactUrl(url: string): string {
  if (url.startsWith('sqlite:')) return url;
  const withoutUserPassword = url.replace(/^([a-z][a-z0-9+.-]*:\/\/[^/?#@:]*):.*@(?=[^@]*$)/is, '$1:***@');
  return withoutUserPassword.replace(/([?&][^=&]*(?:password|secret|token|passfile|sslkey)[^=&]*=)[^&#]*/gi, '$1***');
}
