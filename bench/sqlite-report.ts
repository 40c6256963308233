import { type Cost, median, noiseBand, reached } from './measuring.ts';
import { type Check, type ResultTable, check, megabytes, shown } from './recording.ts';
import type { MeasuredCapture } from './systems.ts';

/** The figures of `sqlite-capture.ts` as tables, and what they had to show. */

const AIM_AHEAD = 10;
const AIM_NOTHING_AHEAD = 1.5;

export interface Peer {
  readonly cost: Cost;
  readonly copyBytes: number;
}

export interface Shadowed extends MeasuredCapture {
  readonly changedRows: number;
  /** What moving the changes took before the capture was due, in the background, so its time is nobody's; null: nothing was moved. */
  readonly ahead: Pick<Cost, 'cpuMs' | 'writtenBytes'> | null;
}

export interface Round {
  readonly backup: Peer;
  readonly backupAgain: Peer;
  readonly vacuum: Peer;
  readonly movedAhead: Shadowed;
  readonly heldBack: Shadowed;
  readonly stopped: Shadowed;
}

export interface SizeResult {
  readonly gigabytes: number;
  readonly primaryBytes: number;
  readonly rows: number;
  readonly firstCapture: MeasuredCapture;
  readonly rounds: readonly Round[];
  readonly fullValidation: { readonly verdict: string; readonly rows: number; readonly elapsedMs: number };
  readonly shadowBytes: number;
}

export interface ProcessStart {
  readonly node: number[];
  readonly version: number[];
  readonly captures: number[];
}

export function sizeTable({ gigabytes, rounds, rows }: SizeResult): ResultTable {
  const backups = rounds.flatMap(({ backup, backupAgain }) => [backup.cost, backupAgain.cost]);
  const referenceMs = median(backups.map(({ wallMs }) => wallMs));
  const ours = (name: 'movedAhead' | 'heldBack' | 'stopped'): Cost[] => rounds.map((round) => round[name].untilCut);
  const vacuums = rounds.map(({ vacuum }) => vacuum.cost);
  const ahead = rounds.map(({ movedAhead }) => movedAhead.ahead).filter((cost) => cost !== null);
  return {
    title: `${gigabytes} GB, ${rows} rows, 1 % of them changed: until durable`,
    columns: ['method', 'wall ms (median)', 'range', 'times faster than .backup', 'CPU s', 'MB written'],
    rows: [
      methodRow('`.backup` API, all pages in one step', backups, referenceMs),
      methodRow('`VACUUM INTO`, then flushed', vacuums, referenceMs),
      methodRow('Foreshadow, changes moved ahead', ours('movedAhead'), referenceMs),
      methodRow('Foreshadow, nothing moved ahead, running', ours('heldBack'), referenceMs),
      methodRow('Foreshadow, nothing moved ahead, stopped: opens both ends first', ours('stopped'), referenceMs),
      ['apart: moving the changes ahead', 'in the background', '', '', ...cpuAndBytes(ahead)],
    ],
  };
}

function methodRow(name: string, costs: readonly Cost[], referenceMs: number): (string | number)[] {
  const walls = costs.map(({ wallMs }) => wallMs);
  const range = `${shown(Math.min(...walls))} to ${shown(Math.max(...walls))}`;
  return [name, shown(median(walls)), range, shown(referenceMs / median(walls)), ...cpuAndBytes(costs)];
}

function cpuAndBytes(costs: readonly Pick<Cost, 'cpuMs' | 'writtenBytes'>[]): string[] {
  const written = costs.map(({ writtenBytes }) => writtenBytes).filter((bytes) => bytes !== null);
  return [shown(median(costs.map(({ cpuMs }) => cpuMs)) / 1000), megabytes(written.length > 0 ? median(written) : null)];
}

