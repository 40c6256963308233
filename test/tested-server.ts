/**
 * Which server the tests run on: the one of the npm package, or, where FORESHADOW_TEST_POSTGRES names a directory with bin, lib and share
 * of another (`/usr/lib/postgresql/15`), that one. `npm run test:versions` sets it.
 */
export function testedServer(): { native?: string } {
  const native = process.env['FORESHADOW_TEST_POSTGRES'];
  return native === undefined ? {} : { native };
}
