import { readFile, stat } from 'node:fs/promises';
import { cpus } from 'node:os';
import { type LoadReading, OwnUse } from './load.ts';

/** In every Linux that Node.js runs on, /proc counts time in hundredths of a second. */
const TICK_MICROS = 10_000n;

/** A process with the time it was started, by which another of the same number is told apart. */
export interface HostProcess {
  readonly pid: number;
  readonly startedAtMs: number;
}

/** Start times are known to a tick on one side, and the time of boot to a second on the other. */
const START_TOLERANCE_MS = 3000;

/**
 * The machine under a primary that runs on this one: its processors, and the disk below a file. Only where /proc tells (Linux); elsewhere
 * nothing is read.
 */
export class Host {
  readonly #own = new OwnUse();
  readonly #ownProcess = process.cpuUsage();

  /** Whether this process runs on this machine, within the same view of its processes. */
  async runs({ pid, startedAtMs }: HostProcess): Promise<boolean> {
    const [own, boot] = await Promise.all([read(`/proc/${pid}/stat`), read('/proc/stat')]);
    const bootSeconds = Number(/^btime (\d+)$/m.exec(boot)?.[1]);
    const startTicks = Number(fieldsOf(own)[19]);
    return Math.abs(bootSeconds * 1000 + startTicks * 10 - startedAtMs) < START_TOLERANCE_MS;
  }

  /** Processors without this process and those in `ours`, and the disk that holds `file`. */
  async readings(file: string | null, ours: readonly number[]): Promise<LoadReading[]> {
    return [...(await this.#processors(ours)), ...(file === null ? [] : await disk(file))];
  }

  async #processors(ours: readonly number[]): Promise<LoadReading[]> {
    const all = /^cpu +(.*)$/m
      .exec(await read('/proc/stat'))?.[1]
      ?.split(' ')
      .map(Number);
    if (all === undefined || all.length < 8) return [];
    const [user = 0, nice = 0, system = 0, , , interrupts = 0, softInterrupts = 0, stolen = 0] = all;
    const busy = BigInt(user + nice + system + interrupts + softInterrupts + stolen) * TICK_MICROS;
    const used = new Map<string, bigint>();
    for (const pid of ours) {
      const fields = fieldsOf(await read(`/proc/${pid}/stat`));
      if (fields.length > 19) used.set(`${pid} ${fields[19]}`, BigInt(Number(fields[11]) + Number(fields[12])) * TICK_MICROS);
    }
    const { user: mine, system: kernel } = process.cpuUsage(this.#ownProcess);
    const total = busy - this.#own.of(used) - BigInt(mine + kernel);
    return [{ kind: 'counter', resource: 'host.cpu', total, epoch: 'boot', unit: 1 / (1e6 * cpus().length), includesOurs: false }];
  }
}

/** The share of time in which the disk had something to do; our own part in that cannot be told. */
async function disk(file: string): Promise<LoadReading[]> {
  const found = await stat(file).catch(() => null); // not ours to look at, or gone: then nothing is known of its disk
  if (found === null) return [];
  const [major, minor] = [(found.dev >>> 8) & 0xfff, (found.dev & 0xff) | ((found.dev >>> 12) & 0xfff00)];
  const line = (await read('/proc/diskstats')).split('\n').find((each) => {
    const [first, second] = each.trim().split(/ +/);
    return Number(first) === major && Number(second) === minor;
  });
  const busyMs = line?.trim().split(/ +/)[12];
  return busyMs === undefined
    ? []
    : [{ kind: 'counter', resource: 'host.disk', total: BigInt(busyMs), epoch: 'boot', unit: 1 / 1000, includesOurs: true }];
}

/** Of /proc/PID/stat, what follows the name, which may hold anything: the state is the first. */
function fieldsOf(text: string): string[] {
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** Empty where it cannot be read: another system, or a process that has ended. */
async function read(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => '');
}
