import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { configKey } from '../keys.ts';
import { type OldStore, type Registry, RegistryError } from '../registry/registry.ts';
import { type NetworkConfig, NetworkConfigError, parseNetworkConfig } from './config.ts';

export interface ConfigSourceOptions {
  readonly registry: Registry;
  /** Looked at when there is no configuration, for what to say. */
  readonly oldStore: OldStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  readonly activity?: Activity;
  /** As given by the user. */
  readonly etcdPrefix: string;
}

type Reporting = Pick<ConfigSourceOptions, 'registry' | 'trouble'>;

/** The configuration is asked for every second while it is missing or wrong, as flanneld does. */
const retryMs = 1_000;
/** How often it is looked what there is instead of it. */
const describeEveryMs = 60_000;
const loop = 'config';
/** Longer than any call to etcd, however many members are silent. */
const stuckMs = 600_000;

/** Waits until etcd holds a valid network configuration. Rejects only with `signal.reason`. */
export async function waitForConfig(
  options: ConfigSourceOptions,
  signal: AbortSignal,
): Promise<NetworkConfig> {
  try {
    return await askForConfig(options, signal);
  } finally {
    options.activity?.end(loop);
  }
}

async function askForConfig(options: ConfigSourceOptions, signal: AbortSignal): Promise<NetworkConfig> {
  const { activity, registry, clock, trouble, log } = options;
  const key = configKey(options.etcdPrefix);
  let missing: string | undefined;
  let describedAtMs = Number.NEGATIVE_INFINITY;
  for (;;) {
    activity?.round(loop, stuckMs);
    try {
      const { kvs } = await registry.range({ key }, signal);
      trouble.clear('etcd', 'etcd answers', { endpoint: registry.endpoint });
      const text = kvs[0]?.value;
      if (text === undefined) {
        // Looking for what lies near costs calls.
        if (missing === undefined || clock.monotonic() - describedAtMs >= describeEveryMs) {
          missing = await missingText(options, key, signal);
          describedAtMs = clock.monotonic();
        }
        trouble.report('config', missing, { key });
      } else {
        const config = parseNetworkConfig(text);
        trouble.clear('config', `found the network configuration at ${key}`);
        for (const warning of config.warnings)
          log.warn({ event: 'config-warning', key }, `${key}: ${warning}`);
        return config;
      }
    } catch (error) {
      signal.throwIfAborted();
      noteFailure(options, key, error);
    }
    await clock.sleep(retryMs, signal);
  }
}

async function missingText(options: ConfigSourceOptions, key: string, signal: AbortSignal): Promise<string> {
  const { problem, remedy } = await describeMissing(options, key, signal);
  return `${problem} ${remedy}`;
}

function noteFailure({ trouble, registry }: Reporting, key: string, error: unknown): void {
  if (error instanceof NetworkConfigError) {
    const message = `the network configuration at ${key} cannot be used: ${explanationOf(error)}`;
    trouble.report('config', message, { key, code: error.code });
    return;
  }
  trouble.report('etcd', `waiting for etcd: ${explanationOf(error)}`, { endpoint: registry.endpoint, error });
}

/** Where a configuration may be. */
export interface Stores {
  readonly registry: Registry;
  readonly oldStore: OldStore;
}

/** When there is no configuration at `key`: says where the daemon looked and what lies nearby. Most often the prefix is wrong. */
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