export function partsTable(results: readonly SizeResult[]): ResultTable {
  const rows = results.flatMap(({ gigabytes, firstCapture, rounds, fullValidation, primaryBytes, shadowBytes }) => {
    const { wallMs, cpuMs, writtenBytes } = firstCapture.untilCut;
    const copied = `wall ${shown(wallMs)} ms, CPU ${shown(cpuMs / 1000)} s, ${megabytes(writtenBytes)} MB written`;
    const full = `${shown(fullValidation.elapsedMs)} ms, ${fullValidation.rows} rows, ${fullValidation.verdict}`;
    const files = `primary ${megabytes(primaryBytes)} MB, shadow with all captures ${megabytes(shadowBytes)} MB`;
    const { validateMs } = firstCapture.report;
    return [
      captureRow(
        gigabytes,
        'moved ahead',
        rounds.map(({ movedAhead }) => movedAhead),
      ),
      captureRow(
        gigabytes,
        'nothing ahead, running',
        rounds.map(({ heldBack }) => heldBack),
      ),
      captureRow(
        gigabytes,
        'nothing ahead, stopped',
        rounds.map(({ stopped }) => stopped),
      ),
      [gigabytes, `the first, with the initial copy: ${copied}`, '', '', '', shown(validateMs), ''],
      [gigabytes, `validation of every row: ${full}`, '', '', '', '', ''],
      [gigabytes, `files: ${files}`, '', '', '', '', ''],
    ];
  });
  const columns = ['GB', 'capture', 'residual rows', 'drain ms', 'cut ms', 'validation ms (after the cut)', 'whole capture ms'];
  return { title: 'The parts of a capture (medians)', columns, rows };
}

function captureRow(gigabytes: number, name: string, captures: readonly MeasuredCapture[]): (string | number)[] {
  const parts = (['residualRows', 'drainMs', 'cutMs', 'validateMs', 'elapsedMs'] as const).map((part) =>
    shown(median(captures.map(({ report }) => report[part]))),
  );
  return [gigabytes, name, ...parts];
}

export function startTable({ node, version, captures }: ProcessStart): ResultTable {
  const rows = [
    ['`node -e 0`', shown(median(node))],
    ['`foreshadow --version`', shown(median(version))],
    ['`foreshadow captures --json`, a small shadow', shown(median(captures))],
  ];
  return { title: 'Process start, excluded above', columns: ['process', 'wall ms (median of 5)'], rows };
}

export function checksOf({ gigabytes, rounds, firstCapture, fullValidation }: SizeResult): Check[] {
  const wall = (pick: (round: Round) => Cost): number[] => rounds.map((round) => pick(round).wallMs);
  const [first, second] = [wall((round) => round.backup.cost), wall((round) => round.backupAgain.cost)];
  const band = noiseBand(first, second);
  const aim = (what: string, target: number, pick: (round: Round) => Shadowed): Check => {
    const ratio = median(rounds.map((round, index) => ((first[index] ?? 0) + (second[index] ?? 0)) / 2 / pick(round).untilCut.wallMs));
    const found = `${shown(ratio)} times; noise band of the control ${shown(band * 100)} %`;
    return check(`${gigabytes} GB: ${what} at least ${target} times faster than .backup`, reached(ratio, band, target), found);
  };
  const captures = [firstCapture, ...rounds.flatMap(({ movedAhead, heldBack, stopped }) => [movedAhead, heldBack, stopped])];
  const valid = captures.filter(({ report }) => report.verdict === 'VALID').length;
  return [
    aim('changes moved ahead,', AIM_AHEAD, ({ movedAhead }) => movedAhead),
    aim('nothing moved ahead, running,', AIM_NOTHING_AHEAD, ({ heldBack }) => heldBack),
    aim('nothing moved ahead, stopped,', AIM_NOTHING_AHEAD, ({ stopped }) => stopped),
    check(`${gigabytes} GB: every capture VALID`, valid === captures.length, `${valid} of ${captures.length}`),
    check(`${gigabytes} GB: every row of the live shadow equal at the end`, fullValidation.verdict === 'VALID', fullValidation.verdict),
  ];
}
