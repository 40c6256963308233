import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import { Flow, Gulps } from './flow.ts';

/** What a socket was told last. */
class Source {
  paused = false;
  pauses = 0;

  pause(): void {
    this.paused = true;
    this.pauses++;
  }

  resume(): void {
    this.paused = false;
  }
}

const REST_MS = 300;
const MUCH = 128 << 10;

/** As much as is much, in one turn of the event loop, and then a morsel, in another. */
async function drain(read: (bytes: number) => void): Promise<void> {
  read(MUCH);
  await turn();
  await turn();
  read(100);
  await turn();
  await turn();
}

function open(bytesMax: number, gulpMs = 0): { source: Source; flow: Flow<string> } {
  const source = new Source();
  return { source, flow: new Flow<string>(bytesMax, source, gulpMs) };
}

describe('a flow', () => {
  test('hands out all in order, waits for the first, and ends after the last', async () => {
    const { flow } = open(1000);
    const first = flow.take();
    flow.push('a', 1);
    expect(await first).toEqual(['a']);
    flow.push('b', 1);
    flow.push('c', 1);
    flow.end(null);
    flow.push('too late', 1);
    expect(await flow.take()).toEqual(['b', 'c']);
    expect(await flow.take()).toBeNull();
  });

  test('keeps what came before an error, and nothing where it is discarded', async () => {
    const { flow } = open(1000);
    flow.push('a', 1);
    flow.end(new Error('cut off'));
    expect(await flow.take()).toEqual(['a']);
    await expect(flow.take()).rejects.toThrow('cut off');
    const other = open(1000).flow;
    other.push('a', 1);
    other.discard(new Error('not wanted'));
    await expect(other.take()).rejects.toThrow('not wanted');
  });

  test('over its bound it has the source paused until it is taken from', async () => {
    const { source, flow } = open(10);
    flow.push('a', 10);
    expect(source.paused).toBe(false);
    flow.push('b', 1);
    expect(source.paused).toBe(true);
    expect(await flow.take()).toEqual(['a', 'b']);
    expect(source.paused).toBe(false);
  });

  test('in gulps, the end of a rest does not open what is full', async () => {
    const { source, flow } = open(MUCH + 50, REST_MS);
    await drain((bytes) => flow.push('some', bytes));
    expect(source.paused).toBe(true);
    await sleep(2 * REST_MS);
    expect(source.paused).toBe(true);
    expect(await flow.take()).toEqual(['some', 'some']);
    expect(source.paused).toBe(false);
  });

  test('in gulps, what is taken during a rest does not end it', async () => {
    const { source, flow } = open(MUCH + 50, REST_MS);
    await drain((bytes) => flow.push('some', bytes));
    await flow.take();
    expect(source.paused).toBe(true);
    await vi.waitFor(() => expect(source.paused).toBe(false));
  });

  test('in gulps, little is not handed out while more is there, but in the end', async () => {
    const { flow } = open(4 << 20, REST_MS);
    const took: number[] = [];
    const first = flow.take().then((items) => took.push(items?.length ?? 0));
    flow.push('some', MUCH);
    await turn();
    await turn();
    flow.push('more', MUCH);
    await turn();
    await turn();
    expect(took).toEqual([]);
    await first;
    expect(took).toEqual([2]);
  });

  test('in gulps, enough is handed out though more is there', async () => {
    const { flow } = open(4 << 20, REST_MS);
    const first = flow.take();
    flow.push('much', 2 << 20);
    await turn();
    await turn();
    expect(await first).toEqual(['much']);
  });
});

describe('gulps', () => {
  test('rest when much was read and nothing is left, and then go on', async () => {
    const source = new Source();
    const gulps = new Gulps(source, REST_MS);
    await drain((bytes) => gulps.read(bytes));
    expect([source.paused, gulps.resting]).toEqual([true, true]);
    await vi.waitFor(() => expect(source.paused).toBe(false));
    expect([source.paused, gulps.resting, source.pauses]).toEqual([false, false, 1]);
  });

  test('do not rest where little comes, nor while more is there', async () => {
    const source = new Source();
    const gulps = new Gulps(source, REST_MS);
    for (let morsel = 0; morsel < 20; morsel++) {
      gulps.read(100);
      await turn();
      await turn();
    }
    for (let each = 0; each < 5; each++) {
      gulps.read(MUCH);
      await turn();
      await turn();
    }
    expect(source.pauses).toBe(0);
  });

  test('rest after little only where they are asked to, and go on by themselves', async () => {
    const source = new Source();
    const gulps = new Gulps(source, REST_MS);
    gulps.rest(REST_MS);
    expect([source.paused, gulps.resting]).toEqual([true, true]);
    gulps.rest(REST_MS);
    await vi.waitFor(() => expect(source.paused).toBe(false));
    expect([gulps.resting, source.pauses]).toEqual([false, 1]);
  });

  test('do not rest after little where more is there', async () => {
    const source = new Source();
    const gulps = new Gulps(source, REST_MS);
    gulps.read(MUCH);
    await turn();
    await turn();
    gulps.rest(REST_MS);
    expect(source.pauses).toBe(0);
  });

  test('in a hurry they end a rest after little, and begin none', async () => {
    const source = new Source();
    const gulps = new Gulps(source, REST_MS);
    gulps.rest(REST_MS);
    gulps.hurry(true);
    expect(source.paused).toBe(false);
    gulps.rest(REST_MS);
    expect([source.paused, source.pauses]).toEqual([false, 1]);
    gulps.hurry(false);
    gulps.rest(REST_MS);
    expect([source.paused, source.pauses]).toEqual([true, 2]);
  });

  test('in a hurry they rest all the same while much comes', async () => {
    const source = new Source();
    const gulps = new Gulps(source, REST_MS);
    gulps.hurry(true);
    await drain((bytes) => gulps.read(bytes));
    gulps.hurry(true);
    expect([source.paused, gulps.resting]).toEqual([true, true]);
    await vi.waitFor(() => expect(source.paused).toBe(false));
  });
});
