import { join } from 'node:path';
import { Orchestrator } from '../src/capture/orchestrator.ts';
import { lastReadable } from '../src/capture/states.ts';
import { loadConfig } from '../src/app/config.ts';
import { failpoint } from '../src/app/failpoint.ts';
import { openJournal, openPrimary, openShadow } from '../src/app/stores.ts';
import { NO_CAPTURE } from '../src/model/capture.ts';
import { Engine } from '../src/shadowing/engine.ts';
import { Tracker } from '../src/tracking/tracker.ts';

/**
 * A process that holds the changed rows of a data set back, moves every other one of them, a few at a time, and then takes a capture: `node
 * holding-process.ts`, in the directory of a config whose data set was captured before. For tests that kill it.
 */
async function run(): Promise<void> {
  const config = await loadConfig(join(process.cwd(), 'foreshadow.yaml'), process.env);
  await using resources = new AsyncDisposableStack();
  const journal = resources.use(await openJournal(config.journal.path));
  const { shadow, catalog } = await openShadow(config);
  resources.use(shadow);
  const owners = async (): Promise<readonly string[]> => [journal.id];
  const shapes = async () => Array.from((await shadow.elements()).values(), ({ schema }) => schema);
  const primary = resources.use(await openPrimary(config, (ids, upTo) => journal.contains(ids, upTo), { owners, shapes }));
  await shadow.claim('a process that holds rows back');
  await primary.install((await primary.describe(AbortSignal.timeout(60_000))).tables, AbortSignal.timeout(60_000));
  const lifetime = new AbortController();
  const { signal } = lifetime;
  const tracker = new Tracker({ primary, journal, failpoint, onRetry: (error) => console.error(error) });
  const parts = {
    primary,
    journal,
    tracker,
    shadow,
    catalog,
    failpoint,
    foldEveryMs: 5,
    followsShape: () => true,
    lagToleranceMs: () => 600_000,
    holding: { bytesMax: 64 << 20, patienceMs: 600_000, changed: () => undefined },
    log: (message: string, fields: Readonly<Record<string, unknown>>) => console.error(message, fields),
  };
  const lastCut = lastReadable(await catalog.list())?.number ?? NO_CAPTURE;
  const engine = await Engine.open(parts, { lastCut, drain: null, parked: false }, signal);
  const { holding } = engine;
  holding.hold(true);
  holding.ease({ batchShare: 0.01, copiesYield: false });
  const loops = Promise.all([tracker.run(signal), engine.run(signal)]).finally(() => lifetime.abort());
  await tracker.reached(await primary.now(signal), signal);
  await engine.caughtUp(tracker.head, signal);
  const early = holding.rows.list().filter((_, index) => index % 2 === 0);
  const held = holding.rows.count;
  const moved = await holding.move(early, signal);
  const policy = { validate: 'full', onInvalid: 'halt', drainDeadlineMs: 60_000, rollingBudgetMs: 1_000 } as const;
  const orchestrator = new Orchestrator({ ...parts, engine, adopt: () => Promise.resolve(), policy, lifetime: signal });
  const { record } = await orchestrator.capture(() => undefined, signal);
  console.log(JSON.stringify({ held, moved: moved.rows, capture: record.number, verdict: record.verdict }));
  lifetime.abort();
  await loops;
}

await run();
