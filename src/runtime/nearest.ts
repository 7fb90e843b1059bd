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
