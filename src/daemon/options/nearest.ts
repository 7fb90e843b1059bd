/** The name most like `text`, or undefined when none is like it: more than a third of it would have to change. */
export function nearestName(text: string, names: readonly string[]): string | undefined {
  const wanted = text.toLowerCase().slice(0, 64);
  let nearest: string | undefined;
  let best = Math.max(1, Math.floor(wanted.length / 3)) + 1;
  for (const name of names) {
    const changes = editDistance(wanted, name.toLowerCase());
    // One letter is like any other letter: a suggestion must share something with what was written.
    if (changes < best && changes < name.length) {
      nearest = name;
      best = changes;
    }
  }
  return nearest;
}

/** Levenshtein's distance: how many letters to insert, delete or exchange. */
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
