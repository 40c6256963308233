import type { Command } from 'commander';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadConfig } from '../../app/config.ts';
import type { Config } from '../../app/config.ts';
import type { Systems } from '../../app/local-system.ts';
import { openPlaces } from '../demo/places.ts';
import type { Places } from '../demo/places.ts';
import { Screen } from '../demo/screen.ts';
import { openShopDatabase } from '../demo/shop-database.ts';
import { ShopStaff } from '../demo/shop-staff.ts';
import { openShop } from '../demo/shop.ts';
import { captureWithWitness, diffTwo, queryOld, restoreAndProve, runBeside, tamper, tamperPastGuard, watchUntil } from '../demo/story.ts';
import type { Stage } from '../demo/story.ts';
import { EXIT } from '../failure.ts';
import { newCommand } from '../invocation.ts';
import type { Act, Invocation } from '../invocation.ts';
import { duration } from '../words.ts';

export function demoCommand(act: Act): Command {
  return newCommand(
    'demo',
    'a busy little shop, shadowed and captured before your eyes; nothing to install',
    ['foreshadow demo', 'foreshadow demo --postgres', 'foreshadow demo --keep'],
    'Opens a small shop whose own program writes to it all the time, shadows it, captures it every few seconds, then queries, compares and restores captures, alters the shadow and shows that it is noticed and cured. Takes less than a minute and leaves nothing behind.',
  )
    .option('--postgres', 'on PostgreSQL servers of its own instead of SQLite')
    .option('--keep', 'leave the files for you to look at (SQLite)')
    .action(
      act(async (invocation, options: { postgres?: true; keep?: true }) => {
        const beganMs = performance.now();
        const screen = new Screen(invocation.out);
        const keep = options.keep === true && options.postgres !== true;
        try {
          await screen.line('Foreshadow: point-in-time captures of a live database, because the copying has already been done.');
          await using places = await openPlaces(options.postgres === true ? 'postgres' : 'sqlite', keep);
          await perform(invocation, screen, places);
          await screen.line('');
          await screen.line(`That was it, in ${duration(performance.now() - beganMs)}.`);
          await screen.line(
            keep
              ? `The files stay: cd ${places.directory} && foreshadow captures`
              : 'Nothing of it is left. Now with your own database: foreshadow init --help',
          );
        } finally {
          screen.clear();
        }
        return EXIT.done;
      }),
    );
}

/** Every few seconds, so that there is something to see. */
const SCHEDULE = '*/5 * * * * *';
const SCHEDULED_CAPTURES = 3;

async function perform(invocation: Invocation, screen: Screen, places: Places): Promise<void> {
  await screen.act(`A shop opens on ${places.kind === 'sqlite' ? 'SQLite' : 'PostgreSQL'}; its own program keeps it busy`);
  {
    await using database = await openShopDatabase(places.primary);
    await openShop(database);
  }
  await using staff = new ShopStaff(places.primary);
  const systems = await invocation.systems();
  const config = await loadConfig(await writeConfig(places), invocation.env);
  await screen.act('Foreshadow copies it while it is written to, follows every change, and captures on schedule');
  await shadow(invocation, systems, config, { screen, places, staff });
  await screen.act('And leaves no trace on the primary');
  await screen.command('uninstall');
  await systems.uninstall(config, { log: () => undefined }, invocation.signal);
  await screen.good(`what was installed on the ${places.kind === 'sqlite' ? 'file' : 'server'} is gone, and the shop noticed nothing`);
  staff.check();
}

/** Runs a system beside the story for as long as the story takes. */
async function shadow(
  invocation: Invocation,
  systems: Systems,
  config: Config,
  scene: Pick<Stage, 'screen' | 'places' | 'staff'>,
): Promise<void> {
  const failed = new AbortController();
  const log = (level: string, message: string): void => {
    if (level === 'error') invocation.err.note(`${message}\n`);
  };
  await using system = await systems.openSystem(config, { log });
  const ending = new AbortController();
  const running = runBeside(system, AbortSignal.any([invocation.signal, ending.signal]), (error) => failed.abort(error));
  try {
    await play({ ...scene, system, told: new Set(), signal: AbortSignal.any([invocation.signal, failed.signal]) });
  } catch (error) {
    // What made the loops fail says more than that the story was broken off.
    throw failed.signal.aborted ? failed.signal.reason : error;
  } finally {
    ending.abort();
    await running;
  }
}

async function play(stage: Stage): Promise<void> {
  const first = (await watchUntil(stage, 1))[0]?.number ?? 1;
  const witnessed = await captureWithWitness(stage);
  await stage.screen.act('The shop goes on');
  const captures = await watchUntil(stage, SCHEDULED_CAPTURES + 1);
  const newest = captures.at(-1)?.number ?? witnessed.number;
  await queryOld(stage, first, newest);
  await diffTwo(stage, witnessed.number, newest);
  await restoreAndProve(stage, witnessed.number, witnessed.witness);
  await tamper(stage, newest);
  await tamperPastGuard(stage);
}

async function writeConfig(places: Places): Promise<string> {
  const path = join(places.directory, 'foreshadow.yaml');
  const text = `dataSet: shop
primary: ${JSON.stringify(places.primary)}
shadow: ${JSON.stringify(places.shadow)}
tables: [${places.kind === 'sqlite' ? '"*"' : '"public.*"'}]
captures:
  schedule: "${SCHEDULE}"
  validate: full
  onInvalid: repair
`;
  await writeFile(path, text, { mode: 0o600 });
  return path;
}
