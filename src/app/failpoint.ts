/**
 * Names a place where a test may kill the process: `FORESHADOW_FAILPOINT=applied` ends it with SIGKILL the first time it gets there,
 * `applied:3` the third. Without the variable this costs one comparison.
 */
const [wanted, times] = (process.env['FORESHADOW_FAILPOINT'] ?? '').split(':');
let leftTimes = Number(times ?? 1);

export function failpoint(name: string): void {
  if (name !== wanted || --leftTimes > 0) return;
  process.kill(process.pid, 'SIGKILL');
}
