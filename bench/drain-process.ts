import { setTimeout as sleep } from 'node:timers/promises';
import { connect, streamOf } from '../src/stores/postgres/connection.ts';
import { MessageReader, message, queryMessage } from '../src/stores/postgres/messages.ts';

/**
 * Reads what a walsender sends and throws it away, but for the positions of commits. Forked: says `ready` when its modules are loaded,
 * begins at `go`, tells how far it is as it reads, and ends at `stop` or with its parent.
 */
export interface DrainRequest {
  readonly url: string;
  readonly slot: string;
  readonly publication: string;
}

/** The last commit's end it has read, as text. */
export interface DrainProgress {
  readonly reached: string;
}

const TELL_EVERY_MS = 10;

const ending = new AbortController();
process.once('disconnect', () => process.exit(1));
process.on('message', (text) => {
  if (text === 'stop') ending.abort();
  if (text === 'go') void drain(JSON.parse(process.argv[2] ?? '') as DrainRequest);
});
process.send?.('ready');

async function drain({ url, slot, publication }: DrainRequest): Promise<void> {
  const client = await connect(url, { side: 'primary', purpose: 'drain', replication: true }, ending.signal);
  const socket = streamOf(client);
  socket.removeAllListeners('data');
  const reader = new MessageReader();
  let reached = 0n;
  socket.on('data', (chunk: Buffer) => {
    reader.push(chunk, (type, body) => {
      if (type === 0x45) throw new Error(`the server refused to send: ${body.toString('utf8').replaceAll('\0', ' ')}`);
      if (type !== 0x64 || body[0] !== 0x77) return;
      // Commit: flags, position, end. Stream commit: transaction id before these.
      if (body[25] === 0x43) reached = body.readBigUInt64BE(35);
      else if (body[25] === 0x63) reached = body.readBigUInt64BE(39);
    });
  });
  setInterval(() => process.send?.({ reached: String(reached) } satisfies DrainProgress), TELL_EVERY_MS).unref();
  const options = `proto_version '4', publication_names '${publication}', binary 'true', streaming 'on'`;
  socket.write(queryMessage(`START_REPLICATION SLOT "${slot}" LOGICAL 0/0 (${options})`));
  // It must hear from us now and then; nothing of it is confirmed, the slot is dropped afterwards.
  while (!ending.signal.aborted) {
    await sleep(2000, undefined, { signal: ending.signal }).catch(() => undefined);
    socket.write(message('d', Buffer.concat([Buffer.from('r'), Buffer.alloc(33)])));
  }
  socket.destroy();
  process.exit(0);
}
