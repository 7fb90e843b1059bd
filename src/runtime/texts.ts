/** The singular or the plural, by `count`: `plural(n, 'is', 'are')`, `plural(n, 'peer')`. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return count === 1 ? one : many;
}

/** `1 lease`, `2 leases`; an adjective goes into both words: `counted(n, 'more lease')`. */
export function counted(count: number, one: string, many?: string): string {
  return `${count} ${plural(count, one, many)}`;
}

/** Rows of cells as lines, each column as wide as its widest cell; the last cell of a row may be of any length. */
export function aligned(rows: readonly (readonly string[])[]): readonly string[] {
  const widths: number[] = [];
  for (const row of rows)
    row.forEach((cell, column) => (widths[column] = Math.max(widths[column] ?? 0, cell.length)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(column < row.length - 1 ? (widths[column] ?? 0) : 0))
      .join('  ')
      .trimEnd(),
  );
}

/** The texts joined by the separator, without the full stops that would precede it. */
export function joined(texts: readonly string[], separator: string): string {
  return texts
    .map((text, index) => (index < texts.length - 1 ? text.replace(/(?<!\.)\.$/, '') : text))
    .join(separator);
}

/**
 * Text from outside, made fit for one log line: control, bidirectional and other invisible characters, and blanks and dashes
 * that only look like those of ASCII, are written as `\u001b`, and what exceeds `maxLength` characters is cut and marked with `…`.
 */
export function excerpt(text: string, maxLength = 100): string {
  // \p{C} includes lone surrogates, also the half of a pair that the cut leaves behind.
  const shown = text.slice(0, maxLength).replaceAll(/(?![ -])[\p{C}\p{Z}\p{Pd}\u2212]/gu, escaped);
  return text.length > maxLength ? `${shown}…` : shown;
}

/** The characters as `\u001b`, UTF-16 unit by unit. */
export function escaped(characters: string): string {
  return characters
    .split('')
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
    .join('');
}

/** JSON with every control character of its texts escaped; JSON itself leaves DEL, C1 and U+2028 as they are. */
export function escapeControls(json: string): string {
  return json.replaceAll(/[\u007f-\u009f\u2028\u2029]/g, escaped);
}

/** The text with a space for every run of control characters and newlines, none at its ends. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();
}

/**
 * The name that is the fewest letters to insert, delete or exchange away from `text`, the first of several; undefined when all
 * are further away than `mostChanges` allows for them.
 */
export function nearestTo(
  text: string,
  names: Iterable<string>,
  mostChanges: (name: string) => number,
): string | undefined {
  let nearest: string | undefined;
  let fewest = Number.POSITIVE_INFINITY;
  for (const name of names) {
    const changes = editDistance(text, name);
    if (changes < fewest && changes <= mostChanges(name)) [nearest, fewest] = [name, changes];
  }
  return nearest;
}

/** Levenshtein's distance. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 0; i < from.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j++) {
      const exchange = (row[j] ?? 0) + (from[i] === to[j] ? 0 : 1);
      next.push(Math.min(exchange, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
