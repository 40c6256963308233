import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DatabaseSync, backup } from 'node:sqlite';
import { parseArgs } from 'node:util';
import type { LocalSystem } from '../src/app/local-system.ts';
import { startMeter } from './measuring.ts';
import { record, say, shown, temporaryDirectory } from './recording.ts';
import { SqliteApplication } from './sqlite-data.ts';
import {
  type Peer,
  type ProcessStart,
  type Round,
  type Shadowed,
  type SizeResult,
  checksOf,
  partsTable,
  sizeTable,
  startTable,
} from './sqlite-report.ts';
import { FOREVER, type SystemPlaces, caughtUp, configText, measureCapture, openBenchSystem } from './systems.ts';

/** A capture of a SQLite database beside what a user would do instead, in one interleaved run. `npm run bench:sqlite -- --help` */

const CHANGED_SHARE = 0.01;
/** Pages a step of the backup API copies; all of them is its quickest setting. */
const BACKUP_ALL_PAGES = 2 ** 31 - 1;

/** The data set of one size, with the system that shadows it: closed and opened again where a round asks for that. */
class Bed {
  readonly directory: string;
  readonly application: SqliteApplication;
  readonly places: SystemPlaces;
  #system: LocalSystem | null = null;

  constructor(directory: string, bytes: number) {
    this.directory = directory;
    this.application = SqliteApplication.create(join(directory, 'primary.db'), bytes);
    const tables = ['account', 'purchase'];
    this.places = { directory, primary: 'sqlite:primary.db', shadow: 'sqlite:shadow.db', tables };
  }

  async system(): Promise<LocalSystem> {
    this.#system ??= await openBenchSystem(this.places);
    return this.#system;
  }

  async close(): Promise<void> {
    await this.#system?.[Symbol.asyncDispose]();
    this.#system = null;
  }

  async backup(): Promise<Peer> {
    return this.#peer(async (primary, copy) => {
      await backup(primary, copy, { rate: BACKUP_ALL_PAGES });
    });
  }

  /** VACUUM INTO does not flush what it wrote, so that is done after it: a capture that is not on disk is none. */
  async vacuum(): Promise<Peer> {
    return this.#peer((primary, copy) => {
      primary.prepare('VACUUM INTO ?').run(copy);
      const file = openSync(copy, 'r+');
      fsyncSync(file);
      closeSync(file);
    });
  }

  async movedAhead(): Promise<Shadowed> {
    const system = await this.system();
    const changedRows = this.application.change(CHANGED_SHARE);
    const meter = startMeter();
    await caughtUp(system);
    const { cpuMs, writtenBytes } = meter();
    const ahead = { cpuMs, writtenBytes };
    return { ...(await measureCapture(system)), changedRows, ahead };
  }

  /** The changes are written without giving the system's event loop a turn: not one of them is tracked before the capture is due. */
  async heldBack(): Promise<Shadowed> {
    const system = await this.system();
    await caughtUp(system);
    const changedRows = this.application.change(CHANGED_SHARE);
    return { ...(await measureCapture(system)), changedRows, ahead: null };
  }

  /** As heldBack, and nothing runs when the capture is due: opening both ends is part of it. */
  async stopped(): Promise<Shadowed> {
    await this.close();
    const changedRows = this.application.change(CHANGED_SHARE);
    const meter = startMeter();
    return { ...(await measureCapture(await this.system(), meter)), changedRows, ahead: null };
  }

  async #peer(copying: (primary: DatabaseSync, copy: string) => void | Promise<void>): Promise<Peer> {
    const copy = join(this.directory, 'copy.db');
    const primary = new DatabaseSync(join(this.directory, 'primary.db'), { readOnly: true });
    try {
      const meter = startMeter();
      await copying(primary, copy);
      return { cost: meter(), copyBytes: statSync(copy).size };
    } finally {
      primary.close();
      rmSync(copy, { force: true });
    }
  }
}

async function measureSize(gigabytes: number, rounds: number): Promise<SizeResult> {
  await using directory = await temporaryDirectory();
  say(`${gigabytes} GB: making the primary`);
  const bed = new Bed(directory.path, gigabytes * 1e9);
  using application = bed.application;
  const { bytes: primaryBytes, rows } = application;
  try {
    say(`${gigabytes} GB: ${rows} rows; initial copy and first capture`);
    const firstCapture = await measureCapture(await bed.system());
    say(`first capture ${shown(firstCapture.untilCut.wallMs)} ms, ${firstCapture.report.verdict}`);
    const results: Round[] = [];
    for (let round = 0; round < rounds; round++) results.push(await measureRound(bed, round));
    const full = await (await bed.system()).validate(null, () => {}, FOREVER);
    const fullValidation = { verdict: full.verdict, rows: full.coverage.rows, elapsedMs: full.elapsedMs };
    await bed.close();
    const shadowBytes = statSync(join(directory.path, 'shadow.db')).size;
    return { gigabytes, primaryBytes, rows, firstCapture, rounds: results, fullValidation, shadowBytes };
  } finally {
    await bed.close();
  }
}

