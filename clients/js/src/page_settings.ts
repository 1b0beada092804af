/**
 * Return the value of the script `tiderace-<name>`, which a template tag wrote; else `{}`.
 *
 * Only a script counts: a visitor's HTML in the page may have an element with the same id.
 */
export function pageSettings(name: "config" | "positions"): Record<string, any> {
  return JSON.parse(globalThis.document?.querySelector("script#tiderace-" + name)?.textContent || "{}");
}
