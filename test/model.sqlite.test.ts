import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { parseConfig } from '../src/app/config.ts';
import type { LocalSystem } from '../src/app/local-system.ts';
import { openSystem } from '../src/app/system.ts';
import { type Statement, type TableShape, contents, createTable, run, statement, tableShapes } from './workload.ts';

/**
 * The model: a map from capture number to everything the primary held when it was taken. Whatever happens to the system (restarts,
 * rollbacks, vacuums, foreign writes to the shadow), every capture must go on reading and restoring as the map says.
 */
type Step =
  | { readonly kind: 'write'; readonly statements: readonly Statement[] }
  | { readonly kind: 'capture' }
  | { readonly kind: 'restart' }
  | { readonly kind: 'vacuum' }
  | { readonly kind: 'rollback'; readonly to: number }
  | { readonly kind: 'foreign'; readonly statement: Statement };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ kind: fc.constant('write' as const), statements: fc.array(statement, { minLength: 1, maxLength: 12 }) }),
    },
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('capture' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('vacuum' as const) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('rollback' as const), to: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('foreign' as const), statement }) },
  ),
  { minLength: 4, maxLength: 14 },
);

const quiet = (): void => {};
const { signal } = new AbortController();
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'foreshadow-model-'));
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

class Run {
  readonly path: string;
  readonly shapes: readonly TableShape[];
  readonly primary: DatabaseSync;
  readonly captured = new Map<number, Record<string, string[]>>();
  system: LocalSystem;

  private constructor(path: string, shapes: readonly TableShape[], primary: DatabaseSync, system: LocalSystem) {
    this.path = path;
    this.shapes = shapes;
    this.primary = primary;
    this.system = system;
  }

  static async open(path: string, shapes: readonly TableShape[]): Promise<Run> {
    const primary = new DatabaseSync(join(path, 'primary.db'));
    primary.exec('PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000');
    for (const shape of shapes) for (const sql of createTable(shape)) primary.exec(sql);
    return new Run(path, shapes, primary, await openIn(path));
  }

  async step(step: Step): Promise<void> {
    switch (step.kind) {
      case 'write':
        for (const each of step.statements) run(this.primary, this.shapes, each);
        return;
      case 'capture': {
        const report = await this.system.capture(quiet, signal);
        this.captured.set(report.number, contents(this.primary, this.shapes));
        expect(report).toMatchObject({ verdict: 'VALID', differences: [] });
        return;
      }
      case 'restart':
        await this.system[Symbol.asyncDispose]();
        this.system = await openIn(this.path);
        return;
      case 'vacuum':
        this.primary.exec('VACUUM');
        return;
      case 'rollback': {
        const numbers = Array.from(this.captured.keys());
        const to = numbers[step.to % Math.max(1, numbers.length)];
        if (to === undefined) return;
        const report = await this.system.rollback(to, quiet, signal);
        expect(report).toMatchObject({ to, proved: true, parked: true });
        if (report.before !== null) this.captured.set(report.before, contents(this.primary, this.shapes));
        await this.system.resume(quiet, signal);
        return;
      }
      case 'foreign':
        if (this.captured.size > 0) this.#writeToShadow(step.statement);
        return;
    }
  }

  #writeToShadow(foreign: Statement): void {
    const shadow = new DatabaseSync(join(this.path, 'shadow.db'));
    shadow.exec('PRAGMA busy_timeout = 5000');
    run(shadow, this.shapes, foreign);
    shadow.close();
  }

  async check(): Promise<void> {
    for (const [number, expected] of this.captured) {
      const to = join(this.path, `restored-${number}.db`);
      await this.system.restore({ capture: number, to: `sqlite:${to}`, table: null }, quiet, signal);
      const restored = new DatabaseSync(to);
      expect(contents(restored, this.shapes), `capture ${number}`).toEqual(expected);
      expect(structure(restored)).toEqual(structure(this.primary));
      restored.close();
      await rm(to);
    }
  }

  async close(): Promise<void> {
    await this.system[Symbol.asyncDispose]();
    this.primary.close();
  }
}

function structure(database: DatabaseSync): unknown {
  return database
    .prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_foreshadow%' ESCAPE '\\' AND sql IS NOT NULL ORDER BY name")
    .all();
}

function openIn(path: string): Promise<LocalSystem> {
  const text = `dataSet: model\nprimary: sqlite:primary.db\nshadow: sqlite:shadow.db\ntables: ["*"]\n`;
  return openSystem(parseConfig(text, join(path, 'foreshadow.yaml'), {}), { log: quiet });
}

let example = 0;
/** `MODEL_RUNS=1000 npx vitest run test/model.sqlite.test.ts` for a long run. */
const RUNS = Number(process.env['MODEL_RUNS'] ?? 40);

test('every retained capture restores as the primary was when it was taken', { timeout: 60_000 + RUNS * 5_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(tableShapes, steps, async (shapes, all) => {
      const path = join(directory, String(example++));
      const { mkdir } = await import('node:fs/promises');
      await mkdir(path);
      const running = await Run.open(path, shapes);
      try {
        for (const step of all) await running.step(step);
        await running.step({ kind: 'capture' });
        await running.check();
      } finally {
        await running.close();
        await rm(path, { recursive: true, force: true });
      }
    }),
    { numRuns: RUNS },
  );
});
