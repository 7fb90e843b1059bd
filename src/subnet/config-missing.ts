import { excerpt } from '../runtime/excerpt.ts';
import type { OldStore } from './old-store.ts';
import { type Registry, RegistryError } from './registry.ts';

/** Where a configuration may be. */
export interface Stores {
  readonly registry: Registry;
  readonly oldStore: OldStore;
}

/** Says of a configuration that is not at `key` where was looked, and what lies near: most often the prefix is another one. */
export async function describeMissing(
  { registry, oldStore }: Stores,
  key: string,
  signal: AbortSignal,
): Promise<{ readonly problem: string; readonly remedy: string }> {
  const [near, isOld] = await Promise.all([nearbyPrefixes(registry, key, signal), oldStore.has(key, signal)]);
  const found =
    near === undefined || near.length > 0 || isOld === true ? '' : ' No other configuration was found in it.';
  const prefixes = near?.length
    ? ` A network is configured under ${near.join(', ')}: is --etcd-prefix right?`
    : '';
  const old =
    isOld === true
      ? ` The v2 store, which only old versions of flannel read, has one there (ETCDCTL_API=2 etcdctl get ${key}).`
      : '';
  return {
    problem: `no network configuration at ${key} (etcd ${registry.endpoint}, v3 API).${found}${prefixes}${old}`,
    remedy: `Store one with: etcdctl put ${key} '{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}'`,
  };
}

/** Other prefixes in this etcd that look like flannel's, among its first thousand keys; undefined when it will not say. */
async function nearbyPrefixes(
  registry: Registry,
  ownKey: string,
  signal: AbortSignal,
): Promise<readonly string[] | undefined> {
  try {
    const { kvs } = await registry.range({ key: '\0', rangeEnd: '\0', limit: 1000, keysOnly: true }, signal);
    const prefixes = kvs
      .map(({ key }) => /^(.*)\/(?:config$|subnets\/[\da-f.:&-]+$)/.exec(key)?.[1])
      .filter((prefix) => prefix !== undefined && `${prefix}/config` !== ownKey)
      .map((prefix) => excerpt(prefix ?? ''));
    return [...new Set(prefixes)].slice(0, 3);
  } catch (error) {
    signal.throwIfAborted();
    // A user limited to the prefix may not look around. That is no reason to fail, and no empty etcd either.
    if (error instanceof RegistryError) return undefined;
    throw error;
  }
}
