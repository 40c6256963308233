import { median, noiseBand, reached } from './measuring.ts';
import type { Run, WorkloadRuns } from './postgres-catchup.ts';
import { type Check, check, megabytes, type ResultTable, shown } from './recording.ts';
import type { SideName } from './catchup-sides.ts';

export const METHOD = [
  'Two embedded PostgreSQL clusters on this machine, set up alike (settings below; commits reach the disk), hold primary and shadow.',
  'For each workload both sides copy the base first (native by its own synchronisation, Foreshadow by captures 1 and 2) and are stopped;',
  'then the load is written once. Each run catches up with that same stretch of the log: on a clone of the copy, warmed by pg_prewarm, through a copy of',
  'one replication slot, after a checkpoint of both clusters. The sides take turns, in an order that rotates with the round.',
  'Native: binary = true, streaming = parallel, synchronous_commit = off in the apply worker (its default), fillfactor 90 as ours has;',
  '`native2` is the same again, and the band comes from how far the two lie apart. Secondary indexes are on neither target, or on both, as the workload says.',
  'Ours: a process of its own with its modules loaded does what `foreshadow start` does, with every version kept (capture 1 is read again after the last round),',
  'through its journal; `ours-captures` takes a capture every two seconds besides, validation included: one that falls due during the catch-up waits for the',
  'position where the primary stood then, so few are cut before the end. Default policy: lag tolerance 15 min; folds as the engine chooses.',
  '`drain` reads what the walsender sends, as it comes, and throws it away. It and `ours-captures` run in the first round only.',
  'Timed from the order to begin until a position behind the last change of every table is in the shadow and on its disk.',
  'A live load (one transaction) is timed from its start, and from its commit, both sides reading meanwhile.',
  'Every run ends with a comparison of a digest of every table. CPU is of all processes of a cluster; the apply side is the shadow’s cluster and our process.',
];

type Pick = (run: Run) => number;

function of(result: WorkloadRuns, side: SideName, pick: Pick): number[] {
  return result.runs
    .filter((run) => run.side === side)
    .toSorted((a, b) => a.round - b.round)
    .map(pick);
}

const wall: Pick = (run) => run.wallMs;
const applyCpu: Pick = ({ cpuMs }) => cpuMs.shadow + cpuMs.process;

function ratios(above: readonly number[], below: readonly number[]): number[] {
  return above.map((value, index) => value / (below[index] as number));
}

export function reportCatchup(results: readonly WorkloadRuns[]): { tables: ResultTable[]; checks: Check[] } {
  return {
    tables: [comparison(results), ...results.map(detail), ...live(results)],
    checks: results.flatMap((result) => [...equality(result), ...targets(result)]),
  };
}

function comparison(results: readonly WorkloadRuns[]): ResultTable {
  const rows = results.map((result) => {
    const native = of(result, 'native', wall);
    const side = (name: SideName): string => factor(native, of(result, name, wall));
    const drain = of(result, 'drain', wall);
    const ours = of(result, 'ours', wall);
    const near = drain.length === 0 || ours.length === 0 ? '–' : `${shown((100 * median(drain)) / median(ours))} %`;
    const cpu = of(result, 'ours', applyCpu);
    return [
      `${result.workload.name}: ${result.workload.title}`,
      native.length === 0 ? '–' : shown(median(native) / 1000),
      ours.length === 0 ? '–' : shown(median(ours) / 1000),
      side('ours'),
      ours.length === 0 || native.length === 0 ? '–' : ratios(native, ours).map(shown).join(' '),
      side('native2'),
      side('ours-captures'),
      native.length === 0 || cpu.length === 0 ? '–' : factor(of(result, 'native', applyCpu), cpu),
      near,
    ];
  });
  const columns = [
    'workload',
    'native, s',
    'ours, s',
    'native ÷ ours',
    'each round',
    'native ÷ native2',
    'native ÷ ours with captures',
    'apply CPU, native ÷ ours',
    'drain ÷ ours',
  ];
  return { title: 'Medians', columns, rows };
}

function factor(above: readonly number[], below: readonly number[]): string {
  return above.length === 0 || below.length === 0 ? '–' : shown(median(above) / median(below));
}

