import type { Command } from 'commander';
import { redactUrl } from '../../app/config.ts';
import { openRemote } from '../../server/client.ts';
import { ForeshadowError } from '../../model/errors.ts';
import { EXIT } from '../failure.ts';
import { configOf, newCommand } from '../invocation.ts';
import type { Act } from '../invocation.ts';

export function uninstallCommand(act: Act): Command {
  return newCommand(
    'uninstall',
    'leave no trace on the primary',
    ['foreshadow uninstall'],
    'Takes away everything Foreshadow put on the primary. The shadow and its captures stay as they are; they can still be queried, diffed and restored.',
  ).action(
    act(async (invocation) => {
      const config = await configOf(invocation);
      await using remote = await openRemote(config.stateDirectory);
      if (remote !== null) {
        throw new ForeshadowError('ALREADY_RUNNING', `a foreshadow start tracks data set ${config.dataSet}`, { remedy: 'end it first' });
      }
      const { uninstall } = await invocation.systems();
      await uninstall(config, { log: () => undefined }, invocation.signal);
      const primary = redactUrl(config.primary);
      if (invocation.json) await invocation.out.json({ dataSet: config.dataSet, primary });
      else await invocation.out.line(`nothing of Foreshadow is left on ${primary}; the captures in ${redactUrl(config.shadow)} stay`);
      return EXIT.done;
    }),
  );
}
