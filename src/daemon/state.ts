import type { RoutesStatus } from '../backend/hostgw/status.ts';
import type { Activity } from '../runtime/activity.ts';
import { joined } from '../runtime/texts.ts';
import { type Fault, FaultLog, type TroubleLog, type TroubleRecord } from '../runtime/trouble.ts';
import type { LeaseState } from '../subnet/lease/own-lease.ts';
import type { JunkKeys } from '../subnet/lease/watch/reader.ts';
import type { Parts } from './parts.ts';

/** Whether this host is ready; the reasons why not, one line each. */
export interface Readiness {
  readonly ready: boolean;
  readonly reasons: readonly string[];
  /** Faults of peers, which leave this host ready. */
  readonly degraded: readonly string[];
  /** Warnings, which leave this host ready. */
  readonly notices: readonly string[];
}

/** What this host has leased. Times are wall-clock, in ms. */
export interface LeaseView {
  readonly key: string;
  readonly state: LeaseState;
  /** One per family that is on: `172.20.9.0/24`. */
  readonly subnets: readonly string[];
  /** The addresses that peers route to. */
  readonly addresses: readonly string[];
  /** Absent: a reservation, which does not expire. */
  readonly expiresAtMs?: number;
}

/** This host's lease, peers and routes at one moment. */
export interface NetworkView extends RoutesStatus {
  /** Absent: not acquired yet. */
  readonly lease?: LeaseView;
  /** Whether the lease watch is up. */
  readonly watching: boolean;
  /** Number of valid leases in the cluster; absent before the first list. */
  readonly leases?: number;
  readonly junk: JunkKeys;
}

/** The state of the daemon at one moment. */
export interface Snapshot extends Readiness, NetworkView {
  readonly nowMs: number;
  readonly startedAtMs: number;
  /** One line: where the boot stands, or how many peers are routed. */
  readonly summary: string;
  /** The last troubles of each kind, oldest first, current and past. */
  readonly troubles: readonly KnownTrouble[];
}

/** Faults in the current state, beside reported troubles; the most important first. */
export type Faults = Readonly<Record<'reasons' | 'degraded' | 'notices', readonly Fault[]>>;

/** A trouble, and whom it concerns. */
export interface KnownTrouble extends TroubleRecord {
  readonly kind: 'own' | 'degraded' | 'notice';
}

/** The current membership, as the state uses it. */
export interface NetworkMember {
  /** Of each kind the first few, or the first `most`. */
  faults(most?: number): Faults;
  /** Undefined during the boot. */
  readonly summary: string | undefined;
  view(): NetworkView;
}

type StateOptions = Pick<Parts, 'clock' | 'log' | 'trouble' | 'notices' | 'activity'>;

/** What there is to see before the routes of a network are kept. */
export const nothingYet: NetworkView = {
  watching: false,
  counts: { peers: 0, routed: 0 },
  peers: [],
  refused: [],
  outside: [],
  junk: { count: 0, first: [] },
};
/** The log names more faults than a probe: people read it when the state is gone. */
const mostLogged = 50;
const nothingWrong: Faults = { reasons: [], degraded: [], notices: [] };

/**
 * The one state that probes, metrics, systemd and `flanneld-ts status` read. It keeps no copy: each answer
 * comes from the parts at work.
 */
export class State {
  readonly #options: StateOptions;
  readonly #startedAtMs: number;
  readonly #found: Readonly<Record<keyof Faults, FaultLog>>;
  #member: NetworkMember | undefined;
  #phase = '';
  #ready = false;

  constructor(options: StateOptions) {
    this.#options = options;
    this.#startedAtMs = options.clock.now();
    const faultLog = () => new FaultLog(options.clock, options.log);
    this.#found = { reasons: faultLog(), degraded: faultLog(), notices: faultLog() };
  }

  /** Counts since the start, and the deadlines of the loops. */
  get activity(): Activity {
    return this.#options.activity;
  }

  /** Notes that the boot has reached `phase`. */
  enter(phase: string): void {
    this.#phase = phase;
  }

  /** Notes that the boot is complete. */
  noteReady(): void {
    this.#ready = true;
  }

  /** Reads `member` from now on. */
  follow(member: NetworkMember): void {
    this.#member = member;
  }

  /** Whether this host is ready now, and if not, why. */
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

  /** Logs the faults of the current state. Call it every few seconds. */
  logFaults(): void {
    const faults = this.#faults(mostLogged);
    for (const kind of ['reasons', 'degraded', 'notices'] as const) this.#found[kind].look(faults[kind]);
  }

  /** During the boot there is always a reason. */
  #faults(most?: number): Faults {
    const faults = this.#member?.faults(most) ?? nothingWrong;
    if (this.#ready || faults.reasons.length > 0 || this.#options.trouble.current.length > 0) return faults;
    return { ...faults, reasons: [{ what: 'start', text: this.#phase || 'starting', passing: true }] };
  }

  /** The line in `systemctl status`: the summary, then problems, faults of peers and notices. */
  statusLine(): string {
    const { reasons, degraded, notices } = this.readiness();
    // During the boot, the summary names its step.
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
