/** Return the value of a JSON element of the page, which a template tag wrote; else `{}`. */
export function pageSettings(id: string): Record<string, any> {
  return JSON.parse(globalThis.document?.getElementById(id)?.textContent || "{}");
}
