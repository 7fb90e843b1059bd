import { explanationOf } from '../runtime/errors.ts';
import type { V2Error, V2Node, V2Position, V2Store } from '../subnet/etcd-v2/store.ts';
import { configKey, joinKey, parseSubnetKey, subnetsPrefix } from '../subnet/keys.ts';
import { type KeyValue, listRange, type Registry } from '../subnet/registry/registry.ts';

/** The two stores, and the prefix of the network in each, as an operator gives it: `/coreos.com/network`. */
export interface Sides {
  /** `endpoints`: where it is, for messages. */
  readonly from: { readonly store: V2Store; readonly prefix: string; readonly endpoints: string };
  readonly to: { readonly registry: Registry; readonly prefix: string };
}

/** The leases of both stores; read one after the other, the old store first. */
export interface Snapshot {
  readonly v2: {
    /** What the keys of leases begin with, up to the slash. */
    readonly leasesPrefix: string;
    readonly nodes: readonly V2Node[];
    readonly position: V2Position;
  };
  readonly v3: {
    readonly leasesPrefix: string;
    readonly kvs: readonly KeyValue[];
    /** Seconds left by the id of the etcd lease, for the subnets that v2 has, too. */
    readonly leftSeconds: ReadonlyMap<string, number>;
  };
}

/** The key of the network configuration in v2, whose keys all begin with a slash. */
export function v2ConfigKey(prefix: string): string {
  return configKey(joinKey('/', prefix));
}

/**
 * Reads the leases of both stores, linearizably. Rejects with V2Error, RegistryError or `signal.reason`; an error is never an empty
 * list.
 */
export async function readBoth({ from, to }: Sides, signal: AbortSignal): Promise<Snapshot> {
  const v2Prefix = subnetsPrefix(joinKey('/', from.prefix));
  const v3Prefix = subnetsPrefix(to.prefix);
  const { nodes, ...position } = await from.store.list(v2Prefix.slice(0, -1), signal);
  const { kvs } = await listRange(to.registry, v3Prefix, signal);
  const subnets = new Set(nodes.map(({ key }) => parseSubnetKey(v2Prefix, key)?.ipv4?.text));
  const shared = kvs.filter(({ key }) => {
    const { ipv4 } = parseSubnetKey(v3Prefix, key) ?? {};
    return ipv4 !== undefined && subnets.has(ipv4.text);
  });
  const leftSeconds = await timesLeft(to.registry, shared, signal);
  return {
    v2: { leasesPrefix: v2Prefix, nodes, position },
    v3: { leasesPrefix: v3Prefix, kvs, leftSeconds },
  };
}

async function timesLeft(
  registry: Registry,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, number>> {
  const ids = [...new Set(kvs.map(({ lease }) => lease))].filter((id) => id !== '0');
  const left = new Map<string, number>();
  await inBatches(ids, async (id) => {
    const { ttlSeconds } = await registry.leaseTimeToLive(id, signal);
    left.set(id, Math.max(0, ttlSeconds));
  });
  return left;
}

/** What the v2 store failed with, and what to do. Each of the daemon's flags for etcd has its like for the v2 store. */
export function oldStoreText(error: V2Error): string {
  return explanationOf(error).replaceAll('--etcd-', '--from-');
}

/** Calls to etcd at once: ten thousand leases one by one would take a minute. */
const atOnce = 16;

/** Runs for all items, a few at a time; rejects with the first failure when the others of its batch have ended, too. */
export async function inBatches<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  for (let start = 0; start < items.length; start += atOnce) {
    const outcomes = await Promise.allSettled(items.slice(start, start + atOnce).map(run));
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  }
}
