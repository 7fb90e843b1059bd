/** The answer of the daemon to `flanneld-ts status`; as it is with --json. Times are ISO 8601 in UTC. */
export interface StatusView {
  readonly version: string;
  readonly startedAt: string;
  readonly now: string;
  readonly ready: boolean;
  /** One line: where the boot stands, or how many peers are routed. */
  readonly summary: string;
  /** Why it is not ready. */
  readonly reasons: readonly string[];
  /** Faults of peers: this host is ready all the same. */
  readonly degraded: readonly string[];
  readonly notices: readonly string[];
  /** Null: not had yet. */
  readonly lease: LeaseStatus | null;
  /** Whether changes of the leases arrive. */
  readonly watching: boolean;
  /** How many leases of the cluster can be read. */
  readonly leases: number;
  /** When the routes were last seen to be as the leases want them; null before the first time. */
  readonly lastSync: string | null;
  readonly peers: readonly PeerStatus[];
  /** Where a route of another program lies that is not to be touched: those of `peers` in that state. */
  readonly conflicts: readonly PeerStatus[];
  /** Leases of peers that ask for a route they cannot get. */
  readonly refused: readonly { readonly key: string; readonly reason: string }[];
  /** The last errors: those that are over, then those that last. */
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

export interface PeerStatus {
  readonly subnet: string;
  readonly gateway: string;
  /** installed, pending, parked or conflict. */
  readonly state: string;
  /** Why it is not installed; null when nothing is wrong. */
  readonly reason: string | null;
  readonly key: string;
}

export interface ErrorStatus {
  readonly what: string;
  readonly message: string;
  readonly since: string;
  /** Null while it lasts. */
  readonly over: string | null;
  readonly attempts: number;
}
