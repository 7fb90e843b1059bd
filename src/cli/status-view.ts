/**
 * The answer of the daemon to `flanneld-ts status`; as it is with --json. Times are ISO 8601 in UTC. Programs read it: names and
 * meanings stay, fields may come.
 */
export interface StatusView {
  readonly version: string;
  readonly startedAt: string;
  readonly now: string;
  /** What /readyz says. */
  readonly ready: boolean;
  /** One line: where the boot stands, or how many peers are routed. */
  readonly summary: string;
  /** Why this host is not ready: its own faults. The same lines as in /readyz. */
  readonly reasons: readonly string[];
  /** Faults of peers: this host is ready all the same. */
  readonly degraded: readonly string[];
  /** Worth knowing, without effect. */
  readonly notices: readonly string[];
  /** Null: not had yet. */
  readonly lease: LeaseStatus | null;
  /** Whether the watch of the leases is up. */
  readonly watching: boolean;
  /** How many leases of the cluster can be read; null before they have been listed. */
  readonly leases: number | null;
  /** When the routes were last seen to be as the leases want them; null before the first time. */
  readonly lastSync: string | null;
  /** By subnet, IPv4 first. */
  readonly peers: readonly PeerStatus[];
  /** Where a route of another program lies that is not to be touched: those of `peers` in that state. */
  readonly conflicts: readonly PeerStatus[];
  /** Leases of peers that ask for a route they cannot get. */
  readonly refused: readonly KeyStatus[];
  /** Leases outside the cluster's network, which are routed all the same. */
  readonly outside: readonly { readonly key: string; readonly subnet: string; readonly network: string }[];
  /** Keys among the leases that are none: how many, and the first of them. */
  readonly junk: { readonly count: number; readonly first: readonly KeyStatus[] };
  /** The last troubles of every kind by their beginning: those that are over, and those that last. */
  readonly errors: readonly ErrorStatus[];
}

export interface LeaseStatus {
  readonly key: string;
  readonly state: string;
  readonly subnets: readonly string[];
  readonly addresses: readonly string[];
  /** Null: a reservation, which does not end. */
  readonly secondsLeft: number | null;
}

export interface KeyStatus {
  readonly key: string;
  readonly reason: string;
}

export interface PeerStatus {
  readonly subnet: string;
  readonly gateway: string;
  /** installed, pending (it is being set), parked (it cannot be set) or conflict (something else has its place). */
  readonly state: string;
  /** Why it is not installed; null when nothing is wrong. */
  readonly reason: string | null;
  /** Who has to mend that: this host (then it is not ready) or the peer; null when nothing is wrong. */
  readonly fault: 'own' | 'peer' | null;
  /** What an operator can do about it. */
  readonly remedy: string | null;
  /** Since when it is in this state. */
  readonly since: string;
  readonly key: string;
}

export interface ErrorStatus {
  readonly what: string;
  /** own: this host was not ready for it. */
  readonly kind: 'own' | 'degraded' | 'notice';
  readonly message: string;
  readonly since: string;
  /** Null while it lasts. */
  readonly over: string | null;
  readonly attempts: number;
}
