import { Command } from 'commander';
import { ForeshadowError } from '../../model/errors.ts';
import type { Act } from '../invocation.ts';

/** Commands of the design whose feature does not exist yet: refused by name. */
export const PLANNED_COMMANDS: Readonly<Record<string, string>> = {
  hold: 'holds',
  release: 'holds',
  prune: 'retention',
  policy: 'showing effective rules',
  conflicts: 'the record of conflicts',
  quarantine: 'quarantine',
  archive: 'the archive',
  drill: 'drills',
};

export function plannedCommands(act: Act): Command[] {
  return Object.entries(PLANNED_COMMANDS).map(([name, feature]) =>
    new Command(name)
      .helpOption(false)
      .allowUnknownOption()
      .allowExcessArguments()
      .action(
        act(async () => {
          throw new ForeshadowError('NOT_BUILT', `foreshadow ${name} (${feature}) is not built yet`, {
            remedy: 'it is planned; foreshadow --help lists what there is',
          });
        }),
      ),
  );
}
