/** Randomness, as the core sees it: seeded in simulation, the system's generator in production. */
export interface Random {
  /** A number in [0, 1). */
  next(): number;
}

/** An integer in [0, bound), uniformly; `bound` must be a positive safe integer. */
export function randomInt(random: Random, bound: number): number {
  return Math.min(bound - 1, Math.floor(random.next() * bound));
}
