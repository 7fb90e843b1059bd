import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { configKey } from '../keys.ts';
import { type OldStore, type Registry, RegistryError, stuckWithEtcdMs } from '../registry/registry.ts';
import { type NetworkConfig, NetworkConfigError, parseNetworkConfig } from './config.ts';

/** Where a configuration may be. */
export interface Stores {
  readonly registry: Registry;
  /** Asked only when there is no configuration, for the message. */
  readonly oldStore: OldStore;
}

/** What waiting for the configuration and watching it both need. */
export interface ConfigOptions extends Pick<Stores, 'registry'> {
  readonly clock: Clock;
  /** Hears of each round of the loop. */
  readonly activity?: Activity;
  /** As given by the user. */
  readonly etcdPrefix: string;
}

interface ConfigSourceOptions extends ConfigOptions, Stores {
  readonly log: Logger;
  readonly trouble: TroubleLog;
}

/** The daemon asks every second while the configuration is missing or wrong, as flanneld does. */
const retryMs = 1_000;
/** How often the daemon looks for other configurations nearby, which costs calls. */
const describeEveryMs = 60_000;
const loop = 'config';

/** Waits until etcd holds a valid network configuration. Rejects only with `signal.reason`. */
export async function waitForConfig(
  options: ConfigSourceOptions,
  signal: AbortSignal,
): Promise<NetworkConfig> {
  const { activity, registry, clock, trouble, log } = options;
  const key = configKey(options.etcdPrefix);
  let missing = '';
  let describedAtMs = Number.NEGATIVE_INFINITY;
  try {
    for (;;) {
      activity?.round(loop, stuckWithEtcdMs);
      try {
        const { kvs } = await registry.range({ key }, signal);
        trouble.clear('etcd', 'etcd answers', { endpoint: registry.endpoint });
        const text = kvs[0]?.value;
        if (text !== undefined) {
          const config = parseNetworkConfig(text);
          trouble.clear('config', `found the network configuration at ${key}`);
          for (const warning of config.warnings)
            log.warn({ event: 'config-warning', key }, `${key}: ${warning}`);
          return config;
        }
        if (clock.monotonic() - describedAtMs >= describeEveryMs) {
          const { problem, remedy } = await describeMissing(options, key, signal);
          missing = `${problem} ${remedy}`;
          describedAtMs = clock.monotonic();
        }
        trouble.report('config', missing, { key });
      } catch (error) {
        signal.throwIfAborted();
        const reason = explanationOf(error);
        if (error instanceof NetworkConfigError) {
          const message = `the network configuration at ${key} cannot be used: ${reason}`;
          trouble.report('config', message, { key, code: error.code });
        } else trouble.report('etcd', `waiting for etcd: ${reason}`, { endpoint: registry.endpoint, error });
      }
      await clock.sleep(retryMs, signal);
    }
  } finally {
    activity?.end(loop);
  }
}

/**
 * The message for a missing configuration: that there is none at `key`, and which other keys hold one, because most often the prefix is
 * wrong. Rejects as the registry does.
 */
export async function describeMissing(
  { registry, oldStore }: Stores,
  key: string,
  signal: AbortSignal,
): Promise<{ readonly problem: string; readonly remedy: string }> {
  const [near, isOld] = await Promise.all([nearbyPrefixes(registry, key, signal), oldStore.has(key, signal)]);
  const hints = [
    near?.length === 0 && isOld !== true && 'No other configuration was found in it.',
    near?.length && `A network is configured under ${near.join(', ')}: is --etcd-prefix right?`,
    isOld === true &&
      'The v2 store, which only old versions of flannel read, has one there ' +
        `(ETCDCTL_API=2 etcdctl get ${key}).`,
  ].filter((hint) => typeof hint === 'string');
  return {
    problem: [`no network configuration at ${key} (etcd ${registry.endpoint}, v3 API).`, ...hints].join(' '),
    // A configuration without the leases would have hosts take new subnets, while their containers keep the old ones.
    remedy:
      isOld === true
        ? 'Copy it and the leases there: flanneld-ts migrate'
        : `Store one with: etcdctl put ${key} '{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}'`,
  };
}

/** Prefixes that look like flannel's, among etcd's first thousand keys; undefined: this user may not look. */
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
    // etcd may limit this user to the prefix. Then the daemon waits and says nothing about other keys.
    if (error instanceof RegistryError) return undefined;
    throw error;
  }
}
