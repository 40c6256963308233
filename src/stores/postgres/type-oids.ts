import type { Rows } from '../../model/rows.ts';
import type { Tuple } from '../../model/tuple.ts';
import { literal } from './connection.ts';
import { OWN_SCHEMA } from './layout.ts';
import type { Wire } from './wire.ts';

/**
 * Where the binary form of a type holds OIDs of types: arrays name their element's, composites each field's. Those of types that users
 * made differ from one database to another, and a server refuses values that name another type than its own.
 * The OIDs here are those of the database the shape was read in.
 */
export type OidShape =
  | { readonly kind: 'array'; readonly element: number; readonly inner: OidShape | null }
  | { readonly kind: 'composite'; readonly fields: readonly { readonly type: number; readonly inner: OidShape | null }[] };

/** By index of the column; columns that name no type of a user's are left out. */
export type OidShapes = readonly (readonly [column: number, shape: OidShape])[];

/** Types below are the system's, the same in every database. Those of information_schema come after, with numbers of each version's own. */
const FIRST_USER_OID = 10_000;

interface TypeRow {
  readonly kind: string;
  readonly base: number;
  readonly element: number;
  readonly fields: readonly number[];
}

/** Shapes of columns by their types' names, as this database has them. */
export async function readOidShapes(wire: Wire, types: readonly string[]): Promise<OidShapes> {
  const shapes: [number, OidShape][] = [];
  const known = new Map<number, TypeRow>();
  for (const [index, type] of types.entries()) {
    const shape = await readOidShape(wire, type, known);
    if (shape !== null) shapes.push([index, shape]);
  }
  return shapes;
}

/** Null: values of the type name no type of a user's. */
export async function readOidShape(wire: Wire, type: string, known = new Map<number, TypeRow>()): Promise<OidShape | null> {
  const [found] = await wire.query(`SELECT ${literal(type)}::regtype::oid`);
  return shapeOf(wire, Number(found?.rows[0]?.[0]), known);
}

async function shapeOf(wire: Wire, oid: number, known: Map<number, TypeRow>): Promise<OidShape | null> {
  const type = known.get(oid) ?? (await readType(wire, oid));
  known.set(oid, type);
  if (type.kind === 'd') return shapeOf(wire, type.base, known);
  if (type.kind === 'array') {
    const inner = await shapeOf(wire, type.element, known);
    return type.element >= FIRST_USER_OID || inner !== null ? { kind: 'array', element: type.element, inner } : null;
  }
  if (type.kind !== 'c') return null;
  const fields: { type: number; inner: OidShape | null }[] = [];
  for (const field of type.fields) fields.push({ type: field, inner: await shapeOf(wire, field, known) });
  return fields.some((field) => field.type >= FIRST_USER_OID || field.inner !== null) ? { kind: 'composite', fields } : null;
}

async function readType(wire: Wire, oid: number): Promise<TypeRow> {
  const [found] = await wire.query(
    `SELECT CASE WHEN t.typelem <> 0 AND t.typlen = -1 AND t.typcategory = 'A' THEN 'array' ELSE t.typtype::text END, t.typbasetype, t.typelem,
       (SELECT string_agg(a.atttypid::text, ',' ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped)
     FROM pg_type t WHERE t.oid = ${oid}`,
  );
  const [kind, base, element, fields] = found?.rows[0] ?? [];
  return {
    kind: kind ?? '',
    base: Number(base),
    element: Number(element),
    fields: (fields ?? '') === '' ? [] : (fields ?? '').split(',').map(Number),
  };
}

/** Called for each OID of a user's type: what this database calls it, and what stands there. Returns what shall stand there. */
type Exchange = (here: number, there: number) => number;

/** The row with its OIDs exchanged: a copy; its lengths stay. */
export function exchangeOids(row: Tuple, shapes: OidShapes, exchange: Exchange): Tuple {
  if (shapes.length === 0) return row;
  const copy = Buffer.from(row) as Buffer as Tuple;
  let at = 2;
  let column = 0;
  for (const [index, shape] of shapes) {
    for (; column < index; column++) at += 4 + Math.max(copy.readInt32BE(at), 0);
    if (copy.readInt32BE(at) > 0) exchangeIn(copy, at + 4, shape, exchange);
  }
  return copy;
}

function exchangeIn(bytes: Buffer, start: number, shape: OidShape, exchange: Exchange): void {
  if (shape.kind === 'array') {
    const dimensions = bytes.readInt32BE(start);
    exchangeOne(bytes, start + 8, shape.element, exchange);
    if (shape.inner === null || dimensions === 0) return;
    let elements = 1;
    for (let i = 0; i < dimensions; i++) elements *= bytes.readInt32BE(start + 12 + 8 * i);
    let at = start + 12 + 8 * dimensions;
    for (let i = 0; i < elements; i++) at = exchangeValue(bytes, at, shape.inner, exchange);
    return;
  }
  let at = start + 4;
  for (const field of shape.fields) {
    exchangeOne(bytes, at, field.type, exchange);
    at = exchangeValue(bytes, at + 4, field.inner, exchange);
  }
}

/** A value with its length before it. Returns where it ends. */
function exchangeValue(bytes: Buffer, at: number, shape: OidShape | null, exchange: Exchange): number {
  const length = bytes.readInt32BE(at);
  if (length > 0 && shape !== null) exchangeIn(bytes, at + 4, shape, exchange);
  return at + 4 + Math.max(length, 0);
}

function exchangeOne(bytes: Buffer, at: number, here: number, exchange: Exchange): void {
  if (here >= FIRST_USER_OID) bytes.writeUInt32BE(exchange(here, bytes.readUInt32BE(at)), at);
}

/**
 * Rows come and go as the primary has them, to the byte; in the shadow they stand with the shadow's OIDs. The primary's are learned
 * from the rows themselves, and kept in `_foreshadow.type_oid` from the transaction that brings them.
 */
export class ArrivingOids {
  readonly #shapes: OidShapes;
  readonly #learned = new Map<number, number>();

  constructor(shapes: OidShapes) {
    this.#shapes = shapes;
  }

  readonly take = (row: Tuple): Tuple =>
    exchangeOids(row, this.#shapes, (here, there) => {
      this.#learned.set(here, there);
      return here;
    });

  /** Rows need no look. */
  get none(): boolean {
    return this.#shapes.length === 0;
  }

  takeAll(rows: Rows): Rows {
    return this.#shapes.length === 0 ? rows : Array.from(rows, this.take);
  }

  async save(wire: Wire): Promise<void> {
    if (this.#learned.size === 0) return;
    const pairs = [...this.#learned].map(([here, there]) => `(${here}, ${there})`);
    await wire.query(
      `INSERT INTO ${OWN_SCHEMA}.type_oid (here, there) VALUES ${pairs.join(', ')}
       ON CONFLICT (here) DO UPDATE SET there = excluded.there WHERE type_oid.there <> excluded.there`,
    );
    this.#learned.clear();
  }
}

/** Gives rows of the shadow the primary's OIDs again. */
export async function leavingOids(wire: Wire, shapes: OidShapes): Promise<(row: Tuple) => Tuple> {
  if (shapes.length === 0) return (row) => row;
  const [found] = await wire.query(`SELECT here, there FROM ${OWN_SCHEMA}.type_oid`);
  const known = new Map((found?.rows ?? []).map(([here, there]) => [Number(here), Number(there)]));
  return (row) => exchangeOids(row, shapes, (here, there) => known.get(here) ?? there);
}
