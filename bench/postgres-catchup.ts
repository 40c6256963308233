import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Bed, type BedParts, DATABASE, digests, type LoadDone, makeBed, runLoad } from './catchup-bed.ts';
import { HELD_OUT } from './catchup-held-out.ts';
import { METHOD, reportCatchup } from './catchup-report.ts';
import { prepareSide, type Side, SIDES, type SideName } from './catchup-sides.ts';
import { TUNED } from './catchup-tuned.ts';
import type { Workload } from './catchup-workload.ts';
import { type Cluster, peakResidentBytes, processCpuMs, SERVER_SETTINGS, startCluster, waitUntil } from './postgres-servers.ts';
import { record, say, shown, temporaryDirectory } from './recording.ts';

/** The same load caught up with by native logical replication, by Foreshadow, and by somebody who only reads. */

export interface Run {
  readonly workload: string;
  readonly side: SideName;
  readonly round: number;
  /** From the order to begin until everything is durable in the shadow; of a live load, from the load's start. */
  readonly wallMs: number;
  /** Of a live load: from its commit. Else null. */
  readonly afterCommitMs: number | null;
  /** From the same beginning until everything is in our journal. */
  readonly journaledMs: number | null;
  readonly cpuMs: { readonly primary: number; readonly shadow: number; readonly process: number };
  readonly shadowWalBytes: number;
  readonly peakResidentBytes: number | null;
  readonly captures: number;
  /** Live rows equal to the primary's; null where the side keeps none. */
  readonly equal: boolean | null;
  /** Capture 1 still reads as before the load; null where that was not asked. */
  readonly keptBefore: boolean | null;
}

export interface WorkloadRuns {
  readonly workload: Pick<Workload, 'name' | 'title' | 'target' | 'live'>;
  readonly load: { readonly changes: number; readonly walBytes: number };
  readonly runs: readonly Run[];
}

/** What native's streaming = parallel may use. */
const NATIVE_SETTINGS = { max_parallel_apply_workers_per_subscription: '4' };

/** Set beside the others, not against them: their one run is enough. */
const TAKEN_ONCE: ReadonlySet<SideName> = new Set(['ours-captures', 'drain']);

interface Settings {
  readonly workloads: readonly Workload[];
  readonly sides: readonly SideName[];
  readonly rounds: number;
  readonly scale: number;
}

async function catchUp(parts: BedParts, workload: Workload, settings: Settings): Promise<WorkloadRuns> {
  const { sides } = settings;
  const order = (round: number): SideName[] =>
    sides.map((_, index) => sides[(index + round) % sides.length] as SideName).filter((side) => round === 0 || !TAKEN_ONCE.has(side));
  const runs: Run[] = [];
  let load: LoadDone | null = null;
  if (workload.live === true) {
    // Read while it is written, so it is written for each run anew.
    for (let round = 0; round < settings.rounds; round++)
      for (const side of order(round)) {
        await using bed = await makeBed(parts, workload, settings.scale);
        const { run, done } = await measure(bed, { side, round, last: round === settings.rounds - 1 }, null);
        load = done;
        runs.push(run);
      }
  } else {
    await using bed = await makeBed(parts, workload, settings.scale);
    load = await runLoad(bed);
    say(
      `${workload.name}: ${load.changes} changes, ${shown(load.walBytes / 1e6)} MB of log, written in ${shown(load.committedMs - load.begunMs)} ms`,
    );
    const expected = await digests(parts.primary, DATABASE, workload.tables);
    for (let round = 0; round < settings.rounds; round++)
      for (const side of order(round))
        runs.push((await measure(bed, { side, round, last: round === settings.rounds - 1 }, { done: load, expected })).run);
  }
  if (load === null) throw new Error('there was no round');
  return { workload, load: { changes: load.changes, walBytes: load.walBytes }, runs };
}

interface Which {
  readonly side: SideName;
  readonly round: number;
  readonly last: boolean;
}

async function measure(
  bed: Bed,
  { side: name, round, last }: Which,
  before: { readonly done: LoadDone; readonly expected: readonly string[] } | null,
): Promise<{ run: Run; done: LoadDone }> {
  const { primary, shadow, workload } = bed;
  await using side = await prepareSide(name, bed);
  await Promise.all([primary.run('CHECKPOINT'), shadow.run('CHECKPOINT')]);
  if (before === null) await startReading(primary, side);
  const spent = await startMeters(bed, side);
  const startedMs = performance.now();
  if (before !== null) await side.start();
  const done = before?.done ?? (await runLoad(bed));
  let journaledAtMs: number | null = null;
  const there = async (): Promise<boolean> => {
    if (journaledAtMs === null && side.journaled !== null && (await side.journaled()) > done.last) journaledAtMs = performance.now();
    return (await side.reached()) > done.last;
  };
  await waitUntil(`${name} of ${workload.name}`, there, 10);
  // A commit that waits for the disk takes everything before it along.
  if (name !== 'drain') await shadow.run(`SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'bench', '')`);
  const endedMs = performance.now();
  const taken = await spent();
  await side.stop();
  const expected = before?.expected ?? (await digests(primary, DATABASE, workload.tables));
  const live = await side.live();
  const kept = last && name !== 'ours-captures' ? await side.before() : null;
  const begunMs = before === null ? done.begunMs : startedMs;
  const run: Run = {
    workload: workload.name,
    side: name,
    round,
    wallMs: endedMs - begunMs,
    journaledMs: side.journaled === null ? null : (journaledAtMs ?? endedMs) - begunMs,
    afterCommitMs: before === null ? endedMs - done.committedMs : null,
    ...taken,
    captures: await side.captures(),
    equal: live === null ? null : live.join() === expected.join(),
    keptBefore: kept === null ? null : kept.join() === bed.base.join(),
  };
  say(described(run));
  return { run, done };
}

