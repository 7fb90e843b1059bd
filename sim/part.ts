import { TroubleLog } from '../src/runtime/trouble.ts';
import { VirtualClock } from './clock.ts';
import { SimLog } from './log.ts';
import { SeededRandom } from './random.ts';

/** One part of a daemon at work alone: the clock, log, chance and troubles that it is given, and its run until it is stopped. */
export class SimPart {
  readonly clock = new VirtualClock();
  readonly log = new SimLog(this.clock);
  readonly trouble = new TroubleLog(this.clock, this.log.of('h0'));
  readonly random: SeededRandom;
  readonly #controller = new AbortController();
  readonly #closers: (() => void)[] = [];
  #ended: Promise<unknown> = Promise.resolve();

  constructor(seed = 1) {
    this.random = new SeededRandom(seed);
  }

  /** What every part is given. */
  get outside() {
    const { clock, random, trouble } = this;
    return { clock, random, log: this.log.of('h0'), trouble };
  }

  begin(run: (signal: AbortSignal) => Promise<unknown>): void {
    this.#ended = run(this.#controller.signal).catch((error: unknown) => error);
  }

  /** Has something closed once the part has ended. */
  atEnd(close: () => void): void {
    this.#closers.push(close);
  }

  /** Stops it as a signal does; resolves to what its run rejected with, and rejects when something is left on the clock. */
  async stop(): Promise<unknown> {
    this.#controller.abort(new Error('stopped'));
    const outcome = await this.#ended;
    for (const close of this.#closers.splice(0)) close();
    await this.clock.settle();
    if (this.clock.pending > 0) throw new Error(`${this.clock.pending} timers are left`);
    return outcome;
  }
}
