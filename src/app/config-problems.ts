import type { z } from 'zod';
import { PLANNED_SETTINGS } from './config-schema.ts';
import type { PlannedSetting } from './config-schema.ts';
import { keyAt } from './config-keys.ts';

/** One thing wrong with a config: where, what, and what would be right. */
export interface ConfigProblem {
  readonly path: readonly PropertyKey[];
  readonly what: string;
  readonly remedy: string;
  /** The setting is part of the design, and its feature does not exist yet. */
  readonly notBuilt: boolean;
}

export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`;
    return text === '' ? String(part) : `${text}.${String(part)}`;
  }, '');
}

/** Settings present in the document whose feature does not exist yet. */
export function plannedIn(document: unknown): ConfigProblem[] {
  return PLANNED_SETTINGS.flatMap((setting) => found(setting, document, 0, []));
}

function found(setting: PlannedSetting, value: unknown, depth: number, path: readonly PropertyKey[]): ConfigProblem[] {
  const part = setting.path[depth];
  if (part === undefined) {
    if (setting.values !== undefined && !(typeof value === 'string' && setting.values.test(value))) return [];
    const shown = setting.values === undefined ? '' : `"${String(value)}": `;
    const remedy = `remove ${pathText(path)}${setting.values === undefined ? '' : ` "${String(value)}"`}; it is planned`;
    return [{ path, what: `${shown}${setting.what} is not built yet`, remedy, notBuilt: true }];
  }
  if (part === '*') {
    if (Array.isArray(value)) return value.flatMap((each, index) => found(setting, each, depth + 1, [...path, index]));
    if (!isObject(value)) return [];
    return Object.entries(value).flatMap(([key, each]) => found(setting, each, depth + 1, [...path, key]));
  }
  if (!isObject(value) || !Object.hasOwn(value, part)) return [];
  return found(setting, value[part], depth + 1, [...path, part]);
}

/** What zod found, in words. `document` is what was parsed. */
export function problemsOf(error: z.ZodError, document: unknown): ConfigProblem[] {
  return error.issues.flatMap((issue) => problems(issue, document));
}

function problems(issue: z.core.$ZodIssue, document: unknown): ConfigProblem[] {
  const { path } = issue;
  const key = keyAt(path);
  const remedy = `write ${key?.expects ?? 'a valid value'}`;
  const problem = (what: string, better: string = remedy): ConfigProblem[] => [{ path, what, remedy: better, notBuilt: false }];
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((name) => unknownKey([...path, name], name, path));
    case 'custom':
      return problem(issue.message, remedyIn(issue.params) ?? remedy);
    case 'invalid_type': {
      const value = valueAt(document, path);
      if (value === undefined) return problem('this is missing', `add ${pathText(path)}: ${key?.expects ?? 'a value'}`);
      return problem(`${described(value)} is not right here`, numberAsDuration(value, key?.expects) ?? remedy);
    }
    case 'invalid_value': {
      const value = valueAt(document, path);
      const near = typeof value === 'string' ? nearest(value, issue.values.map(String)) : null;
      return problem(`${described(value)} is not one of ${issue.values.join(', ')}`, near === null ? remedy : `did you mean ${near}?`);
    }
    case 'too_small':
      return problem('this is empty');
    default:
      return problem(`${described(valueAt(document, path))} is not right here`);
  }
}

function remedyIn(params: unknown): string | null {
  return isObject(params) && typeof params['remedy'] === 'string' ? params['remedy'] : null;
}

/** YAML reads `lagTolerance: 15` as a number: what is missing is the unit. */
function numberAsDuration(value: unknown, expects: string | null | undefined): string | null {
  return typeof value === 'number' && expects?.includes('ms, s, m') === true ? `add a unit: ${value}s or ${value}m, for example` : null;
}

function unknownKey(path: readonly PropertyKey[], name: string, parent: readonly PropertyKey[]): ConfigProblem {
  const known = keyAt(parent)?.children ?? [];
  const near = nearest(name, known);
  const remedy = near !== null ? `did you mean ${pathText([...parent, near])}?` : `remove it; known here: ${known.join(', ')}`;
  return { path, what: 'there is no such setting', remedy, notBuilt: false };
}

/** Scalars are shown as written; whole structures only by kind. URLs never come here (their own check hides them). */
function described(value: unknown): string {
  if (value === null) return 'an empty value';
  if (Array.isArray(value)) return 'a list';
  if (isObject(value)) return 'a group of settings';
  return JSON.stringify(value) ?? typeof value;
}

function valueAt(document: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (value, part) => (value !== null && typeof value === 'object' ? (value as Record<PropertyKey, unknown>)[part] : undefined),
    document,
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** The candidate a mistyped word most likely stands for; null when none is near. */
function nearest(word: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substituted, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
