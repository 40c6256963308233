import { z } from 'zod';
import { configSchema } from './config-schema.ts';

/** One setting, as the schema describes it. */
export interface ConfigKey {
  /** `*` stands for a name the user chooses. */
  readonly path: readonly string[];
  readonly description: string | null;
  /** Completes the sentence "write …". */
  readonly expects: string | null;
  readonly required: boolean;
  readonly defaultValue: unknown;
  /** Names of the settings below it. */
  readonly children: readonly string[];
}

/** Every setting, in the order of the schema; the first is the document itself. */
export function configKeys(): ConfigKey[] {
  return walk(configSchema, [], true, undefined);
}

/** The setting at a path of a document; undefined where the schema has none. */
export function keyAt(path: readonly PropertyKey[]): ConfigKey | undefined {
  return configKeys().find((key) => matches(key.path, path)) ?? (typeof path.at(-1) === 'number' ? keyAt(path.slice(0, -1)) : undefined);
}

function matches(pattern: readonly string[], path: readonly PropertyKey[]): boolean {
  return pattern.length === path.length && pattern.every((part, index) => part === '*' || part === path[index]);
}

function walk(schema: z.core.$ZodType, path: readonly string[], required: boolean, defaultValue: unknown): ConfigKey[] {
  if (schema instanceof z.ZodOptional) return walk(schema.unwrap(), path, false, defaultValue);
  if (schema instanceof z.ZodPrefault) return walk(schema.unwrap(), path, false, schema.def.defaultValue);
  const meta = z.globalRegistry.get(schema) as { description?: string; expects?: string } | undefined;
  const key = { path, description: meta?.description ?? null, expects: meta?.expects ?? null, required, defaultValue };
  if (schema instanceof z.ZodObject) {
    const shape: Readonly<Record<string, z.core.$ZodType>> = schema.shape;
    const below = Object.entries(shape).flatMap(([name, each]) => walk(each, [...path, name], true, undefined));
    return [{ ...key, children: Object.keys(shape) }, ...below];
  }
  if (schema instanceof z.ZodRecord) return [{ ...key, children: [] }, ...walk(schema.valueType, [...path, '*'], false, undefined)];
  return [{ ...key, children: [] }];
}

/** The JSON Schema of `foreshadow.yaml`, for editors. */
export function configJsonSchema(): Record<string, unknown> {
  const schema = z.toJSONSchema(configSchema, {
    io: 'input',
    override: ({ jsonSchema }) => {
      delete jsonSchema['expects'];
    },
  });
  return { ...schema, title: 'foreshadow.yaml' };
}
