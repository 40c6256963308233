import { TpcbLoad, type TpcbLoadRequest } from './tpcb-load.ts';

/** The load in a process of its own, as an application is: forked by `startTpcbLoad`, asked over its channel, ended by its parent's end. */

const request = JSON.parse(process.argv[2] ?? '') as TpcbLoadRequest;
const load = new TpcbLoad(request);

process.on('message', (message) => {
  if (message === 'figures') process.send?.(load.figures);
  else void finish();
});
process.once('disconnect', () => process.exit(1));

async function finish(): Promise<void> {
  await load.stop();
  process.send?.(load.figures, () => process.exit(0));
}
