import type { Clock } from '../runtime/clock.ts';
import { explanationOf } from '../runtime/errors.ts';
import { excerpt } from '../runtime/excerpt.ts';
import type { Logger } from '../runtime/logger.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { type NetworkConfig, NetworkConfigError, parseNetworkConfig } from './config.ts';
import { type Registry, RegistryError } from './registry.ts';
import { configKey } from './subnet-key.ts';

export interface ConfigSourceOptions {
  readonly registry: Registry;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** As given by the user. */
  readonly etcdPrefix: string;
}

type Reporting = Pick<ConfigSourceOptions, 'registry' | 'trouble'>;

/** The configuration is asked for every second while it is missing or wrong, as flanneld does. */
const retryMs = 1_000;

/** Waits, for ever, until etcd holds a valid network configuration. Rejects only with `signal.reason`. */
export async function waitForConfig(
  options: ConfigSourceOptions,
  signal: AbortSignal,
): Promise<NetworkConfig> {
  const { registry, clock, trouble, log } = options;
  const key = configKey(options.etcdPrefix);
  let missing: string | undefined;
  for (;;) {
    try {
      const { kvs } = await registry.range({ key }, signal);
      trouble.clear('etcd', 'etcd answers', { endpoint: registry.endpoint });
      const text = kvs[0]?.value;
      if (text === undefined) {
        // Looking for what lies near costs a call: once.
        missing ??= await describeMissing(options, key, signal);
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

function noteFailure({ trouble, registry }: Reporting, key: string, error: unknown): void {
  if (error instanceof NetworkConfigError) {
    const message = `the network configuration at ${key} cannot be used: ${explanationOf(error)}`;
    trouble.report('config', message, { key, code: error.code });
    return;
  }
  trouble.report('etcd', `waiting for etcd: ${explanationOf(error)}`, { endpoint: registry.endpoint, error });
}

/** Says where it looked, and what lies near: most often the prefix is another one. */
async function describeMissing(options: Reporting, key: string, signal: AbortSignal): Promise<string> {
  const { registry } = options;
  const near = await nearbyPrefixes(registry, key, signal);
  let found = '';
  if (near?.length === 0) found = ' No other configuration was found in it.';
  else if (near) found = ` A network is configured under ${near.join(', ')}: is --etcd-prefix right?`;
  return (
    `no network configuration at ${key} (etcd ${registry.endpoint}, v3 API).${found} ` +
    `Store one with: etcdctl put ${key} '{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}'`
  );
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
