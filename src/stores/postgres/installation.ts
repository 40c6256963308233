import { createHash, randomBytes } from 'node:crypto';
import { ForeshadowError } from '../../model/errors.ts';
import { codeOf, identifier, literal } from './connection.ts';
import { ask } from './describe.ts';
import { parseLsn } from './stream.ts';
import type { Wire } from './wire.ts';

/**
 * What `install` makes on the primary, and all of it: a publication and a slot of one name, and where policy asks for inserts alone of some
 * tables, a publication of those (`insertsName`). The first one's comment says which history it is about (`Mark`), as slots have no room
 * for a note of ours.
 */
export interface Mark {
  /** Random; a new one at every start of tracking. The one before stays valid until the new one has reached the journal. */
  readonly marks: readonly string[];
  /** Added to LSNs to make positions (`batches.ts`). */
  readonly base: bigint;
  /** The journal it is for; null: not said. */
  readonly owner: string | null;
}

export interface SlotState {
  readonly confirmed: bigint;
  /** Why nothing can be read from it any more. */
  readonly lost: string | null;
  /** Who reads from it now. */
  readonly reader: SlotReader | null;
}

export interface SlotReader {
  readonly pid: number;
  /** For people: process, program, user. */
  readonly who: string;
}

export interface ServerState {
  readonly system: string;
  readonly timeline: string;
  /** OID of the database. */
  readonly database: string;
  readonly insertLsn: bigint;
  readonly publication: boolean;
  readonly mark: Mark | null;
  readonly slot: SlotState | null;
}

/** Names must be unique for a data set and at most 63 bytes; slots allow a–z, 0–9 and _ only. */
export function installedName(dataSet: string): string {
  const plain = `foreshadow_${dataSet}`;
  if (/^[a-z0-9_]{1,63}$/.test(plain)) return plain;
  const digest = createHash('sha256').update(dataSet).digest('hex').slice(0, 12);
  return `foreshadow_${dataSet
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '_')
    .slice(0, 38)}_${digest}`;
}

/** Of the publication of inserts alone: as long as the other's, and no data set's. */
export function insertsName(name: string): string {
  return name.replace('foreshadow_', 'foreshadow+');
}

export function newMark(): string {
  return randomBytes(8).toString('hex');
}

export async function readServerState(wire: Wire, name: string, signal?: AbortSignal): Promise<ServerState> {
  const [found] = await ask<{
    system: string;
    wal: string;
    database: string;
    insert: string;
    publication: boolean;
    comment: string | null;
    slot: SlotRow | null;
  }>(
    wire,
    `SELECT (pg_control_system()).system_identifier::text AS system, pg_walfile_name(pg_current_wal_lsn()) AS wal,
      (SELECT oid::text FROM pg_database WHERE datname = current_database()) AS database, pg_current_wal_insert_lsn()::text AS insert,
      EXISTS (SELECT FROM pg_publication WHERE pubname = ${literal(name)}) AS publication,
      (SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = ${literal(name)}) AS comment,
      (SELECT to_jsonb(s) || jsonb_build_object('reader', format('server process %s (%s, user %s)', a.pid, a.application_name, a.usename))
       FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE slot_name = ${literal(name)}) AS slot`,
    signal,
  );
  if (found === undefined) throw new Error('the primary answered a question about itself with nothing');
  if (found.slot !== null) refuseForeign(name, found.slot, found.database);
  return {
    system: found.system,
    timeline: found.wal.slice(0, 8),
    database: found.database,
    insertLsn: parseLsn(found.insert),
    publication: found.publication,
    mark: parseMark(found.comment),
    slot: found.slot === null ? null : slotState(found.slot),
  };
}

interface SlotRow {
  readonly plugin: string | null;
  readonly datoid: number | string | null;
  readonly database: string | null;
  readonly active_pid: number | null;
  readonly reader: string;
  readonly confirmed_flush_lsn: string | null;
  readonly wal_status: string | null;
  readonly conflicting?: boolean | null;
  readonly invalidation_reason?: string | null;
}

/** Names of slots are the server's, not the database's. What is not ours we must not read from, and never drop. */
function refuseForeign(name: string, slot: SlotRow, database: string): void {
  if (slot.plugin === 'pgoutput' && String(slot.datoid) === database) return;
  const what =
    slot.plugin === 'pgoutput'
      ? `of another database of this server (${slot.database})`
      : `a slot of another kind (${slot.plugin ?? 'physical'})`;
  throw new ForeshadowError('TRACKED_ELSEWHERE', `The replication slot ${name} on the primary is ${what}`, {
    remedy:
      'Give this data set another name (`dataSet`): its slot is called after it, and names of slots are shared by all databases of a server.',
  });
}

