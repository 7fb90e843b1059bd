import { formatAddress, type Subnet } from '../../ip/ip.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Random } from '../../runtime/effects.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { type BackoffPolicy, backoffMs } from '../../runtime/retry.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { configKey } from '../keys.ts';
import { type Registry, RegistryError } from '../registry/registry.ts';
import { type NetworkConfig, NetworkConfigError, type PoolConfig, parseNetworkConfig } from './config.ts';

export interface ConfigWatchOptions {
  readonly registry: Registry;
  readonly clock: Clock;
  readonly random: Random;
  /** Where an edit is reported, under `config-changed`, and under `config-watch` that none would be noticed. */
  readonly notices: TroubleLog;
  /** Told of each round of the loop. */
  readonly activity?: Activity;
  /** As given by the user. */
  readonly etcdPrefix: string;
  /** The configuration this host works with. */
  readonly config: NetworkConfig;
  /** Whether a subnet was leased by it. Until then nothing would be half of each. */
  readonly isApplied: () => boolean;
}

const loop = 'config-watch';
/** Calls have deadlines of seconds, for each member that is asked. */
const stuckMs = 600_000;
const policy: BackoffPolicy = { initialMs: 500, maxMs: 30_000 };

/**
 * Notices that the network configuration was edited while the daemon runs, checks it and says what it would change. Nothing
 * of it is applied: a network that is half the old and half the new one would cut containers off; the next start applies it.
 * Only a host that has no subnet yet, perhaps because the pool is too small, begins again with the new one.
 */
export class ConfigWatch {
  readonly #options: ConfigWatchOptions;
  readonly #key: string;

  constructor(options: ConfigWatchOptions) {
    this.#options = options;
    this.#key = configKey(options.etcdPrefix);
  }

  /** Watches until `signal` aborts, then rejects with its reason; resolves when another configuration can still be taken. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      await this.#follow(signal);
    } finally {
      this.#options.activity?.end(loop);
    }
  }

  async #follow(signal: AbortSignal): Promise<void> {
    const { activity, clock, random, notices, registry } = this.#options;
    for (let failures = 0; ; failures++) {
      activity?.round(loop, stuckMs);
      try {
        // Without a revision, so that no compaction can come in between: what was before it is read.
        for await (const _ of registry.watch({ key: this.#key, rangeEnd: `${this.#key}\0` }, signal)) {
          activity?.round(loop, stuckMs);
          if (await this.#look(signal)) return;
          notices.clear('config-watch', `${this.#key} can be watched again`);
          failures = 0;
          // Nothing need ever change: that the stream lives is HTTP/2's care.
          activity?.round(loop, Number.POSITIVE_INFINITY);
        }
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof RegistryError)) throw error;
        this.#noteFailure(error);
      }
      await clock.sleep(backoffMs(policy, failures, random), signal);
    }
  }

  /** That etcd is away is told by the lease watch; here only what keeps from this key alone. */
  #noteFailure(error: RegistryError): void {
    if (error.kind !== 'PERMISSION_DENIED') return;
    const { notices, registry } = this.#options;
    const message = `${this.#key} cannot be watched, an edit of it would not be noticed: ${explanationOf(error)}`;
    notices.report('config-watch', message, { endpoint: registry.endpoint, error });
  }

  /**
   * Reads the key itself: events say that it changed, and only its state counts. Resolves to whether it is to be taken
   * instead of the one at hand.
   */
  async #look(signal: AbortSignal): Promise<boolean> {
    const { registry, notices, isApplied } = this.#options;
    const { kvs } = await registry.range({ key: this.#key }, signal);
    const notice = this.#judge(kvs[0]?.value);
    if (notice === undefined) {
      notices.clear('config-changed', `${this.#key} is again what this host works with`);
      return false;
    }
    if (!isApplied()) return true;
    notices.report('config-changed', notice, { key: this.#key });
    return false;
  }

  /** What there is to say about the configuration that etcd holds; undefined when it is the one in use. */
  #judge(text: string | undefined): string | undefined {
    const goesOn = 'This host keeps using the configuration it was started with';
    if (text === undefined) {
      return `the network configuration ${this.#key} was deleted. ${goesOn}; after a restart it waits until there is one again`;
    }
    try {
      const changes = configChanges(this.#options.config, parseNetworkConfig(text));
      if (changes.length === 0) return undefined;
      return `the network configuration ${this.#key} was changed: ${changes.join(', ')}. ${goesOn}; restart the daemon to apply it`;
    } catch (error) {
      if (!(error instanceof NetworkConfigError)) throw error;
      return `the network configuration ${this.#key} was changed and cannot be used: ${explanationOf(error)} ${goesOn}; after a restart it waits until the configuration is fixed`;
    }
  }
}

/** What each part of a configuration is, in words; absent parts are off. */
function partsOf(config: NetworkConfig): ReadonlyMap<string, string> {
  const { ipv4, ipv6, enableNFTables } = config;
  return new Map([
    ...(ipv4 === undefined ? [['EnableIPv4', 'false'] as const] : poolParts(ipv4, '')),
    ...(ipv6 === undefined ? [['EnableIPv6', 'false'] as const] : poolParts(ipv6, 'IPv6')),
    ['EnableNFTables', String(enableNFTables)],
  ]);
}

function poolParts(pool: PoolConfig, prefix: string): readonly (readonly [string, string])[] {
  return [
    [pool.network.family === 4 ? 'EnableIPv4' : 'EnableIPv6', 'true'],
    [`${prefix}Network`, pool.network.text],
    [`${prefix}SubnetLen`, String(pool.subnetLength)],
    [`${prefix}SubnetMin`, startOf(pool.min)],
    [`${prefix}SubnetMax`, startOf(pool.max)],
  ];
}

/** As a configuration names a subnet: another length alone is told of by its own key. */
function startOf({ family, first }: Subnet): string {
  return formatAddress(family, first);
}

/**
 * What is different between two configurations, one entry per key such as `SubnetLen 24 → 25`; empty when they mean the
 * same, however they are written. Defaults are compared as the values they stand for.
 */
export function configChanges(before: NetworkConfig, after: NetworkConfig): readonly string[] {
  const old = partsOf(before);
  const now = partsOf(after);
  const keys = new Set([...old.keys(), ...now.keys()]);
  return [...keys]
    .filter((key) => old.get(key) !== now.get(key))
    .map((key) => `${key} ${old.get(key) ?? '(none)'} → ${now.get(key) ?? '(none)'}`);
}
