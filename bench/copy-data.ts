import { count } from './catchup-workload.ts';

/** About 2 GB in the primary's files at scale 1, in tables of four kinds. */
export interface CopiedTable {
  readonly name: string;
  readonly kind: string;
  readonly schema: string;
  readonly rows: (scale: number) => string;
}

const series = (full: number, scale: number): string => `generate_series(1, ${count(full, scale)}) n`;

/** Text that does not compress to nothing. */
const noise = (pieces: number): string => `(SELECT string_agg(md5(n || ' ' || k), '') FROM generate_series(1, ${pieces}) k)`;

export const COPIED: readonly CopiedTable[] = [
  {
    name: 'accounts',
    kind: 'as pgbench has it, keys ascending',
    schema: 'CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))',
    rows: (scale) => `INSERT INTO accounts SELECT n, n / 100000, 0, '' FROM ${series(6_000_000, scale)}`,
  },
  {
    name: 'people',
    kind: 'twelve columns, random keys',
    schema: `CREATE TABLE people (id uuid PRIMARY KEY, name text NOT NULL, mail text, street text, town text, country char(2), born date,
      balance numeric(12, 2), note text, active boolean, made timestamptz, tags text[])`,
    rows: (
      scale,
    ) => `INSERT INTO people SELECT md5('person ' || n)::uuid, 'name ' || n, md5(n::text) || '@example.org', md5('street ' || n),
      'town ' || n % 5000, 'CH', date '1940-01-01' + n % 25000, n % 100000 / 7.0, repeat('a note ', n % 20), n % 3 = 0,
      timestamptz '2020-01-01' + n * interval '1 second', ARRAY['tag ' || n % 10, 'tag ' || n % 7] FROM ${series(1_500_000, scale)}`,
  },
  {
    name: 'documents',
    kind: 'values kept out of line',
    schema: 'CREATE TABLE documents (id bigint PRIMARY KEY, title text NOT NULL, body text NOT NULL)',
    rows: (scale) => `INSERT INTO documents SELECT n, 'document ' || n, ${noise(190)} FROM ${series(100_000, scale)}`,
  },
  {
    name: 'links',
    kind: 'nothing but a key of two columns',
    schema: 'CREATE TABLE links (a bigint, b int, PRIMARY KEY (a, b))',
    rows: (scale) => `INSERT INTO links SELECT n / 3, n FROM ${series(6_000_000, scale)}`,
  },
];
