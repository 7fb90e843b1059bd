import type { Clock, LogFields, Logger } from './effects.ts';
import { isBug, messageOf } from './errors.ts';

const minuteMs = 60_000;
/** A trouble is logged again after ten minutes, then after twice as long each time, up to six hours. */
const firstRepeatMs = 10 * minuteMs;
const lastRepeatMs = 6 * 60 * minuteMs;
/** A new message is logged at once, within a limit: so many lines at a time, and one more every twenty minutes. */
const burst = 6;
const perLineMs = 20 * minuteMs;
/** How many past troubles are remembered. */
const remembered = 20;

/** A present or past trouble. */
export interface TroubleRecord {
  readonly what: string;
  /** The newest. */
  readonly message: string;
  /** Wall-clock ms. */
  readonly sinceMs: number;
  /** Wall-clock ms; absent while it lasts. */
  readonly overMs?: number;
  readonly attempts: number;
}

interface Trouble {
  readonly sinceWallMs: number;
  readonly sinceMs: number;
  /** Messages logged already. */
  readonly said: Set<string>;
  /** Mistakes in the program whose stack was logged, by their own message: `message` may name a time that passes. */
  readonly bugs: Set<string>;
  message: string;
  attempts: number;
  repeatMs: number;
  repeatAtMs: number;
}

/**
 * Logs persistent problems ("troubles"): once when one begins, at once when its message changes, then at growing intervals, and once
 * when it ends. A daemon that waits a day for etcd leaves a handful of lines, not fifty thousand, also when messages alternate or the
 * trouble comes and goes.
 */
