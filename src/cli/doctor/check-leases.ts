import { overlaps, type PerFamily, type Subnet } from '../../ip/ip.ts';
import { fits } from '../../subnet/allocate.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import { type Lease, parseLease } from '../../subnet/lease.ts';
import { listRange } from '../../subnet/list.ts';
import type { Registry } from '../../subnet/registry.ts';
import { type Finding, few, note, ok, problem } from './finding.ts';

/** The leases of the cluster, and this host's among them. */
export interface LeaseReport {
  readonly findings: readonly Finding[];
  readonly leases: readonly Lease[];
  readonly own?: Lease;
}

/** Looks for leases that no daemon can mend by itself: overlaps, shared addresses, keys that name nothing. */
export async function checkLeases(
  registry: Registry,
  subnetsPrefix: string,
  { config, addresses }: { readonly config: NetworkConfig; readonly addresses: PerFamily<string> },
  signal: AbortSignal,
): Promise<LeaseReport> {
  const { kvs } = await listRange(registry, subnetsPrefix, signal);
  const parsed = kvs.map((kv) => parseLease(subnetsPrefix, kv));
  const leases = parsed.flatMap((one) => ('lease' in one ? [one.lease] : []));
  const junk = parsed.flatMap((one) => ('problem' in one ? [one.problem] : []));
  const mine = leases.filter((lease) => isOwn(lease, addresses));
  const [own] = mine;
  const findings = [
    ok(`${leases.length} leases under ${subnetsPrefix}`),
    ...(junk.length === 0 ? [] : [note(`${junk.length} keys are no leases: ${few(junk, 3)}`)]),
    ...overlapping(leases).map((text) =>
      problem(text, 'Delete the key of the host that is gone, or restart the daemon of the later one.'),
    ),
    ...sharedAddresses(leases),
    ...(await ownFindings(registry, mine, config, signal)),
  ];
  return { findings, leases, ...(own === undefined ? {} : { own }) };
}

function isOwn({ value }: Lease, { ipv4, ipv6 }: PerFamily<string>): boolean {
  return ipv4 === undefined ? value.publicIPv6 === ipv6 : value.publicIP === ipv4;
}

async function ownFindings(
  registry: Registry,
  mine: readonly Lease[],
  config: NetworkConfig,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const [own] = mine;
  if (own === undefined)
    return [
      problem('this host has no lease', 'Start the daemon, and look at its log: it says what it waits for.'),
    ];
  const findings: Finding[] = [];
  if (own.leaseId === '0') findings.push(ok(`own lease ${own.key}, a reservation`));
  else {
    const { ttlSeconds } = await registry.leaseTimeToLive(own.leaseId, signal);
    findings.push(ok(`own lease ${own.key}, ends in ${Math.round(ttlSeconds / 60)} minutes unless renewed`));
  }
  const { ipv4, ipv6 } = own.subnets;
  const unfit =
    (config.ipv4 && !(ipv4 && fits(config.ipv4, ipv4))) ||
    (config.ipv6 && !(ipv6 && fits(config.ipv6, ipv6)));
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
  if (mine.length > 1)
    findings.push(
      note(
        `further keys carry this host's address: ${few(mine.slice(1).map(({ key }) => key))}`,
        'Delete them (etcdctl del KEY) if no other host uses that address.',
      ),
    );
  return findings;
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

function sharedAddresses(leases: readonly Lease[]): readonly Finding[] {
  const keysOf = new Map<string, string[]>();
  for (const { key, value } of leases) {
    if (value.publicIP === undefined) continue;
    const keys = keysOf.get(value.publicIP);
    if (keys === undefined) keysOf.set(value.publicIP, [key]);
    else keys.push(key);
  }
  const shared = [...keysOf].filter(([, keys]) => keys.length > 1);
  return shared.map(([address, keys]) =>
    note(`${keys.length} leases name the address ${address}: ${few(keys)}`),
  );
}