function slotState(slot: SlotRow): SlotState {
  let lost: string | null = null;
  if (slot.invalidation_reason !== undefined && slot.invalidation_reason !== null)
    lost = `it was invalidated (${slot.invalidation_reason}: ${INVALIDATIONS[slot.invalidation_reason] ?? 'see the server log'})`;
  else if (slot.wal_status === 'lost') lost = 'the log it needed was removed (max_slot_wal_keep_size)';
  else if (slot.conflicting === true) lost = 'it was invalidated';
  else if (slot.confirmed_flush_lsn === null) lost = 'it was never ready';
  const reader = slot.active_pid === null ? null : { pid: slot.active_pid, who: slot.reader };
  return { confirmed: parseLsn(slot.confirmed_flush_lsn ?? '0/0'), lost, reader };
}

/** `pg_replication_slots.invalidation_reason`, and the setting that was at work. */
const INVALIDATIONS: Readonly<Record<string, string>> = {
  wal_removed: 'it held more log than max_slot_wal_keep_size allows',
  rows_removed: 'catalog rows it needed were removed',
  wal_level_insufficient: 'wal_level was lowered',
  idle_timeout: 'nobody read from it for idle_replication_slot_timeout',
};

function parseMark(comment: string | null): Mark | null {
  const found = /^Foreshadow: marks ([0-9a-f ]+), base (\d+)(?:, journal ([^ ]+))?\. /.exec(comment ?? '');
  if (found === null) return null;
  const [, marks = '', base = '0', owner = null] = found;
  return { marks: marks.split(' '), base: BigInt(base), owner };
}

/**
 * False where the publication is somebody else's: an administrator made it for us because our user may not. Its history is then told by
 * the slot alone.
 */
export async function writeMark(wire: Wire, name: string, mark: Mark): Promise<boolean> {
  const owner = mark.owner === null ? '' : `, journal ${mark.owner}`;
  const text = `Foreshadow: marks ${mark.marks.join(' ')}, base ${mark.base}${owner}. Do not edit: it tells a known history from another.`;
  try {
    await wire.query(`COMMENT ON PUBLICATION ${identifier(name)} IS ${literal(text)}`);
    return true;
  } catch (error) {
    if (codeOf(error) === '42501') return false;
    throw error;
  }
}

/** Where the log ends now. */
export async function insertLsn(wire: Wire, signal: AbortSignal): Promise<bigint> {
  const [read] = await wire.query('SELECT pg_current_wal_insert_lsn()::text', signal);
  return parseLsn(read?.rows[0]?.[0] ?? '');
}

export async function inTransaction(wire: Wire, statements: readonly string[], signal: AbortSignal): Promise<void> {
  try {
    await wire.query(['BEGIN', ...statements, 'COMMIT'].join('; '), signal);
  } catch (error) {
    if (!wire.broken) await wire.query('ROLLBACK');
    throw error;
  }
}

/** A slot is busy for a moment after its last reader has gone. */
const READER_GRACE_MS = 3000;
const READER_LOOK_MS = 50;

/**
 * The state of the server once nobody reads from the slot any more. Our own earlier connection is ended (a server may take a minute to notice
 * that it was cut); another's is not: TRACKED_ELSEWHERE names it.
 */
export async function stateOfFreeSlot(wire: Wire, name: string, ownPid: number | null, signal: AbortSignal): Promise<ServerState> {
  const deadline = performance.now() + READER_GRACE_MS;
  for (;;) {
    const state = await readServerState(wire, name, signal);
    const reader = state.slot?.reader ?? null;
    if (reader === null) return state;
    if (reader.pid === ownPid) await wire.query(`SELECT pg_terminate_backend(${ownPid})`, signal);
    else if (performance.now() >= deadline) {
      throw new ForeshadowError('TRACKED_ELSEWHERE', `The replication slot ${name} is being read by another: ${reader.who}`, {
        remedy:
          'If that is another Foreshadow, give this data set another name (`dataSet`) or stop the other one; else end it with SELECT pg_terminate_backend(pid).',
        retry: 'later',
      });
    }
    await new Promise((resolve) => {
      setTimeout(resolve, READER_LOOK_MS);
    });
    signal.throwIfAborted();
  }
}

/** Drops the slot, which nobody may be reading from. Nothing happens where there is none. */
export async function dropSlot(wire: Wire, name: string, ownPid: number | null, signal: AbortSignal): Promise<void> {
  await stateOfFreeSlot(wire, name, ownPid, signal);
  try {
    await wire.query(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ${literal(name)}`, signal);
  } catch (error) {
    if (codeOf(error) !== '42704') throw error;
  }
}

/** Where a slot stands now that it is this reader's alone, a process of the server: somebody may have moved it since we last looked. */
export async function confirmedBy(wire: Wire, slot: string, reader: number, signal: AbortSignal): Promise<bigint> {
  const [found] = await wire.query(
    `SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = ${literal(slot)} AND active_pid = ${reader}`,
    signal,
  );
  const lsn = found?.rows[0]?.[0];
  if (typeof lsn !== 'string') throw new Error('the connection was closed by the server');
  return parseLsn(lsn);
}