/** Begins, and waits until nothing of that is left to do when the load begins. */
async function startReading(primary: Cluster, side: Side): Promise<void> {
  await side.start();
  const active = 'SELECT count(*) FROM pg_replication_slots WHERE active';
  await waitUntil('the slot to be read from', async () => (await primary.run(active)) !== '0');
  await sleep(1500);
}

type Spent = Pick<Run, 'cpuMs' | 'shadowWalBytes' | 'peakResidentBytes'>;

async function startMeters({ primary, shadow }: Bed, { processId }: Side): Promise<() => Promise<Spent>> {
  const cpu = (): Run['cpuMs'] => ({
    primary: primary.cpuMs(),
    shadow: shadow.cpuMs(),
    process: processId === null ? 0 : processCpuMs(processId),
  });
  const wal = async (): Promise<number> => Number(await shadow.run(`SELECT pg_current_wal_insert_lsn() - '0/0'`));
  const walBefore = await wal();
  const before = cpu();
  return async () => {
    const after = cpu();
    const cpuMs = {
      primary: after.primary - before.primary,
      shadow: after.shadow - before.shadow,
      process: after.process - before.process,
    };
    const resident = processId === null ? null : peakResidentBytes(processId);
    return { cpuMs, peakResidentBytes: resident, shadowWalBytes: (await wal()) - walBefore };
  };
}

function described(run: Run): string {
  const { cpuMs, equal, keptBefore } = run;
  const seconds = (ms: number): string => shown(ms / 1000);
  const parts = [`${run.workload} ${run.side} round ${run.round + 1}: ${seconds(run.wallMs)} s`];
  if (run.journaledMs !== null) parts.push(`journaled after ${seconds(run.journaledMs)}`);
  if (run.afterCommitMs !== null) parts.push(`${seconds(run.afterCommitMs)} s after the commit`);
  parts.push(`CPU s: primary ${seconds(cpuMs.primary)}, shadow ${seconds(cpuMs.shadow)}, process ${seconds(cpuMs.process)}`);
  if (run.peakResidentBytes !== null) parts.push(`${shown(run.peakResidentBytes / 1e6)} MB`);
  if (run.captures > 0) parts.push(`${run.captures} captures`);
  if (equal !== null) parts.push(equal ? 'equal' : 'NOT EQUAL');
  if (keptBefore !== null) parts.push(keptBefore ? 'capture 1 kept' : 'CAPTURE 1 LOST');
  return parts.join(', ');
}

const OPTIONS = {
  quick: { type: 'boolean' },
  workloads: { type: 'string' },
  sides: { type: 'string' },
  rounds: { type: 'string' },
  scale: { type: 'string' },
} as const;

/** `tuned`, `held-out`, or names with commas between. */
function selectWorkloads(text: string): readonly Workload[] {
  if (text === 'tuned') return TUNED;
  if (text === 'held-out') return HELD_OUT;
  const all = [...TUNED, ...HELD_OUT];
  return text.split(',').map((name) => {
    const found = all.find((workload) => workload.name === name);
    if (found === undefined)
      throw new Error(`there is no workload ${name}: tuned, held-out, or of ${all.map((each) => each.name).join(', ')}`);
    return found;
  });
}

function selectSides(text: string): readonly SideName[] {
  return text.split(',').map((name) => {
    const found = SIDES.find((side) => side === name);
    if (found === undefined) throw new Error(`there is no side ${name}: ${SIDES.join(', ')}`);
    return found;
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  const quick = values.quick === true;
  const chosen = values.workloads ?? (quick ? 'b,d' : 'tuned');
  const settings: Settings = {
    workloads: selectWorkloads(chosen),
    sides: selectSides(values.sides ?? (quick ? 'native,ours,drain' : SIDES.join(','))),
    rounds: Number(values.rounds ?? (quick ? 1 : 3)),
    scale: Number(values.scale ?? (quick ? 0.02 : 1)),
  };
  const begunMs = performance.now();
  const small = settings.scale < 0.2;
  await using directory = await temporaryDirectory();
  await using primary = await startCluster({ small, settings: NATIVE_SETTINGS });
  await using shadow = await startCluster({ small, settings: NATIVE_SETTINGS });
  const postgres = (await primary.run('SHOW server_version')).split(' ')[0] as string;
  const results: WorkloadRuns[] = [];
  for (const workload of settings.workloads)
    results.push(await catchUp({ primary, shadow, directory: directory.path }, workload, settings));
  // Only the whole is recorded under the name that is quoted.
  const whole = settings.scale === 1 && settings.rounds >= 3 && values.sides === undefined;
  const name =
    whole && chosen === 'tuned' ? 'postgres-catchup' : whole && chosen === 'held-out' ? 'postgres-held-out' : 'postgres-catchup-trial';
  await record({
    name,
    title:
      chosen === 'held-out'
        ? 'Catching up: workloads that were not tuned on'
        : 'Catching up with a load, beside native logical replication',
    method: METHOD,
    settings: {
      workloads: chosen,
      sides: settings.sides.join(' '),
      rounds: settings.rounds,
      scale: settings.scale,
      'shared_buffers etc.': small
        ? 'small'
        : Object.entries({ ...SERVER_SETTINGS, ...NATIVE_SETTINGS })
            .map((pair) => pair.join('='))
            .join(' '),
      seconds: Math.round((performance.now() - begunMs) / 1000),
    },
    versions: { postgres },
    ...reportCatchup(results),
    measurements: results,
  });
}

await main();
