/** The word that goes with `count` things: `plural(n, 'is', 'are')`, `plural(n, 'peer')`. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return count === 1 ? one : many;
}

/** `1 lease`, `2 leases`; what stands before the noun belongs into both words: `counted(n, 'more lease')`. */
export function counted(count: number, one: string, many?: string): string {
  return `${count} ${plural(count, one, many)}`;
}
