import type { Command } from 'commander';
import { isAbort } from '../../model/errors.ts';
import { EXIT } from '../failure.ts';
import { newCommand, operationsOf } from '../invocation.ts';
import type { Act } from '../invocation.ts';

export function tailCommand(act: Act): Command {
  return newCommand(
    'tail',
    'the change stream as NDJSON',
    ['foreshadow tail', 'foreshadow tail | head -3'],
    'Prints every change from now on as one line of JSON, as it becomes durable in the journal, until it is ended. Always NDJSON, with or without --json. On SQLite a change has the grain of a poll: several versions of a row within one come as the last, and inserts as updates.',
  ).action(
    act(async (invocation) => {
      await using operations = await operationsOf(invocation);
      try {
        for await (const line of operations.tail(invocation.signal)) await invocation.out.json(line);
      } catch (error) {
        // Being ended is how it ends.
        if (!invocation.signal.aborted || !(isAbort(error) || error === invocation.signal.reason)) throw error;
      }
      return EXIT.done;
    }),
  );
}
