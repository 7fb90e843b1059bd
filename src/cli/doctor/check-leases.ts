import type { PerFamily, Subnet } from '../../ip/ip.ts';
import { counted } from '../../runtime/texts.ts';
import type { NetworkConfig, PoolConfig } from '../../subnet/config/config.ts';
import { findOwn } from '../../subnet/lease/acquire/own-keys.ts';
import { renewIntervalMs } from '../../subnet/lease/keep/schedule.ts';
import { isOwnLease, type Lease, parseLease } from '../../subnet/lease/lease.ts';
import { fits } from '../../subnet/lease/pool.ts';
import { listRange, type Registry } from '../../subnet/registry/registry.ts';
import type { StatusView } from '../ask-daemon.ts';
import { duration } from '../status.ts';
import { attempt, type DaemonState, daemonRemedy, type Finding, few, note, ok, problem } from './finding.ts';

/** The input for the check of the leases. */
export interface LeaseFacts {
  readonly registry: Registry;
  readonly subnetsPrefix: string;
  readonly config: NetworkConfig;
  /** Of this host, as its daemon would choose them. */
  readonly addresses: PerFamily<string>;
  readonly renewMarginMs: number;
  /** What the running daemon says; it decides which lease is this host's. */
  readonly view: StatusView | undefined;
  readonly daemon: DaemonState;
}

/** The leases of the cluster, and this host's among them. */
export interface LeaseReport {
  readonly findings: readonly Finding[];
  /** Of other hosts. */
  readonly peers: readonly Lease[];
  readonly own: Lease | undefined;
}

/** Checks this host's lease, and looks for keys that are no leases. */
export async function checkLeases(facts: LeaseFacts, signal: AbortSignal): Promise<LeaseReport> {
  const { registry, subnetsPrefix, config, addresses, view } = facts;
  const { kvs } = await listRange(registry, subnetsPrefix, signal);
  const parsed = kvs.map((kv) => parseLease(subnetsPrefix, kv));
  const leases = parsed.flatMap((one) => ('lease' in one ? [one.lease] : []));
  const junk = parsed.flatMap((one) => ('problem' in one ? [one.problem] : []));
  const mine = leases.filter((lease) => isOwnLease(addresses, lease));
  const grants = { isOurs: () => false };
  const chosen = findOwn({ subnetsPrefix, addresses, pools: config, grants }, kvs).chosen?.lease ?? mine[0];
  const own = view === undefined ? chosen : leases.find(({ key }) => key === view.lease?.key);
  const others = mine.filter(({ key }) => key !== own?.key).map(({ key }) => key);
  const findings = [ok(`${counted(leases.length, 'lease')} under ${subnetsPrefix}`)];
  if (junk.length > 0)
    findings.push(
      note(
        `${counted(junk.length, 'key is no lease', 'keys are no leases')}: ${few(junk, 3)}`,
        'All hosts keep routing and report that they are degraded. Delete keys that nobody needs: etcdctl del KEY',
      ),
    );
  findings.push(...(await ownFindings(facts, own, signal)));
  if (others.length > 0)
    findings.push(
      note(
        `further keys carry this host's address: ${few(others)}`,
        'Delete them (etcdctl del KEY) if no other host uses that address.',
      ),
    );
  return { findings, peers: leases.filter((lease) => !mine.includes(lease)), own };
}

async function ownFindings(
  facts: LeaseFacts,
  own: Lease | undefined,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { view, daemon } = facts;
  // The daemon has already said why it does not hold a lease.
  if (view !== undefined && view.lease?.state !== 'held' && view.reasons.length > 0) return [];
  if (own === undefined)
    return [
      problem(
        view === undefined ? 'this host has no lease' : `this host has no lease: ${view.summary}`,
        daemonRemedy(daemon, 'takes one'),
      ),
    ];
  const findings = [...(await attempt(`own lease ${own.key}`, signal, () => lifeOf(facts, own, signal)))];
  const { key, subnets } = own;
  const { ipv4, ipv6 } = facts.config;
  const isFit = (pool: PoolConfig | undefined, subnet: Subnet | undefined) =>
    pool === undefined || (subnet !== undefined && fits(pool, subnet));
  if (!isFit(ipv4, subnets.ipv4) || !isFit(ipv6, subnets.ipv6))
    findings.push(
      problem(`${key} does not fit the network configuration`, 'Restart the daemon: it takes one that fits.'),
    );
  if (own.value.backendType !== 'host-gw')
    findings.push(
      problem(
        `${key} does not name the backend host-gw, so no peer routes to this host`,
        'Restart the daemon: it corrects the lease.',
      ),
    );
  return findings;
}

/** How long the lease lives, and whether a daemon renews it. */
async function lifeOf(
  { registry, renewMarginMs, daemon }: LeaseFacts,
  { key, leaseId }: Lease,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (leaseId === '0') return [ok(`own lease ${key}, a reservation`)];
  const { ttlSeconds, grantedTtlSeconds } = await registry.leaseTimeToLive(leaseId, signal);
  const remedy = daemonRemedy(daemon, 'renews it');
  if (ttlSeconds <= 0) return [problem(`own lease ${key} has expired`, remedy)];
  const left = `own lease ${key}: ${duration(ttlSeconds)} left`;
  // Twice the interval: one renewal may fail, or the daemon may have just started.
  const overdueS = grantedTtlSeconds - (2 * renewIntervalMs(grantedTtlSeconds, renewMarginMs)) / 1000;
  if (ttlSeconds < overdueS) return [problem(`${left}; its renewal is overdue`, remedy)];
  return [ok(`${left}, renewed ${duration(grantedTtlSeconds - ttlSeconds)} ago`)];
}
