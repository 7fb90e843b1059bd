import type { PeerRoute, RefusedLease } from '../backend/backend.ts';
import type { Activity } from '../runtime/activity.ts';
import type { Clock } from '../runtime/clock.ts';
import type { TroubleLog, TroubleRecord } from '../runtime/trouble.ts';
import type { LeaseState } from '../subnet/own-lease.ts';
import type { Readiness } from './health.ts';

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
export interface NetworkView {
  /** Absent: not had yet. */
  readonly lease?: LeaseView;
  /** Whether what is known of the leases is the newest there is. */
  readonly watching: boolean;
  /** How many leases of the cluster can be read. */
  readonly leases: number;
  readonly peers: readonly PeerRoute[];
  readonly refused: readonly RefusedLease[];
  /** When the routes were last seen to be as the leases want them; absent before the first time. */
  readonly syncedAtMs?: number;
}

/** Everything there is to tell of the daemon at one moment. */
export interface Snapshot extends Readiness, NetworkView {
  readonly nowMs: number;
  readonly startedAtMs: number;
  /** One line: where the boot stands, or how many peers are routed. */
  readonly summary: string;
  /** The last troubles, the newest last; those that are over, too. */
  readonly troubles: readonly TroubleRecord[];
}

/** What the state asks of the membership there is just now. */
export interface Member {
  readonly problems: readonly string[];
  /** Undefined while the boot is not over. */
  readonly summary: string | undefined;
  view(): NetworkView;
}

export interface StateOptions {
  readonly clock: Clock;
  readonly trouble: TroubleLog;
  readonly degraded: TroubleLog;
  readonly notices: TroubleLog;
  readonly activity: Activity;
}

const nothingYet: NetworkView = { watching: false, leases: 0, peers: [], refused: [] };

/**
 * What the daemon says of itself, to whom it may be: probes, metrics, systemd, `flanneld-ts status`. It holds nothing that it
 * could be late with: every answer is asked of the parts at work.
 */
export class State {
  readonly #options: StateOptions;
  readonly #startedAtMs: number;
  #member: Member | undefined;
  #phase = '';
  #ready = false;

  constructor(options: StateOptions) {
    this.#options = options;
    this.#startedAtMs = options.clock.now();
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
    const { trouble, degraded, notices } = this.#options;
    const reasons = [...trouble.current, ...(this.#member?.problems ?? [])];
    if (!this.#ready && reasons.length === 0) reasons.push('starting');
    return {
      ready: this.#ready && reasons.length === 0,
      reasons,
      degraded: degraded.current,
      notices: notices.current,
    };
  }

  /** For `systemctl status`: where the boot stands, or how many peers are routed, the troubles, those of peers, the notices. */
  statusLine(): string {
    const { trouble, degraded, notices } = this.#options;
    return [this.#summary, ...trouble.current, ...degraded.current, ...notices.current].join('; ');
  }

  snapshot(): Snapshot {
    const { clock, trouble } = this.#options;
    return {
      ...this.readiness(),
      ...(this.#member?.view() ?? nothingYet),
      nowMs: clock.now(),
      startedAtMs: this.#startedAtMs,
      summary: this.#summary,
      troubles: trouble.records,
    };
  }

  get #summary(): string {
    return this.#member?.summary ?? this.#phase;
  }
}
