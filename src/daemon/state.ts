import type { RoutesStatus } from '../backend/hostgw/status.ts';
import type { Activity } from '../runtime/activity.ts';
import type { Clock, Logger } from '../runtime/effects.ts';
import { joined } from '../runtime/texts.ts';
import { type Fault, FaultLog, type TroubleLog, type TroubleRecord } from '../runtime/trouble.ts';
import type { LeaseState } from '../subnet/lease/own-lease.ts';
import type { JunkKeys } from '../subnet/lease/watch/reader.ts';

/** Whether the daemon does its work; the reasons why not, one line each. */
export interface Readiness {
  readonly ready: boolean;
  readonly reasons: readonly string[];
  /** Faults of peers, one line each: this host is ready all the same. */
  readonly degraded: readonly string[];
  /** What the operator should know although all is well, one line each. */
  readonly notices: readonly string[];
}

/** What this host has leased. Times are wall-clock, in ms. */
export interface LeaseView {
  readonly key: string;
  readonly state: LeaseState;
  /** One per family that is on: `172.20.9.0/24`. */
  readonly subnets: readonly string[];
  /** Where peers send to. */
  readonly addresses: readonly string[];
  /** Absent: a reservation, which does not end. */
  readonly expiresAtMs?: number;
}

/** A host's part in the network just now. */
export interface NetworkView extends RoutesStatus {
  /** Absent: not acquired yet. */
  readonly lease?: LeaseView;
  /** Whether what is known of the leases is the newest there is. */
  readonly watching: boolean;
  /** How many leases of the cluster can be read; absent before they have been listed. */
  readonly leases?: number;
  readonly junk: JunkKeys;
}

/** Everything there is to tell of the daemon at one moment. */
export interface Snapshot extends Readiness, NetworkView {
  readonly nowMs: number;
  readonly startedAtMs: number;
  /** One line: where the boot stands, or how many peers are routed. */
  readonly summary: string;
  /** The last troubles of each kind, oldest first; those that are over, too. */
  readonly troubles: readonly KnownTrouble[];
}

/** What is found by looking, beside the troubles that are reported; each in the order of importance. */
export type Faults = Readonly<Record<'reasons' | 'degraded' | 'notices', readonly Fault[]>>;

/** A trouble, and how much it matters. */
export interface KnownTrouble extends TroubleRecord {
  readonly kind: 'own' | 'degraded' | 'notice';
}

/** What the state asks of the membership there is just now. */
export interface Member {
  /** What there is to say just now beside the troubles that are reported; of each kind the first few, or the first `most`. */
  faults(most?: number): Faults;
  /** Undefined while the boot is not over. */
  readonly summary: string | undefined;
  view(): NetworkView;
}

export interface StateOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  readonly notices: TroubleLog;
  readonly activity: Activity;
}

const nothingYet: NetworkView = {
  watching: false,
  peers: [],
  refused: [],
  outside: [],
  junk: { count: 0, first: [] },
};
/** The log names more than a probe does: it is read later, when nobody can be asked any more. */
const mostLogged = 50;
const nothingWrong: Faults = { reasons: [], degraded: [], notices: [] };

/**
 * What the daemon says of itself, to whom it may be: probes, metrics, systemd, `flanneld-ts status`. It holds nothing that it
 * could be late with: every answer is asked of the parts at work.
 */
export class State {
  readonly #options: StateOptions;
  readonly #startedAtMs: number;
  readonly #found: Readonly<Record<keyof Faults, FaultLog>>;
  #member: Member | undefined;
  #phase = '';
  #ready = false;

  constructor(options: StateOptions) {
    this.#options = options;
    this.#startedAtMs = options.clock.now();
    const faultLog = () => new FaultLog(options.clock, options.log);
    this.#found = { reasons: faultLog(), degraded: faultLog(), notices: faultLog() };
  }

  /** Counts since the start, and whether the loops come round. */
  get activity(): Activity {
    return this.#options.activity;
  }

  /** The boot has come to `phase`. */
  enter(phase: string): void {
    this.#phase = phase;
  }

  /** Everything was done a first time. */
  noteReady(): void {
    this.#ready = true;
  }

  /** From now on `member` is asked. */
  follow(member: Member): void {
    this.#member = member;
  }

  /** Whether this host does its part in the network just now, and if not, why. */
  readiness(): Readiness {
    const { trouble, notices } = this.#options;
    const faults = this.#faults();
    const reasons = [...trouble.current, ...textsOf(faults.reasons)];
    return {
      ready: this.#ready && reasons.length === 0,
      reasons,
      degraded: textsOf(faults.degraded),
      notices: [...notices.current, ...textsOf(faults.notices)],
    };
  }

  /** Has faults logged that are found by looking; to be called every few seconds. */
  logFaults(): void {
    const faults = this.#faults(mostLogged);
    for (const kind of ['reasons', 'degraded', 'notices'] as const) this.#found[kind].look(faults[kind]);
  }

  /** While the boot goes on there is a reason in any case. */
  #faults(most?: number): Faults {
    const faults = this.#member?.faults(most) ?? nothingWrong;
    if (this.#ready || faults.reasons.length > 0 || this.#options.trouble.current.length > 0) return faults;
    return { ...faults, reasons: [{ what: 'start', text: this.#phase || 'starting', passing: true }] };
  }

  /** For `systemctl status`: where the boot stands, or how many peers are routed, the troubles, those of peers, the notices. */
  statusLine(): string {
    const { reasons, degraded, notices } = this.readiness();
    // Before everything was done once the summary says where the boot stands.
    const said = this.#ready ? reasons : this.#options.trouble.current;
    return joined([this.#summary, ...said, ...degraded, ...notices], '; ');
  }

  snapshot(): Snapshot {
    const { clock, trouble, notices } = this.#options;
    const of = (kind: KnownTrouble['kind'], log: TroubleLog | FaultLog) =>
      log.records.map((record) => ({ ...record, kind }));
    const troubles = [
      ...of('own', trouble),
      ...of('own', this.#found.reasons),
      ...of('degraded', this.#found.degraded),
      ...of('notice', notices),
      ...of('notice', this.#found.notices),
    ];
    return {
      ...this.readiness(),
      ...(this.#member?.view() ?? nothingYet),
      nowMs: clock.now(),
      startedAtMs: this.#startedAtMs,
      summary: this.#summary,
      troubles: troubles.toSorted((a, b) => a.sinceMs - b.sinceMs),
    };
  }

  get #summary(): string {
    return this.#member?.summary ?? this.#phase;
  }
}

function textsOf(faults: readonly Fault[]): readonly string[] {
  return faults.map(({ text }) => text);
}