function detail(result: WorkloadRuns): ResultTable {
  const { changes, walBytes } = result.load;
  const sides = Array.from(new Set(result.runs.map(({ side }) => side))).toSorted();
  const rows = sides.map((side) => {
    const runs = result.runs.filter((run) => run.side === side);
    const walls = of(result, side, wall);
    const seconds = (pick: Pick): string => shown(median(runs.map(pick)) / 1000);
    return [
      side,
      walls.map((ms) => shown(ms / 1000)).join(' '),
      shown(median(walls) / 1000),
      runs[0]?.journaledMs === null ? '–' : seconds((run) => run.journaledMs ?? Number.NaN),
      Math.round(changes / (median(walls) / 1000)),
      shown(walBytes / 1e6 / (median(walls) / 1000)),
      seconds((run) => run.cpuMs.primary),
      seconds((run) => run.cpuMs.shadow),
      seconds((run) => run.cpuMs.process),
      megabytes(median(runs.map((run) => run.shadowWalBytes))),
      runs[0]?.peakResidentBytes === null ? '–' : megabytes(Math.max(...runs.map((run) => run.peakResidentBytes ?? 0))),
      shown(median(runs.map((run) => run.captures))),
    ];
  });
  return {
    title: `${result.workload.name}: ${result.workload.title} (${changes} changes, ${megabytes(walBytes)} MB of log)`,
    columns: [
      'side',
      'each round, s',
      'median, s',
      'in the journal, s',
      'changes/s',
      'log MB/s',
      'CPU s: primary',
      'shadow',
      'process',
      'shadow log, MB',
      'process peak, MB',
      'captures',
    ],
    rows,
  };
}

/** From the commit of a transaction that both sides have been reading. */
function live(results: readonly WorkloadRuns[]): ResultTable[] {
  const found = results.filter(({ workload }) => workload.live === true);
  if (found.length === 0) return [];
  const rows = found.flatMap((result) => {
    const after: Pick = (run) => run.afterCommitMs ?? Number.NaN;
    const native = of(result, 'native', after);
    return Array.from(new Set(result.runs.map(({ side }) => side)), (side) => {
      const each = of(result, side, after);
      return [result.workload.name, side, each.map((ms) => shown(ms / 1000)).join(' '), shown(median(each) / 1000), factor(native, each)];
    });
  });
  return [
    { title: 'From the commit of the transaction', columns: ['workload', 'side', 'each round, s', 'median, s', 'native ÷ this'], rows },
  ];
}

function equality(result: WorkloadRuns): Check[] {
  const { name } = result.workload;
  const compared = result.runs.filter(({ equal }) => equal !== null);
  const wrong = compared.filter(({ equal }) => equal !== true);
  const checks = [
    check(`${name}: every run ends with the primary's rows`, wrong.length === 0, `${compared.length - wrong.length} of ${compared.length}`),
  ];
  const kept = result.runs.filter(({ keptBefore }) => keptBefore !== null);
  if (kept.length > 0) {
    const lost = kept.filter(({ keptBefore }) => keptBefore !== true);
    checks.push(check(`${name}: capture 1 reads as before the load`, lost.length === 0, `${kept.length - lost.length} of ${kept.length}`));
  }
  return checks;
}

function targets(result: WorkloadRuns): Check[] {
  const { name, target } = result.workload;
  const native = of(result, 'native', wall);
  const ours = of(result, 'ours', wall);
  if (native.length === 0 || ours.length === 0) return [];
  const again = of(result, 'native2', wall);
  const band = again.length === 0 ? 0 : noiseBand(native, again);
  const wanted = target ?? 1;
  const ratio = median(native) / median(ours);
  const found = `${shown(ratio)}, band ${shown(band)}`;
  const checks = [check(`${name}: native ÷ ours at least ${wanted}`, reached(ratio, band, wanted), found)];
  if (result.workload.live === true) {
    const after: Pick = (run) => run.afterCommitMs ?? Number.NaN;
    const factorAfter = median(of(result, 'native', after)) / median(of(result, 'ours', after));
    checks.push(check(`${name}: native ÷ ours from the commit at least 1`, reached(factorAfter, band, 1), shown(factorAfter)));
  }
  const cpu = median(of(result, 'native', applyCpu)) / median(of(result, 'ours', applyCpu));
  checks.push(check(`${name}: apply-side CPU below native's`, cpu > 1, `${shown(cpu)} times ours`));
  return checks;
}
