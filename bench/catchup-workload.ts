/**
 * What the primary did while nobody read: every load is made by the server itself, from one connection, in transactions as stated.
 * `base` and `load` take the scale, 1 being the full size.
 */
export interface Workload {
  readonly name: string;
  readonly title: string;
  /** Native's time to ours that is to be reached; null: at least 1, and nothing was promised beyond. */
  readonly target: number | null;
  readonly tables: readonly string[];
  readonly schema: string;
  /** Secondary indexes of the primary. */
  readonly indexes?: string;
  /** Whether the targets have them too, native's and ours. */
  readonly mirrored?: boolean;
  readonly base: (scale: number) => string;
  readonly load: (scale: number) => string;
  /** The load runs while both sides read, and is timed from its start and from its commit. */
  readonly live?: boolean;
}

export const count = (full: number, scale: number): number => Math.max(1000, Math.round((full * scale) / 1000) * 1000);

/** `statement` for i in 1..times, a commit after each `each` of them. */
export function loop(times: number, each: number, statement: string, declare = ''): string {
  return `DO $load$ DECLARE r double precision; k bigint; ${declare} BEGIN
    FOR i IN 1..${times} LOOP
      ${statement}
      IF i % ${each} = 0 THEN COMMIT; END IF;
    END LOOP;
  END $load$`;
}

export const ACCOUNT_COLUMNS = `id bigint PRIMARY KEY, customer int NOT NULL, amount numeric(12, 2) NOT NULL, note text NOT NULL, at timestamptz NOT NULL`;

export const accountRows = (table: string, from: string, to: string | number): string =>
  `INSERT INTO ${table} SELECT g, g % 10007, (g % 100000) / 7.0, 'note of row ' || g || ' ' || repeat('x', (g % 40)::int), clock_timestamp()
   FROM generate_series(${from}::bigint, ${to}) g`;
