/**
 * The binary form of a one-dimensional array (`array_send`): number of dimensions, whether there are NULLs, type of the elements, their
 * number, lower bound; then the elements, each with its length before it as in a tuple.
 */
export const ARRAY_HEAD_BYTES = 20;

/** Writes what stands before the elements; returns where that ends. */
export function writeArrayHead(bytes: Buffer, at: number, elementType: number, count: number, hasNull: boolean): number {
  bytes.writeInt32BE(1, at);
  bytes.writeInt32BE(hasNull ? 1 : 0, at + 4);
  bytes.writeUInt32BE(elementType, at + 8);
  bytes.writeInt32BE(count, at + 12);
  return bytes.writeInt32BE(1, at + 16);
}

export function binaryArray(elementType: number, elements: readonly (Buffer | null)[]): Buffer {
  let size = ARRAY_HEAD_BYTES;
  for (const element of elements) size += 4 + (element?.length ?? 0);
  const bytes = Buffer.allocUnsafe(size);
  let at = writeArrayHead(bytes, 0, elementType, elements.length, elements.includes(null));
  for (const element of elements) {
    at = bytes.writeInt32BE(element?.length ?? -1, at);
    if (element !== null) at += element.copy(bytes, at);
  }
  return bytes;
}
