import { nearestTo } from '../../runtime/nearest.ts';

/** The name most like `text`, or undefined when none is like it: more than a third of it would have to change. */
export function nearestName(text: string, names: readonly string[]): string | undefined {
  const wanted = text.toLowerCase().slice(0, 64);
  const most = Math.max(1, Math.floor(wanted.length / 3));
  const byFolded = new Map(names.map((name) => [name.toLowerCase(), name]));
  // One letter is like any other letter: a suggestion must share something with what was written.
  const nearest = nearestTo(wanted, byFolded.keys(), (name) => Math.min(most, name.length - 1));
  return nearest === undefined ? undefined : byFolded.get(nearest);
}
