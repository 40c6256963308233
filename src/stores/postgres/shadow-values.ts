/** OIDs of the types whose values are not shown as the text the server makes of them. */
const BOOL = 16;
const INT8 = 20;
const INT2 = 21;
const INT4 = 23;
const OID = 26;
const FLOAT4 = 700;
const FLOAT8 = 701;

/**
 * What a person is shown of a value the server gave as text: numbers where a JavaScript number is exact, booleans, and the server's text for
 * all else. Numerics stay text whatever their size: their scale is part of them.
 */
export function shownValue(type: number, text: string): unknown {
  switch (type) {
    case BOOL:
      return text === 't';
    case INT2:
    case INT4:
    case OID:
      return Number(text);
    case INT8: {
      const value = Number(text);
      return Number.isSafeInteger(value) ? value : text;
    }
    case FLOAT4:
    case FLOAT8: {
      const value = Number(text);
      return Number.isFinite(value) ? value : text;
    }
    default:
      return text;
  }
}
