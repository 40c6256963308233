import type { Command } from 'commander';
import { resolve } from 'node:path';
import type { PolicyReport, SimulationReport, SimulationRequest } from '../../app/simulation.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { EXIT } from '../failure.ts';
import { newCommand, withProgress } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { tableText } from '../table.ts';
import { count, duration, number } from '../words.ts';

interface Options {
  readonly trace: string;
  readonly captureEvery: string;
  readonly slot: string;
  readonly capacity: string;
  readonly tolerance?: string;
  readonly headroom?: true;
}

export function simulateCommand(act: Act): Command {
  return newCommand(
    'simulate',
    'policies compared on a trace',
    ['foreshadow tail > changes.ndjson', 'foreshadow simulate --trace changes.ndjson --capture-every 1h --slot 1m'],
    'Replays recorded changes under every policy of moving them ahead of captures, and says what was left to move when a capture was due, how many rows moved, and how long changes waited. Reads what tail prints, or CSV with a header such as time,table,row,bytes; .gz is fine. Touches nothing.',
  )
    .requiredOption('--trace <file>', 'the changes to replay')
    .option('--capture-every <time>', 'time between captures', '6h')
    .option('--slot <time>', 'how often a policy decides', '5m')
    .option('--capacity <rows>', 'rows that may move per slot, or with an x a multiple of those that change', '2.3x')
    .option('--tolerance <time>', 'lag tolerance of every policy (default: until the capture)')
    .option('--headroom', 'let load, as changes show it, take from the capacity')
    .action(
      act(async (invocation, options: Options) => {
        // Loaded only here: other commands need neither.
        const [{ simulateTrace }, { parseDuration }] = await Promise.all([
          import('../../app/simulation.ts'),
          import('../../app/config-duration.ts'),
        ]);
        const timeOf = (option: string, text: string): number => {
          const parsed = parseDuration(text);
          if ('ms' in parsed && parsed.ms > 0) return parsed.ms;
          const [problem, remedy] = 'ms' in parsed ? ['no time passes in it', 'write a time such as 5m'] : [parsed.problem, parsed.remedy];
          throw new ForeshadowError('USAGE', `--${option}: ${problem}`, { remedy });
        };
        const request: SimulationRequest = {
          tracePath: resolve(invocation.directory, options.trace),
          captureEveryMs: timeOf('capture-every', options.captureEvery),
          slotMs: timeOf('slot', options.slot),
          capacity: capacityOf(options.capacity),
          toleranceMs: options.tolerance === undefined ? Infinity : timeOf('tolerance', options.tolerance),
          headroom: options.headroom === true,
        };
        checkSlots(request);
        const report = await withProgress(invocation, (progress) => simulateTrace(request, progress, invocation.signal));
        if (invocation.json) await invocation.out.json(report);
        else await invocation.out.write(reportText(report));
        return EXIT.done;
      }),
    );
}

function capacityOf(text: string): SimulationRequest['capacity'] {
  const parts = /^(\d+(?:\.\d+)?)(x?)$/.exec(text);
  const amount = Number(parts?.[1]);
  if (parts !== null && amount > 0) return parts[2] === 'x' ? { demand: amount } : { rows: amount };
  throw new ForeshadowError('USAGE', `--capacity: "${text}" is no number of rows`, {
    remedy: 'write rows per slot, such as 500, or a multiple such as 2.3x',
  });
}

const SLOTS_MAX = 10_000;

function checkSlots({ captureEveryMs, slotMs }: SimulationRequest): void {
  const slots = captureEveryMs / slotMs;
  if (Number.isInteger(slots) && slots >= 2 && slots <= SLOTS_MAX) return;
  throw new ForeshadowError('USAGE', `slots of ${duration(slotMs)} do not fill ${duration(captureEveryMs)} between captures`, {
    remedy: `choose a slot of which 2 to ${number(SLOTS_MAX)} make up the time between captures`,
  });
}

const right = true;

