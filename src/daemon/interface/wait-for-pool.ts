import { poolOverlaps } from '../../backend/hostgw/pool-overlap.ts';
import type { PerFamily, Subnet } from '../../ip/ip.ts';
import type { Kernel } from '../../kernel/kernel.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import { isOwnLease } from '../../subnet/holder.ts';
import { parseLease } from '../../subnet/lease.ts';
import { listRange } from '../../subnet/list.ts';
import { type Registry, RegistryError } from '../../subnet/registry.ts';
import type { HostInterface } from './choose-interface.ts';
import { followHost, type Look } from './follow-host.ts';

export interface WaitForPoolOptions {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly registry: Registry;
  readonly trouble: TroubleLog;
  readonly config: NetworkConfig;
  readonly subnetsPrefix: string;
  readonly host: HostInterface;
  /** The subnets of the previous subnet.env. */
  readonly hint: PerFamily<Subnet> | undefined;
}

const spacingMs = 250;

/**
 * Waits until no network of this host lies in the range that subnets are leased from, which could cut the host off. Networks
 * may go, and the configuration be corrected; whoever follows that one ends the wait. Rejects only with `signal.reason`.
 */
export async function waitForPool(options: WaitForPoolOptions, signal: AbortSignal): Promise<void> {
  const { kernel, clock, trouble, config, host, hint } = options;
  const look = async (inner: AbortSignal): Promise<Look<void>> => {
    const facts = {
      links: await kernel.links(inner),
      addresses: await kernel.addresses(inner),
      interfaceIndex: host.index,
    };
    const hinted = hint === undefined ? [] : [hint];
    let overlaps = poolOverlaps({ ...facts, own: hinted }, config);
    // etcd is asked only when it matters: a bridge of whatever name may have what this host has leased.
    if (overlaps.length > 0) {
      const own = [...hinted, ...(await leasedSubnets(options, inner))];
      overlaps = poolOverlaps({ ...facts, own }, config);
    }
    if (overlaps.length === 0) {
      trouble.clear('pool', 'no network of this host lies in the range that subnets are leased from');
      return { done: undefined };
    }
    const problems = overlaps.map(({ problem }) => problem).join('; ');
    trouble.report('pool', `waiting: ${problems}. ${overlaps[0]?.remedy ?? ''}`);
    return {};
  };
  await followHost({ kernel, clock, trouble, spacingMs, matters, look }, signal);
}

function matters({ type }: { readonly type: string }): boolean {
  return type !== 'route-added' && type !== 'route-removed';
}

/** The subnets that etcd holds for this host; none while it cannot be asked. */
async function leasedSubnets(
  { registry, subnetsPrefix, host }: WaitForPoolOptions,
  signal: AbortSignal,
): Promise<readonly PerFamily<Subnet>[]> {
  try {
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    return kvs.flatMap((kv) => {
      const parsed = parseLease(subnetsPrefix, kv);
      const isOwn = 'lease' in parsed && isOwnLease(host.addresses, parsed.lease);
      return isOwn ? [parsed.lease.subnets] : [];
    });
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error;
    return [];
  }
}
