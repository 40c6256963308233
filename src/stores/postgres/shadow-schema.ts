import { literal } from './connection.ts';
import { GUARD_TRUNCATE } from './guard.ts';
import { OWN_SCHEMA } from './layout.ts';

/**
 * The tables of ours, in the schema `_foreshadow`. JSON is kept as text: it comes back as it was written.
 * Captures, generations and tokens are bigint, positions text of fixed width in the "C" collation.
 */
export const OWN_TABLES = [
  `CREATE SCHEMA IF NOT EXISTS ${OWN_SCHEMA}`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.claim (
     one boolean PRIMARY KEY DEFAULT true CHECK (one), token bigint NOT NULL, holder text NOT NULL, process integer NOT NULL,
     claimed_at timestamptz NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.segment (
     id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, table_name text NOT NULL, first_capture bigint NOT NULL,
     last_capture bigint, schema text NOT NULL, types text NOT NULL, storage integer NOT NULL, home text, stored text NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.progress (
     table_name text PRIMARY KEY, segment integer NOT NULL, state text NOT NULL, generation bigint NOT NULL,
     low text COLLATE "C" NOT NULL, high text COLLATE "C" NOT NULL, capture bigint NOT NULL,
     written bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50)`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.type_oid (here oid PRIMARY KEY, there oid NOT NULL)`,
  // What a cut moves on is kept apart from progress, whose rows an apply holds locked: so a cut never waits for one.
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.left_out (table_name text PRIMARY KEY, capture bigint NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.capture (number bigint PRIMARY KEY, record text NOT NULL, schema text)`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.schema (digest text PRIMARY KEY, schema text NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.seal (
     number bigint NOT NULL, table_name text NOT NULL, rows bigint NOT NULL, sums bytea NOT NULL, PRIMARY KEY (number, table_name))`,
  `CREATE TABLE IF NOT EXISTS ${OWN_SCHEMA}.document (name text PRIMARY KEY, value text NOT NULL)`,
  GUARD_TRUNCATE,
  `CREATE OR REPLACE FUNCTION ${OWN_SCHEMA}.absent(reason text) RETURNS boolean LANGUAGE plpgsql
     SET search_path = pg_catalog, pg_temp AS ${literal(`BEGIN RAISE EXCEPTION '%', reason USING ERRCODE = 'FS001'; END`)}`,
];

export const EXISTS = `SELECT to_regclass('${OWN_SCHEMA}.document') IS NOT NULL`;
