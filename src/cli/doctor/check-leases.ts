import { overlaps, type PerFamily, type Subnet } from '../../ip/ip.ts';
import { counted } from '../../runtime/plural.ts';
import { fits } from '../../subnet/allocate.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import { isOwnLease } from '../../subnet/holder.ts';
import { type Lease, parseLease } from '../../subnet/lease.ts';
import { listRange } from '../../subnet/list.ts';
import { findOwn } from '../../subnet/own-keys.ts';
import type { Registry } from '../../subnet/registry.ts';
import { renewIntervalMs } from '../../subnet/renewal-schedule.ts';
import { attempt, type Finding, few, note, ok, problem } from './finding.ts';

/** What leases are judged by. */
export interface LeaseFacts {
  readonly registry: Registry;
  readonly subnetsPrefix: string;
  readonly config: NetworkConfig;
  /** Of this host, as its daemon would choose them. */
  readonly addresses: PerFamily<string>;
  readonly renewMarginMs: number;
}

/** The leases of the cluster, and this host's among them. */
export interface LeaseReport {
  readonly findings: readonly Finding[];
  readonly leases: readonly Lease[];
  readonly own?: Lease;
}

/** So many of one kind are told one by one. */
const mostTold = 5;

/** Looks for leases that no daemon can mend by itself: overlaps, shared addresses, keys that name nothing. */
export async function checkLeases(facts: LeaseFacts, signal: AbortSignal): Promise<LeaseReport> {
  const { registry, subnetsPrefix, config, addresses } = facts;
  const { kvs } = await listRange(registry, subnetsPrefix, signal);
  const parsed = kvs.map((kv) => parseLease(subnetsPrefix, kv));
  const leases = parsed.flatMap((one) => ('lease' in one ? [one.lease] : []));
  const junk = parsed.flatMap((one) => ('problem' in one ? [one.problem] : []));
  const mine = leases.filter((lease) => isOwnLease(addresses, lease));
  const grants = { isOurs: () => false };
  const own = findOwn({ subnetsPrefix, addresses, pools: config, grants }, kvs).chosen?.lease ?? mine[0];
  const others = mine.filter(({ key }) => key !== own?.key).map(({ key }) => key);
  const findings = [
    ok(`${counted(leases.length, 'lease')} under ${subnetsPrefix}`),
    ...(junk.length === 0
      ? []
      : [note(`${counted(junk.length, 'key is no lease', 'keys are no leases')}: ${few(junk, 3)}`)]),
    ...overlapFindings(leases),
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
  return { findings, leases, ...(own === undefined ? {} : { own }) };
}

async function ownFindings(
  facts: LeaseFacts,
  own: Lease | undefined,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (own === undefined)
    return [
      problem('this host has no lease', 'Start the daemon, and look at its log: it says what it waits for.'),
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
  { registry, renewMarginMs }: LeaseFacts,
  { key, leaseId }: Lease,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (leaseId === '0') return [ok(`own lease ${key}, a reservation`)];
  const { ttlSeconds, grantedTtlSeconds } = await registry.leaseTimeToLive(leaseId, signal);
  const remedy =
    'Is the daemon running? Start it, or look at its log: it says why the lease cannot be renewed.';
  if (ttlSeconds <= 0) return [problem(`own lease ${key} has ended`, remedy)];
  const left = `own lease ${key}, ends in ${duration(ttlSeconds)} unless renewed`;
  // Twice the interval: a renewal may fail, and a daemon be just starting.
  const overdueS = grantedTtlSeconds - (2 * renewIntervalMs(grantedTtlSeconds, renewMarginMs)) / 1000;
  return [ttlSeconds < overdueS ? problem(`${left}, and was not renewed when it was due`, remedy) : ok(left)];
}

function duration(seconds: number): string {
  return seconds < 120 ? counted(seconds, 'second') : counted(Math.round(seconds / 60), 'minute');
}

function overlapFindings(leases: readonly Lease[]): readonly Finding[] {
  const texts = overlapping(leases);
  const rest = texts.length - mostTold;
  const remedy = 'Delete the key of the host that is gone, or restart the daemon of the later one.';
  return [
    ...texts.slice(0, mostTold).map((text) => problem(text, remedy)),
    ...(rest > 0
      ? [problem(`${counted(rest, 'more lease overlaps', 'more leases overlap')} another one`)]
      : []),
  ];
}

/** Pairs of leases that share addresses, both named. */
function overlapping(leases: readonly Lease[]): readonly string[] {
  const found: string[] = [];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const held = leases.flatMap((lease): { subnet: Subnet; key: string }[] => {
      const subnet = lease.subnets[family];
      return subnet === undefined ? [] : [{ subnet, key: lease.key }];
    });
    const ordered = held.toSorted((a, b) =>
      a.subnet.first < b.subnet.first ? -1 : Number(a.subnet.first > b.subnet.first),
    );
    let widest = ordered[0];
    for (const next of ordered.slice(1)) {
      if (widest && overlaps(widest.subnet, next.subnet)) found.push(`${widest.key} and ${next.key} overlap`);
      if (!widest || next.subnet.last > widest.subnet.last) widest = next;
    }
  }
  return found;
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
