import type { Bookmark } from '../../journal/journal.ts';
import type { TableEvent, TrackedBatch } from '../../model/change.ts';
import { ForeshadowError, messageOf } from '../../model/errors.ts';
import { commitEndOf, type Position } from '../../model/position.ts';
import type { TableName } from '../../model/schema.ts';
import { boundary, type Numbering } from './numbering.ts';
import { codeOf, placeOf } from './connection.ts';
import type { CatalogTable } from './describe.ts';
import { branchOf, type Evidence, evidenceOf, gapReason, parseEvidence } from './history.ts';
import { dropSlot, insertsName, newMark, type ServerState, stateOfFreeSlot, writeMark } from './installation.ts';
import { alteration, ensurePublications, publicationSeen } from './publication.ts';
import { Wire } from './wire.ts';

export interface ResumeParts {
  readonly url: string;
  /** Of slot and publication. */
  readonly name: string;
  /** Whether there is to be a publication of inserts alone. */
  readonly inserts: boolean;
  readonly tables: readonly CatalogTable[];
  /** Those of them that must have been published all the time. */
  readonly standing: readonly CatalogTable[];
  readonly owners: readonly string[];
  /** Makes the slot anew; returns where it begins. */
  readonly createSlot: (wire: Wire, signal: AbortSignal) => Promise<bigint>;
  /** The server process of our own last stream, which may not have noticed its end. */
  readonly ownPid: number | null;
  /** Why the slot was made anew since this process began, if it was. */
  readonly remade: string | null;
}

export interface StreamStart {
  /** Everything at or below is in the journal, or lost to the gap. */
  readonly after: Position;
  /** Why what lies between the bookmark and `after` is lost; null: nothing is. */
  readonly gap: string | null;
  readonly evidence: Evidence;
  readonly numbering: Numbering;
}

/**
 * Whether a bookmark and the slot tell one story as far as can be told before reading from it; if not, or where `broken` says why not, the
 * slot is made anew and there is a gap.
 */
export async function resumeAt(
  wire: Wire,
  parts: ResumeParts,
  from: Bookmark,
  broken: string | null,
  signal: AbortSignal,
): Promise<StreamStart> {
  const { name, tables, ownPid } = parts;
  const evidence = parseEvidence(from.evidence);
  let state = await stateOfFreeSlot(wire, name, ownPid, signal);
  if (!state.publication && state.slot === null) throw notInstalled(parts.url);
  refuseOther(parts, evidence, state);
  let base = evidence === null ? (state.mark?.base ?? 0n) : BigInt(evidence.base);
  const fromLsn = commitEndOf(from.at) - base;
  const reason =
    broken ??
    gapReason(evidence, fromLsn, state, await branchedAt(parts.url, evidence, state, signal), parts.remade) ??
    (evidence === null || evidence.published === null ? null : await alteration(wire, name, parts.standing, evidence.published, signal));
  let after = from.at;
  if (reason !== null) {
    await ensurePublications(wire, parts, tables, new Set(), signal);
    await dropSlot(wire, name, ownPid, signal);
    const lsn = await parts.createSlot(wire, signal);
    // A server put back to an earlier state counts from lower again: positions must go on rising.
    if (boundary(lsn, base) <= from.at) base = commitEndOf(from.at) + 1n - lsn;
    after = boundary(lsn, base);
    state = await stateOfFreeSlot(wire, name, ownPid, signal);
  }
  const mark = newMark();
  const marks = reason === null && evidence !== null ? [evidence.mark, mark] : [mark];
  const written = await writeMark(wire, name, { marks, base, owner: parts.owners[0] ?? null });
  const [near] = await wire.query('SELECT pg_snapshot_xmax(pg_current_snapshot())::text', signal);
  return {
    after,
    gap: reason,
    evidence: evidenceOf(
      state,
      written ? mark : (evidence?.mark ?? ''),
      base,
      reason === null ? (evidence?.witness ?? null) : null,
      await publicationSeen(wire, signal),
    ),
    numbering: { base, transactionNear: BigInt(near?.rows[0]?.[0] as string) },
  };
}

