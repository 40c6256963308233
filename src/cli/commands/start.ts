import { Option } from 'commander';
import type { Command } from 'commander';
import { redactUrl } from '../../app/config.ts';
import type { Config } from '../../app/config.ts';
import { isAbort } from '../../model/errors.ts';
import { alreadyServing, greetingOf } from '../../server/client.ts';
import { serve } from '../../server/server.ts';
import { socketPath } from '../../server/socket-path.ts';
import { EXIT } from '../failure.ts';
import { configOf, newCommand } from '../invocation.ts';
import type { Act } from '../invocation.ts';
import { LOG_LEVELS, openLog } from '../log.ts';
import type { LogLevel } from '../log.ts';
import { version } from '../version.ts';

export function startCommand(act: Act): Command {
  return newCommand(
    'start',
    'run: track, shadow, capture on schedule',
    ['foreshadow start', 'foreshadow start --log-level debug'],
    'Tracks the primary, keeps the shadow up to date and captures on schedule, until it is ended by Ctrl-C or SIGTERM; a second one ends it at once. The other commands work through it while it runs. Logs go to standard error, as JSON where no person watches.',
  )
    .addOption(new Option('--log-level <level>', 'what to log').choices([...LOG_LEVELS]).default('info'))
    .action(
      act(async (invocation, options: { logLevel: LogLevel }) => {
        const config = await configOf(invocation);
        const log = openLog(invocation.err, options.logLevel);
        await refuseSecond(config);
        const { openSystem } = await invocation.systems();
        await using system = await openSystem(config, { log });
        const ending = new AbortController();
        // Begun before anybody can ask for anything: what a client leaves half-way must not be what opened the ends.
        const running = system.run(AbortSignal.any([invocation.signal, ending.signal]));
        // Awaited below; should it fail before that, it is no unhandled rejection.
        running.catch(() => undefined);
        try {
          await using served = await serve(system, { stateDirectory: config.stateDirectory, dataSet: config.dataSet, version: version() });
          const { dataSet, primary, shadow } = config;
          log('info', 'started', { dataSet, primary: redactUrl(primary), shadow: redactUrl(shadow), socket: served.path });
          if (invocation.json) await invocation.out.json({ dataSet, pid: process.pid, socket: served.path });
          await running;
        } catch (error) {
          // Being ended is how it ends.
          if (!invocation.signal.aborted || !(isAbort(error) || error === invocation.signal.reason)) throw error;
        } finally {
          ending.abort();
          await running.catch(() => undefined); // told above, or it is the end that was asked for
        }
        log('info', 'ending');
        return EXIT.done;
      }),
    );
}

/** The claim on the shadow would refuse it too; this says so before anything is opened. */
async function refuseSecond(config: Config): Promise<void> {
  const other = await greetingOf(socketPath(config.stateDirectory));
  if (other !== null) throw alreadyServing(other);
}
