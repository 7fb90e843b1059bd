/**
 * What shall go wrong, each fault once unless a number is given. A test that plans a fault asserts afterwards that it was
 * used: `pending` is empty then.
 */
export class KernelFaults {
  readonly #applyErrnos: string[] = [];
  readonly #repliesKept: number[] = [];
  readonly #slowDumpsMs: number[] = [];
  readonly #dumpErrnos: string[] = [];
  #interruptions = 0;

  /** The next batch is refused: every change of it fails with this errno and changes nothing. */
  failNextApply(errno: string): void {
    this.#applyErrnos.push(errno);
  }

  /** The next batch takes effect, but only the first `kept` answers arrive (ENOBUFS): the others are unknown. */
  loseNextReplies(kept = 0): void {
    this.#repliesKept.push(kept);
  }

  /** The next `times` dumps run over a change; each is made again, ten in a row fail with EINTR. */
  interruptNextDump(times = 1): void {
    this.#interruptions += times;
  }

  /** The next dump takes `ms`: what it returns is what was there when it began. Needs a clock. */
  slowNextDump(ms: number): void {
    this.#slowDumpsMs.push(ms);
  }

  /** The next dump rejects with this errno. */
  failNextDump(errno: string): void {
    this.#dumpErrnos.push(errno);
  }

  /** Nothing more goes wrong. */
  clear(): void {
    for (const planned of [this.#applyErrnos, this.#repliesKept, this.#slowDumpsMs, this.#dumpErrnos])
      planned.length = 0;
    this.#interruptions = 0;
  }

  /** Names of the planned faults that have not happened yet. */
  get pending(): readonly string[] {
    return [
      ...this.#applyErrnos.map((errno) => `apply ${errno}`),
      ...this.#repliesKept.map(() => 'lost replies'),
      ...this.#slowDumpsMs.map(() => 'slow dump'),
      ...this.#dumpErrnos.map((errno) => `dump ${errno}`),
      ...(this.#interruptions > 0 ? [`${this.#interruptions} interrupted dumps`] : []),
    ];
  }

  takeApplyErrno(): string | undefined {
    return this.#applyErrnos.shift();
  }

  takeRepliesKept(): number | undefined {
    return this.#repliesKept.shift();
  }

  takeSlowDumpMs(): number | undefined {
    return this.#slowDumpsMs.shift();
  }

  takeDumpErrno(): string | undefined {
    return this.#dumpErrnos.shift();
  }

  takeInterruption(): boolean {
    if (this.#interruptions === 0) return false;
    this.#interruptions--;
    return true;
  }
}
