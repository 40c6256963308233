import { describe } from 'vitest';
import { describeAhead } from './shadow-ahead.contract.ts';
import { describeApply } from './shadow-apply.contract.ts';
import { describeHeld } from './shadow-held.contract.ts';
import { describeForeignWrites } from './shadow-foreign.contract.ts';
import { describeReshaping } from './shadow-reshaping.contract.ts';
import { describeShadowModel } from './shadow-model.contract.ts';
import { describeCaptures } from './shadow-captures.contract.ts';
import { describeProgress } from './shadow-progress.contract.ts';
import type { ShadowOpener } from './shadow-session.contract.ts';

export type { ForeignWrite, ShadowFixture, ShadowOpener, SimpleColumn, SimpleValue } from './shadow-session.contract.ts';

/**
 * What every shadow promises (`shadow.ts`), in neutral tuples: integers and texts. A new store is done when this is green.
 * `open` makes an empty shadow, not yet claimed, and knows how another program would write to it.
 */
export function describeShadow(name: string, open: ShadowOpener): void {
  describe(`shadow: ${name}`, () => {
    describeProgress(open);
    describeApply(open);
    describeHeld(open);
    describeAhead(open);
    describeCaptures(open);
    describeReshaping(open);
    describeForeignWrites(open);
    describeShadowModel(open);
  });
}
