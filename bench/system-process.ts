import type { LocalSystem } from '../src/app/local-system.ts';
import { countBuffersWithHeap } from '../src/app/memory.ts';
import { messageOf } from '../src/model/errors.ts';
import type { SystemAnswer, SystemOrder, SystemReport } from './system-processes.ts';
import { caughtUp, FOREVER, measureCapture, openBenchSystem, type SystemPlaces } from './systems.ts';

/**
 * Foreshadow in a process of its own, so that what it takes is its own: forked by `startSystemProcess`, it says `ready` when its
 * modules are loaded, does as it is told, and ends with its parent.
 */

countBuffersWithHeap();
const ending = new AbortController();
let system: LocalSystem | null = null;
process.once('disconnect', () => process.exit(1));
process.on('message', (order: SystemOrder) => void obey(order));
process.send?.('ready');

async function obey(order: SystemOrder): Promise<void> {
  try {
    tell({ done: await act(order) });
  } catch (error) {
    tell({ failed: messageOf(error) });
  }
}

async function act(order: SystemOrder): Promise<SystemReport> {
  switch (order) {
    case 'run':
      system = await openBenchSystem(JSON.parse(process.argv[2] ?? '') as SystemPlaces);
      // What `foreshadow start` does. It ends by itself only when something failed for good.
      system.run(ending.signal).catch((error: unknown) => {
        process.stderr.write(`Foreshadow ended: ${messageOf(error)}\n`);
        process.exit(1);
      });
      return null;
    case 'capture': {
      const { report, untilCut } = await measureCapture(running());
      return { report, untilCut };
    }
    case 'catch up':
      await caughtUp(running());
      return null;
    case 'status':
      return running().status(FOREVER);
    case 'captures':
      return running().captures(FOREVER);
    case 'plan':
      return running().plan(FOREVER);
    case 'stop':
      ending.abort();
      await system?.[Symbol.asyncDispose]();
      process.disconnect?.();
      process.exit(0);
  }
}

function running(): LocalSystem {
  if (system === null) throw new Error('it does not run yet');
  return system;
}

function tell(answer: SystemAnswer): void {
  process.send?.(answer);
}