/** Every method once, the control twice; each round begins with another, so that none always follows the same one. */
async function measureRound(bed: Bed, round: number): Promise<Round> {
  const found: Partial<Record<keyof Round, Peer | Shadowed>> = {};
  const methods: readonly (readonly [keyof Round, () => Promise<Peer | Shadowed>])[] = [
    ['backup', () => bed.backup()],
    ['movedAhead', () => bed.movedAhead()],
    ['vacuum', () => bed.vacuum()],
    ['heldBack', () => bed.heldBack()],
    ['backupAgain', () => bed.backup()],
    ['stopped', () => bed.stopped()],
  ];
  for (let index = 0; index < methods.length; index++) {
    const [name, measure] = methods[(index + round) % methods.length] as (typeof methods)[number];
    const one = await measure();
    found[name] = one;
    const cost = 'cost' in one ? one.cost : one.untilCut;
    const verdict = 'report' in one ? `, residual ${one.report.residualRows}, ${one.report.verdict}` : '';
    say(`round ${round + 1} ${name}: ${shown(cost.wallMs)} ms, cpu ${shown(cost.cpuMs)} ms${verdict}`);
  }
  return found as Round;
}

/** How long a process takes before it does anything: bare Node, the CLI's --version, and `captures` over a small shadow. */
async function measureProcessStart(): Promise<ProcessStart> {
  await using directory = await temporaryDirectory();
  const bed = new Bed(directory.path, 1e6);
  using application = bed.application;
  await measureCapture(await bed.system());
  await bed.close();
  const config = join(directory.path, 'foreshadow.yaml');
  writeFileSync(config, configText(bed.places));
  say(`process start, over ${application.rows} rows`);
  const bin = resolve(import.meta.dirname, '../bin/foreshadow.js');
  const five = (...args: string[]): number[] =>
    Array.from({ length: 5 }, () => {
      const begunMs = performance.now();
      execFileSync(process.execPath, args, { stdio: 'ignore' });
      return performance.now() - begunMs;
    });
  return { node: five('-e', '0'), version: five(bin, '--version'), captures: five(bin, 'captures', '--json', '--config', config) };
}

const METHOD = [
  'A SQLite primary in WAL mode with two tables (rows of about 115 and 250 bytes, one index); 1 % of its rows, uniformly random, are changed',
  'before each capture (90 % updates, 5 % inserts, 5 % deletes, transactions of 100 rows) and checkpointed.',
  'All methods run in one process in every round, each round beginning with another one; the files are in the page cache.',
  'Foreshadow is measured from the call of `capture` to its cut being durable (flushed), the peers until their copy is flushed;',
  '`.backup` runs twice a round as the A/A control: an aim is reached when the median of the rounds’ ratios less half the band reaches it.',
  'Moved ahead: the shadow had caught up when the capture was due. Nothing moved ahead, running: the changes were written while the tracker',
  'could not run, so the capture tracks, journals, folds and applies them all. Stopped: nothing ran; the capture also opens and claims both ends.',
  'Validation (changed rows, and up to 2 s of unchanged ones) comes after the cut. CPU is of the whole process; MB written are those',
  'handed to write calls, logs included. Policy: lag tolerance 15 min, changes gather 200 ms, keys logged by triggers on the primary.',
];

async function main(): Promise<void> {
  const options = {
    sizes: { type: 'string', default: '0.1,1' },
    rounds: { type: 'string', default: '3' },
    quick: { type: 'boolean' },
    help: { type: 'boolean' },
  } as const;
  const { values } = parseArgs({ options });
  if (values.help) {
    process.stdout.write(
      'bench:sqlite [--sizes 0.1,1] [--rounds 3] [--quick]   (quick: 0.02 GB, 2 rounds, recorded as sqlite-capture-quick)\n',
    );
    return;
  }
  const quick = values.quick === true;
  const sizes = (quick ? '0.02' : values.sizes).split(',').map(Number);
  const rounds = quick ? 2 : Number(values.rounds);
  if (sizes.some((size) => !(size > 0 && size <= 20)) || !(rounds >= 1))
    throw new Error('sizes are gigabytes up to 20; rounds are at least 1');
  const start = await measureProcessStart();
  const results: SizeResult[] = [];
  for (const size of sizes) results.push(await measureSize(size, rounds));
  await record({
    name: quick ? 'sqlite-capture-quick' : 'sqlite-capture',
    title: 'A capture of a SQLite database, beside `.backup` and `VACUUM INTO`',
    method: METHOD,
    settings: { sizes: sizes.join(' and '), rounds, quick },
    tables: [...results.map(sizeTable), partsTable(results), startTable(start)],
    checks: results.flatMap(checksOf),
    measurements: { results, start },
  });
}

await main();