function reportText(report: SimulationReport): string {
  const { trace, captures, chosen, regret } = report;
  const parted = captures.apart
    ? `settings chosen on ${count(captures.chosenOn, 'capture')}, all scored on the ${number(captures.scored)} after`
    : `${count(captures.scored, 'capture')}: too few to choose settings on some and score on others, so the predictive figures flatter`;
  const lines = [
    `${count(trace.changes, 'change')} of ${count(trace.rows, 'row')} in ${duration(trace.spanMs)}; a capture every ${duration(report.captureEveryMs)}, at most ${report.capacityRows.toFixed(1)} rows moved in ${duration(report.slotMs)}`,
    parted,
    '',
    tableText(
      [
        { title: 'policy' },
        { title: 'residual rows', right },
        { title: 'p95', right },
        { title: 'rows moved/distinct', right },
        { title: 'bytes', right },
        { title: 'under load', right },
        { title: 'lag p50', right },
        { title: 'p99', right },
        { title: 'max', right },
        { title: 'frontier' },
      ],
      report.policies.map((policy) => cells(policy, policy.policy === chosen?.policy && sameSettings(policy, chosen))),
    ),
  ];
  if (regret !== null && chosen !== null) {
    lines.push(
      bestText(chosen, report.policies),
      `With perfect forecasts the plan would leave ${signed(regret.policy.residualRows)} rows beside the clairvoyant (policy regret); forecasting costs ${signed(regret.forecast.residualRows)} rows left and ${signed(regret.forecast.rowsPerDistinct)} moved per distinct row (forecast regret).`,
    );
  }
  for (const { toleranceMs, fewerRowsShare, residualRows, kept, lagMaxMs } of report.tolerances) {
    const limit = kept ? '' : `; it was not kept: ages reached ${duration(lagMaxMs)}`;
    lines.push(
      `With policy.lagTolerance at ${duration(toleranceMs)} you would have moved ${fewer(fewerRowsShare)} rows than by moving every change as it comes (residual ${residualRows.toFixed(1)} rows${limit}).`,
    );
  }
  return `${lines.join('\n')}\n`;
}

/** What the predictive policy comes to with the settings that served best, beside the best that needs no forecast. */
function bestText(chosen: PolicyReport, policies: readonly PolicyReport[]): string {
  const quiet = policies.find(({ policy, settings }) => policy === 'quiet-first' && Object.keys(settings).length === 0);
  const reserve = `With prediction.reserve: ${chosen.settings['reserve']} planning would have served best`;
  if (quiet === undefined || quiet.rowsPerDistinct === 0) return `${reserve}.`;
  const beside = fewer(1 - chosen.rowsPerDistinct / quiet.rowsPerDistinct);
  return `${reserve}: ${beside} rows moved than quiet-first, and ${chosen.residualRows.toFixed(1)} left for a capture beside ${quiet.residualRows.toFixed(1)}.`;
}

function fewer(share: number): string {
  return `${Math.abs(share * 100).toFixed(0)} % ${share >= 0 ? 'fewer' : 'more'}`;
}

function sameSettings(a: PolicyReport, b: PolicyReport): boolean {
  return JSON.stringify(a.settings) === JSON.stringify(b.settings);
}

function cells(policy: PolicyReport, isChosen: boolean): string[] {
  const settings = Object.entries(policy.settings)
    .filter(([name]) => name !== 'worth')
    .map(([name, value]) => `${name} ${value}`);
  return [
    [policy.policy, ...settings].join(' '),
    policy.residualRows.toFixed(1),
    String(policy.residualRowsP95),
    policy.rowsPerDistinct.toFixed(2),
    policy.bytesPerDistinct.toFixed(2),
    `${(policy.underLoadShare * 100).toFixed(0)} %`,
    duration(policy.lagP50Ms),
    duration(policy.lagP99Ms),
    duration(policy.lagMaxMs),
    `${policy.onFrontier ? 'yes' : ''}${isChosen ? ' (chosen)' : ''}`.trim(),
  ];
}

function signed(value: number): string {
  return `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(2)}`;
}
