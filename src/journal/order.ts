import type { TrackedBatch } from '../model/change.ts';
import { ForeshadowError } from '../model/errors.ts';
import type { Position } from '../model/position.ts';
import type { TableName } from '../model/schema.ts';
import type { Bookmark } from './journal.ts';

/** What an append means for a journal that stands at a head. */
export type Place =
  | 'next' // it begins at the head
  | 'renewal' // empty, exactly at the head: only the evidence is news
  | 'repeat'; // everything in it is in already

/**
 * The rule of order that every journal keeps. Throws JOURNAL_GAP for a batch that does not begin at the head, and a RangeError for
 * one whose content lies outside its own bounds: readers would never see it, or see it twice.
 */
export function placeOf(batch: TrackedBatch, head: Bookmark | null): Place {
  requireBounds(batch);
  if (head === null) {
    throw new ForeshadowError('JOURNAL_GAP', 'the journal has no beginning yet', {
      remedy: 'Begin it at the bookmark that installing on the primary returned.',
    });
  }
  if (batch.after === head.at && batch.through === head.at) return 'renewal';
  if (batch.through <= head.at) return 'repeat';
  if (batch.after === head.at) return 'next';
  throw new ForeshadowError('JOURNAL_GAP', `the journal ends at ${head.at}, the batch to append begins at ${batch.after}`, {
    remedy: 'Track again from the end of the journal; where the primary no longer reaches back to it, resync by comparison.',
  });
}

function requireBounds(batch: TrackedBatch): void {
  const { after, through } = batch;
  if (through < after) throw new RangeError(`a batch ends at ${through}, before it begins at ${after}`);
  for (const block of batch.blocks) {
    if (block.first <= after || block.last > through || block.first > block.last) {
      throw new RangeError(`a block of ${block.table} holds ${block.first} to ${block.last}, its batch (${after}, ${through}]`);
    }
  }
  for (const { transaction } of batch.adopts) {
    if (transaction.at <= after || transaction.at > through) {
      throw new RangeError(`a transaction to adopt ended at ${transaction.at}, its batch holds (${after}, ${through}]`);
    }
  }
  for (const event of batch.events) {
    if (event.at <= after || event.at > through) {
      throw new RangeError(`an event of ${event.table} is at ${event.at}, its batch holds (${after}, ${through}]`);
    }
  }
}

/** The error of a read that reaches back further than the journal does. */
export function prunedAway(table: TableName, after: Position, begins: Position): ForeshadowError {
  return new ForeshadowError('JOURNAL_GAP', `the journal holds the changes of ${table} only after ${begins}, not after ${after}`, {
    remedy: `Resync ${table} by comparison with the primary.`,
  });
}
