/**
 * Return the value of a script of the page, which a template tag wrote; else `{}`.
 *
 * Only a script counts: a visitor's HTML in the page may have an element with the same id.
 */
export function pageSettings(id: string): Record<string, any> {
  return JSON.parse(globalThis.document?.querySelector("script#" + id)?.textContent || "{}");
}