/** The walsender found no function that makes the binary form of a value, or not the publication. */
const NO_FUNCTION = '42883';
const NO_OBJECT = '42704';

/**
 * A value that the server cannot send (an array of a type without a binary form, in a column added since) stands in the log for good: the
 * stream would break off there each time. So the slot is made anew beyond it, which is a gap of every table. So it is before 18 where the log
 * goes back to before there was a publication of inserts: the server looks for it as of then.
 */
export class Unsendable {
  readonly #inserts: string;
  #reason: string | null = null;

  /** For the slot, and publication, of this name. */
  constructor(name: string) {
    this.#inserts = insertsName(name);
  }

  /** The error to be tried again after, or null where it is about something else. */
  meet(error: unknown, url: string): ForeshadowError | null {
    const text = messageOf(error);
    const unpublished = codeOf(error) === NO_OBJECT && text.includes(this.#inserts);
    if (codeOf(error) !== NO_FUNCTION && !unpublished) return null;
    this.#reason = unpublished
      ? 'the log begins before insertOnly was first asked for'
      : `the log holds a value that the server cannot send: ${text}`;
    return new ForeshadowError('QUERY_FAILED', `The primary at ${placeOf(url)} broke off the stream of changes: ${this.#reason}`, {
      remedy: '`foreshadow doctor` names the table. Every table is compared with the primary to find what changed.',
      retry: 'later',
      cause: error,
    });
  }

  take(): string | null {
    const reason = this.#reason;
    this.#reason = null;
    return reason;
  }
}

export function notInstalled(url: string): ForeshadowError {
  return new ForeshadowError('NOT_INSTALLED', `Tracking is not installed on the primary at ${placeOf(url)}`, {
    remedy: 'Run `foreshadow start` or `foreshadow capture`: they install it.',
  });
}

/** What is installed under this name is for another journal than ours: taking it over would put a hole into what that one tracks. */
export function refuseOwner({ name, owners }: { name: string; owners: readonly string[] }, state: ServerState): void {
  const owner = state.mark?.owner ?? null;
  if (owner === null || owners.length === 0 || owners.includes(owner)) return;
  throw new ForeshadowError(
    'TRACKED_ELSEWHERE',
    `The publication and slot ${name} on the primary belong to another Foreshadow with a data set of this name (its journal is ${owner})`,
    { remedy: 'Give this data set another name (`dataSet`). If the other one is gone for good, run `foreshadow uninstall` first.' },
  );
}

function refuseOther(parts: ResumeParts, evidence: Evidence | null, state: ServerState): void {
  if (evidence !== null && (evidence.system !== state.system || evidence.database !== state.database)) {
    throw new ForeshadowError('PRIMARY_REPLACED', `The primary at ${placeOf(parts.url)} is not the database that was tracked`, {
      remedy: 'Correct the URL; or begin anew: remove the journal, and use an empty shadow.',
    });
  }
  refuseOwner(parts, state);
}

/** Where the server's timeline left that of the evidence. Asked of the server only after a failover or a recovery. */
async function branchedAt(url: string, evidence: Evidence | null, state: ServerState, signal: AbortSignal): Promise<bigint | null> {
  if (evidence === null || evidence.timeline === state.timeline) return null;
  await using wire = await Wire.open(url, { side: 'primary', purpose: 'history', replication: true, watched: true }, signal);
  const [file] = await wire.query(`TIMELINE_HISTORY ${Number.parseInt(state.timeline, 16)}`, signal);
  return branchOf(file?.rows[0]?.[1] ?? '', evidence.timeline);
}

/** What is said where the log does not go on from `after`: nothing is known of any table in between. */
export function gapOf(tables: Iterable<TableName>, after: Position, through: Position, reason: string): TrackedBatch {
  const events: TableEvent[] = Array.from(tables, (table) => ({ kind: 'gap', table, at: through, reason }));
  return { after, through, blocks: [], adopts: [], events };
}
