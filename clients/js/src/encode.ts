export type Frame = string | Blob | BufferSource;

/**
 * Return data as it is sent: text and binary data as they are, anything else as JSON.
 *
 * @throws TypeError when the data has no JSON form.
 */
export function encode(data: string | object): string;
export function encode(data: unknown): Frame;
export function encode(data: unknown): Frame {
  if (data instanceof Blob || data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    return data as Blob | BufferSource;
  }
  const text = typeof data === "string" ? data : JSON.stringify(data);
  if (text === undefined) throw new TypeError(`${typeof data} has no JSON form`);
  return text;
}
