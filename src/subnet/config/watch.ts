import { formatAddress, type Subnet } from '../../ip/ip.ts';
import type { Random } from '../../runtime/effects.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { type BackoffPolicy, backoffMs } from '../../runtime/retry.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { configKey } from '../keys.ts';
import { RegistryError, stuckWithEtcdMs } from '../registry/registry.ts';
import { type NetworkConfig, NetworkConfigError, type PoolConfig, parseNetworkConfig } from './config.ts';
import type { ConfigOptions } from './source.ts';

interface ConfigWatchOptions extends ConfigOptions {
  readonly random: Random;
  /** Gets an edit under `config-changed`, and under `config-watch` that the daemon would not notice one. */
  readonly notices: TroubleLog;
  /** The configuration that this host works with. */
  readonly config: NetworkConfig;
  /** Whether this host has leased a subnet by it. Before that it can still change to another one. */
  readonly isApplied: () => boolean;
}

const loop = 'config-watch';
const policy: BackoffPolicy = { initialMs: 500, maxMs: 30_000 };

/**
 * Notices an edit of the network configuration while the daemon runs, checks it and reports its changes. It
 * applies none of them: a network that is half the old and half the new one would cut containers off; the
 * next start applies it. Only a host without a subnet (the pool may be too small) starts over with it.
 */
export class ConfigWatch {
  readonly #options: ConfigWatchOptions;
  readonly #key: string;

  constructor(options: ConfigWatchOptions) {
    this.#options = options;
    this.#key = configKey(options.etcdPrefix);
  }

  /** Watches until `signal` aborts, then rejects with its reason; resolves when this host can start over. */
  async run(signal: AbortSignal): Promise<void> {
    const { activity, clock, random, notices, registry } = this.#options;
    try {
      for (let failures = 0; ; failures++) {
        activity?.round(loop, stuckWithEtcdMs);
        try {
          // No revision, so no compaction breaks the watch. The read after `created` covers what came before.
          for await (const { kind } of registry.watch(
            { key: this.#key, rangeEnd: `${this.#key}\0` },
            signal,
          )) {
            activity?.round(loop, stuckWithEtcdMs);
            // Every ten minutes etcd tells each host that nothing has happened.
            if (kind !== 'progress' && (await this.#look(signal))) return;
            notices.clear('config-watch', `watching ${this.#key} again`);
            failures = 0;
            // The key may never change. HTTP/2 keepalive finds a dead stream.
            activity?.round(loop, Number.POSITIVE_INFINITY);
          }
        } catch (error) {
          signal.throwIfAborted();
          if (!(error instanceof RegistryError)) throw error;
          // The lease watch reports that etcd is away. This one reports only that etcd denies it this key.
          const problem = `${this.#key} cannot be watched, so the daemon does not notice an edit`;
          const fields = { endpoint: registry.endpoint, error };
          if (error.kind === 'PERMISSION_DENIED')
            notices.report('config-watch', `${problem}: ${explanationOf(error)}`, fields);
        }
        await clock.sleep(backoffMs(policy, failures, random), signal);
      }
    } finally {
      activity?.end(loop);
    }
  }

  /** Reads the key: events only say that it changed. Resolves to whether this host starts over. */
  async #look(signal: AbortSignal): Promise<boolean> {
    const { registry, notices, isApplied } = this.#options;
    const { kvs } = await registry.range({ key: this.#key }, signal);
    const notice = this.#judge(kvs[0]?.value);
    if (notice === undefined) {
      notices.clear('config-changed', `${this.#key} again holds the configuration that this host uses`);
      return false;
    }
    if (!isApplied()) return true;
    notices.report('config-changed', notice, { key: this.#key });
    return false;
  }

  /** The notice about the configuration in etcd; undefined when this host uses it. */
  #judge(text: string | undefined): string | undefined {
    const subject = `the network configuration ${this.#key}`;
    const keeps = 'This host keeps using the configuration it was started with';
    if (text === undefined)
      return `${subject} was deleted. ${keeps}; after a restart it waits until there is one again`;
    try {
      const changes = configChanges(this.#options.config, parseNetworkConfig(text));
      if (changes.length === 0) return undefined;
      return `${subject} was changed: ${changes.join(', ')}. ${keeps}; restart the daemon to apply it`;
    } catch (error) {
      if (!(error instanceof NetworkConfigError)) throw error;
      const waits = `${keeps}; after a restart it waits until the configuration is fixed`;
      return `${subject} was changed and cannot be used: ${explanationOf(error)} ${waits}`;
    }
  }
}

/** The parts of a configuration as texts, by key; the other keys of a family that is off are absent. */
export function configParts({ ipv4, ipv6, enableNFTables }: NetworkConfig): ReadonlyMap<string, string> {
  return new Map([
    ['EnableIPv4', String(ipv4 !== undefined)],
    ...poolParts(ipv4, ''),
    ['EnableIPv6', String(ipv6 !== undefined)],
    ...poolParts(ipv6, 'IPv6'),
    ['EnableNFTables', String(enableNFTables)],
  ]);
}

function poolParts(pool: PoolConfig | undefined, prefix: string): readonly (readonly [string, string])[] {
  if (pool === undefined) return [];
  // As a configuration names a subnet: by its first address. SubnetLen has a line of its own.
  const startOf = ({ family, first }: Subnet) => formatAddress(family, first);
  return [
    [`${prefix}Network`, pool.network.text],
    [`${prefix}SubnetLen`, String(pool.subnetLength)],
    [`${prefix}SubnetMin`, startOf(pool.min)],
    [`${prefix}SubnetMax`, startOf(pool.max)],
  ];
}

/**
 * The differences between two configurations, one entry per key such as `SubnetLen 24 → 25`; empty when they
 * mean the same. Defaults count as the values that they stand for.
 */
export function configChanges(before: NetworkConfig, after: NetworkConfig): readonly string[] {
  const [old, now] = [configParts(before), configParts(after)];
  return [...new Set([...old.keys(), ...now.keys()])]
    .filter((key) => old.get(key) !== now.get(key))
    .map((key) => `${key} ${old.get(key) ?? '(none)'} → ${now.get(key) ?? '(none)'}`);
}
