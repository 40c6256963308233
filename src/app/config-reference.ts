import { configKeys } from './config-keys.ts';
import type { ConfigKey } from './config-keys.ts';
import { pathText } from './config-problems.ts';
import { PLANNED_SETTINGS } from './config-schema.ts';

/** `docs/reference/config.md`, made from the schema; a test holds the page against it. */
export function configReferencePage(): string {
  const settings = configKeys().filter((key) => key.description !== null);
  const planned = PLANNED_SETTINGS.map(
    ({ path, values, what }) => `| \`${keyText(path)}\`${values === undefined ? '' : ' (some values)'} | ${what} |`,
  );
  return [
    '# foreshadow.yaml',
    '',
    'Generated from the schema in `src/app/config-schema.ts`. `docs/reference/config.schema.json` is the same for editors.',
    '',
    '`${NAME}` in any value is replaced by that environment variable; a variable that is missing or empty is an error. `$${` stands for',
    'a plain `${`. Relative paths, in `sqlite:` URLs too, are relative to the file. A setting that is unknown is an error.',
    '',
    ...settings.flatMap(section),
    '## Planned, and refused',
    '',
    'These settings belong to the design; what they ask for does not exist yet. A config that has one is refused with `NOT_BUILT`.',
    '',
    '| setting | what it is for |',
    '| --- | --- |',
    ...planned,
    '',
  ].join('\n');
}

function section(key: ConfigKey): string[] {
  const need = key.required ? 'Required.' : key.defaultValue === undefined ? 'Optional.' : `Default: \`${shown(key.defaultValue)}\`.`;
  return [`## ${keyText(key.path)}`, '', `${key.description} ${need}`, '', `Write ${key.expects}.`, ''];
}

function keyText(path: readonly string[]): string {
  return pathText(path.map((part) => (part === '*' ? 'TABLE' : part)));
}

function shown(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