export class TroubleLog {
  readonly #troubles = new Map<string, Trouble>();
  /** By trouble: when its allowance of lines is full again. Kept when a trouble ends, because it may come back. */
  readonly #refilledAtMs = new Map<string, number>();
  #past: readonly TroubleRecord[] = [];
  /** Called when `current` has changed. */
  onChange: () => void = () => {};
  readonly #clock: Clock;
  readonly #log: Logger;

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#log = log;
  }

  /** The newest message of each present trouble, oldest trouble first: the reasons for not being ready. */
  get current(): readonly string[] {
    return [...this.#troubles.values()].map(({ message }) => message);
  }

  /** The last past troubles, then the present ones; each oldest first. */
  get records(): readonly TroubleRecord[] {
    return [...this.#past, ...[...this.#troubles].map(([what, trouble]) => recordOf(what, trouble))];
  }

  /** Whether `what` is in trouble now. */
  has(what: string): boolean {
    return this.#troubles.has(what);
  }

  /**
   * Notes that `what` (a stable name such as `etcd`) is in trouble. `error` among the fields is what was caught: `message`
   * says all that is known of it, unless it is a mistake in the program; then the line is an error, and
   * the first one carries the stack.
   */
  report(what: string, message: string, { error, ...fields }: LogFields = {}): void {
    const trouble = this.#entryOf(what, message);
    trouble.attempts++;
    this.#say(what, trouble, error, fields);
  }

  /** The same for a trouble found by looking, not by trying: counts no attempt. `logged`: this message is in the log already. */
  note(what: string, message: string, logged = false): void {
    const trouble = this.#entryOf(what, message);
    trouble.attempts = 1;
    if (logged) trouble.said.add(message);
    this.#say(what, trouble);
  }

  #entryOf(what: string, message: string): Trouble {
    const nowMs = this.#clock.monotonic();
    const known = this.#troubles.get(what);
    const trouble = known ?? {
      sinceMs: nowMs,
      sinceWallMs: this.#clock.now(),
      said: new Set<string>(),
      bugs: new Set<string>(),
      message,
      attempts: 0,
      repeatMs: firstRepeatMs,
      repeatAtMs: nowMs + firstRepeatMs,
    };
    const isNew = known === undefined || trouble.message !== message;
    this.#troubles.set(what, trouble);
    trouble.message = message;
    if (isNew) this.onChange();
    return trouble;
  }

  #say(what: string, trouble: Trouble, error?: unknown, fields: LogFields = {}): void {
    const nowMs = this.#clock.monotonic();
    const { message } = trouble;
    if (!this.#mayBeSaid(what, trouble, nowMs)) return;
    const lasting =
      trouble.said.size === 0 && trouble.attempts === 1
        ? {}
        : { attempts: trouble.attempts, lastingS: Math.round((nowMs - trouble.sinceMs) / 1000) };
    trouble.said.add(message);
    const line = { event: 'trouble', what, ...lasting, ...fields };
    if (!isBug(error)) return this.#log.warn(line, message);
    this.#log.error(trouble.bugs.has(messageOf(error)) ? line : { ...line, error }, message);
    trouble.bugs.add(messageOf(error));
  }

  /** Notes that `what` works; logs `message` if its trouble was logged. */
  clear(what: string, message: string, fields: LogFields = {}): void {
    const trouble = this.#troubles.get(what);
    if (trouble === undefined) return;
    this.#troubles.delete(what);
    const over = { ...recordOf(what, trouble), overMs: this.#clock.now() };
    this.#past = [...this.#past.slice(1 - remembered), over];
    this.onChange();
    if (trouble.said.size === 0) return;
    const lastedS = Math.round((this.#clock.monotonic() - trouble.sinceMs) / 1000);
    this.#log.info({ event: 'trouble-over', what, attempts: trouble.attempts, lastedS, ...fields }, message);
  }

  #mayBeSaid(what: string, trouble: Trouble, nowMs: number): boolean {
    if (!trouble.said.has(trouble.message)) return this.#takeLine(what, nowMs);
    if (nowMs < trouble.repeatAtMs) return false;
    trouble.repeatMs = Math.min(2 * trouble.repeatMs, lastRepeatMs);
    trouble.repeatAtMs = nowMs + trouble.repeatMs;
    return true;
  }

  #takeLine(what: string, nowMs: number): boolean {
    const refilledAtMs = Math.max(nowMs, this.#refilledAtMs.get(what) ?? 0) + perLineMs;
    if (refilledAtMs > nowMs + burst * perLineMs) return false;
    this.#refilledAtMs.set(what, refilledAtMs);
    return true;
  }
}

function recordOf(what: string, { message, sinceWallMs, attempts }: Trouble): TroubleRecord {
  return { what, message, sinceMs: sinceWallMs, attempts };
}

/** A problem found by looking at a state, in words for people. */
export interface Fault {
  /** Stays the same while the words change: how many peers it concerns, for instance. */
  readonly what: string;
  readonly text: string;
  /** It mostly passes within moments; it is logged only when it does not. */
  readonly passing?: true;
  /** Since when (wall-clock ms), where that is known exactly. */
  readonly sinceMs?: number;
  /** The log has its beginning already. */
  readonly logged?: true;
}

/** How long a passing fault is not logged. */
const passesMs = 5_000;

/**
 * Logs faults found by looking at a state as {@link TroubleLog} logs reported ones: each when it begins, at growing intervals while it
 * lasts, and when it ends.
 */
export class FaultLog {
  readonly #clock: Clock;
  readonly #troubles: TroubleLog;
  /** Of the last look, since when (wall-clock ms), by what. */
  #found: ReadonlyMap<string, { readonly text: string; readonly sinceMs: number }> = new Map();

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#troubles = new TroubleLog(clock, log);
  }

  /** The last past faults, then the present ones; each oldest first. */
  get records(): readonly TroubleRecord[] {
    return this.#troubles.records;
  }

  /** Takes in all faults that there are now. */
  look(faults: readonly Fault[]): void {
    const nowMs = this.#clock.now();
    const before = this.#found;
    this.#found = new Map(
      faults.map(({ what, text, sinceMs = before.get(what)?.sinceMs ?? nowMs }) => [what, { text, sinceMs }]),
    );
    for (const [what, { text }] of before)
      if (!this.#found.has(what)) this.#troubles.clear(what, `over: ${text}`);
    for (const { what, text, passing, logged } of faults) {
      const { sinceMs = nowMs } = this.#found.get(what) ?? {};
      if (passing !== true || nowMs - sinceMs >= passesMs)
        this.#troubles.note(what, text, logged === true && !this.#troubles.has(what));
    }
  }
}
