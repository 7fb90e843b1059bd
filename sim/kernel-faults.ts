interface Planned {
  readonly apply: string[];
  readonly replies: number[];
  readonly 'slow dump': number[];
  readonly dump: string[];
}

/**
 * What shall go wrong, each fault once unless a number is given. A test that plans a fault asserts afterwards that it was
 * used: `pending` is empty then.
 */
export class KernelFaults {
  readonly #planned: Planned = { apply: [], replies: [], 'slow dump': [], dump: [] };
  #interruptions = 0;

  /** The next batch is refused: every change of it fails with this errno and changes nothing. */
  failNextApply(errno: string): void {
    this.#planned.apply.push(errno);
  }

  /** The next batch takes effect, but only the first `kept` answers arrive (ENOBUFS): the others are unknown. */
  loseNextReplies(kept = 0): void {
    this.#planned.replies.push(kept);
  }

  /** The next `times` dumps run over a change; each is made again, ten in a row fail with EINTR. */
  interruptNextDump(times = 1): void {
    this.#interruptions += times;
  }

  /** The next dump takes `ms`: what it returns is what was there when it began. Needs a clock. */
  slowNextDump(ms: number): void {
    this.#planned['slow dump'].push(ms);
  }

  /** The next dump rejects with this errno. */
  failNextDump(errno: string): void {
    this.#planned.dump.push(errno);
  }

  /** Nothing more goes wrong. */
  clear(): void {
    for (const values of Object.values(this.#planned)) values.length = 0;
    this.#interruptions = 0;
  }

  /** The planned faults that have not happened yet. */
  get pending(): readonly string[] {
    const interrupted = this.#interruptions > 0 ? [`${this.#interruptions} interrupted dumps`] : [];
    return [...Object.entries(this.#planned).flatMap(([kind, all]) => all.map(() => kind)), ...interrupted];
  }

  /** The next planned fault of this kind, which happens by that. */
  take<Kind extends keyof Planned>(kind: Kind): Planned[Kind][number] | undefined {
    return this.#planned[kind].shift();
  }

  takeInterruption(): boolean {
    if (this.#interruptions === 0) return false;
    this.#interruptions--;
    return true;
  }
}
