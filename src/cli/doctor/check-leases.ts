import { containsSubnet, type PerFamily } from '../../ip/ip.ts';
import { counted } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { findOwn } from '../../subnet/lease/acquire/own-keys.ts';
import { renewIntervalMs } from '../../subnet/lease/keep/schedule.ts';
import { isOwnLease, type Lease, parseLease } from '../../subnet/lease/lease.ts';
import { fits } from '../../subnet/lease/pool.ts';
import { listRange, type Registry } from '../../subnet/registry/registry.ts';
import type { StatusView } from '../ask-daemon.ts';
import { duration } from '../status.ts';
import { type DaemonState, daemonRemedy } from './check-daemon.ts';
import { attempt, type Finding, few, note, ok, problem } from './finding.ts';

/** What leases are judged by. */
export interface LeaseFacts {
  readonly registry: Registry;
  readonly subnetsPrefix: string;
  readonly config: NetworkConfig;
  /** Of this host, as its daemon would choose them. */
  readonly addresses: PerFamily<string>;
  readonly renewMarginMs: number;
  /** What the running daemon says; it decides which lease is this host's. */
  readonly view?: StatusView;
  readonly daemon: DaemonState;
}

/** The leases of the cluster, and this host's among them. */
export interface LeaseReport {
  readonly findings: readonly Finding[];
  /** Of other hosts, with our backend. */
  readonly peers: readonly Lease[];
  readonly own?: Lease;
}

/** So many of one kind are told one by one. */
const mostTold = 5;

/** Looks for leases that no daemon can mend by itself: other backends, shared addresses, keys that name nothing. */
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
  const findings = [
    ok(`${counted(leases.length, 'lease')} under ${subnetsPrefix}`),
    ...junkFindings(junk),
    ...backendFindings(leases.filter(({ key }) => key !== own?.key)),
    ...outsideFindings(leases, config),
    ...sharedAddresses(leases.filter((lease) => !mine.includes(lease))),
    ...(await ownFindings(facts, own, signal)),
    ...(others.length === 0
      ? []
      : [
          note(
            `further keys carry this host's address: ${few(others)}`,
            'Delete them (etcdctl del KEY) if no other host uses that address.',
          ),
        ]),
  ];
  const peers = leases.filter((lease) => !mine.includes(lease) && lease.value.backendType === 'host-gw');
  return { findings, peers, ...(own && { own }) };
}

function junkFindings(junk: readonly string[]): readonly Finding[] {
  if (junk.length === 0) return [];
  return [
    note(
      `${counted(junk.length, 'key is no lease', 'keys are no leases')}: ${few(junk, 3)}`,
      'All hosts route all the same, and call themselves degraded. Delete what nobody needs: etcdctl del KEY',
    ),
  ];
}

function backendFindings(leases: readonly Lease[]): readonly Finding[] {
  const foreign = leases.filter(({ value }) => value.backendType !== 'host-gw');
  if (foreign.length === 0) return [];
  const named = foreign.map(
    ({ key, value }) =>
      `${key} (${value.backendType || 'none'}, at ${value.publicIP ?? value.publicIPv6 ?? 'no address'})`,
  );
  return [
    problem(
      `${counted(foreign.length, 'lease names', 'leases name')} another backend than host-gw, so nobody here routes to them: ${few(named)}`,
      'Have that host use host-gw, too: with this program, or with flanneld started anew after the network configuration says so.',
    ),
  ];
}

/** Leases that remain from a former Network, or of a host that reads another configuration. */
function outsideFindings(leases: readonly Lease[], config: NetworkConfig): readonly Finding[] {
  const outside = leases.filter(({ subnets }) =>
    (['ipv4', 'ipv6'] as const).some((family) => {
      const [pool, subnet] = [config[family], subnets[family]];
      return pool !== undefined && subnet !== undefined && !containsSubnet(pool.network, subnet);
    }),
  );
  if (outside.length === 0) return [];
  const networks = [config.ipv4, config.ipv6].flatMap((pool) => pool?.network.text ?? []).join(' and ');
  const named = outside.map(
    ({ key, value }) => `${key} (at ${value.publicIP ?? value.publicIPv6 ?? 'no address'})`,
  );
  return [
    note(
      `${counted(outside.length, 'lease lies', 'leases lie')} outside of Network ${networks}: ${few(named)}`,
      'After a change of Network, restart the daemon of that host: it takes a subnet of the new one.',
    ),
  ];
}

async function ownFindings(
  facts: LeaseFacts,
  own: Lease | undefined,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { view, daemon } = facts;
  // What the daemon says of a lease that it does not hold is told already.
  if (view !== undefined && view.lease?.state !== 'held' && view.reasons.length > 0) return [];
  if (own === undefined)
    return [
      problem(
        view === undefined ? 'this host has no lease' : `this host has no lease: ${view.summary}`,
        daemonRemedy(daemon, 'takes one'),
      ),
    ];
  const findings = [...(await attempt(`own lease ${own.key}`, signal, () => lifeOf(facts, own, signal)))];
  const { ipv4, ipv6 } = facts.config;
  const unfit =
    (ipv4 && !(own.subnets.ipv4 && fits(ipv4, own.subnets.ipv4))) ||
    (ipv6 && !(own.subnets.ipv6 && fits(ipv6, own.subnets.ipv6)));
  if (unfit)
    findings.push(
      problem(
        `${own.key} does not fit the network configuration`,
        'Restart the daemon: it takes one that fits.',
      ),
    );
  if (own.value.backendType !== 'host-gw')
    findings.push(
      problem(
        `${own.key} has another backend, so nobody routes to this host`,
        'Restart the daemon: it puts it right.',
      ),
    );
  return findings;
}

/** How long the lease lives, and whether that shows a daemon that renews it. */
async function lifeOf(
  { registry, renewMarginMs, daemon }: LeaseFacts,
  { key, leaseId }: Lease,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (leaseId === '0') return [ok(`own lease ${key}, a reservation`)];
  const { ttlSeconds, grantedTtlSeconds } = await registry.leaseTimeToLive(leaseId, signal);
  const remedy = daemonRemedy(daemon, 'renews it');
  if (ttlSeconds <= 0) return [problem(`own lease ${key} has ended`, remedy)];
  const left = `own lease ${key}: ${duration(ttlSeconds)} left`;
  // Twice the interval: a renewal may fail, and a daemon be just starting.
  const overdueS = grantedTtlSeconds - (2 * renewIntervalMs(grantedTtlSeconds, renewMarginMs)) / 1000;
  if (ttlSeconds < overdueS) return [problem(`${left}; it was not renewed when it was due`, remedy)];
  return [ok(`${left}, renewed ${duration(grantedTtlSeconds - ttlSeconds)} ago`)];
}

/** Of hosts but this one: `PublicIP`, or while IPv4 is off `PublicIPv6`. */
function sharedAddresses(leases: readonly Lease[]): readonly Finding[] {
  const keysOf = new Map<string, string[]>();
  for (const { key, value } of leases) {
    const address = value.publicIP ?? value.publicIPv6;
    if (address === undefined) continue;
    const keys = keysOf.get(address);
    if (keys === undefined) keysOf.set(address, [key]);
    else keys.push(key);
  }
  const shared = [...keysOf].filter(([, keys]) => keys.length > 1);
  const rest = shared.length - mostTold;
  return [
    ...shared
      .slice(0, mostTold)
      .map(([address, keys]) => note(`${keys.length} leases name the address ${address}: ${few(keys)}`)),
    ...(rest > 0
      ? [note(`${counted(rest, 'more address is', 'more addresses are')} named by several leases`)]
      : []),
  ];
}
