/** The texts one after the other; a stop at the end of one would stand beside the separator. */
export function joined(texts: readonly string[], separator: string): string {
  return texts
    .map((text, index) => (index < texts.length - 1 ? text.replace(/(?<!\.)\.$/, '') : text))
    .join(separator);
}
