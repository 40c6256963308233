import { setFlagsFromString } from 'node:v8';

/**
 * Has V8 collect what is no longer used before it has grown by 40 %, instead of letting the heap double: folding makes much that is soon
 * garbage. Measured with a transaction of 500,000 rows: a peak of 360 to 400 MB for the whole process instead of 440, for a tenth more of
 * its CPU. For a process of our own: it concerns all that runs in it.
 */
export function keepHeapSmall(): void {
  setFlagsFromString('--heap-growing-percent=40');
}
