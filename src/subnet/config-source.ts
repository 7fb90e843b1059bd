import type { Clock } from '../runtime/clock.ts';
import { explanationOf } from '../runtime/errors.ts';
import type { Logger } from '../runtime/logger.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { type NetworkConfig, NetworkConfigError, parseNetworkConfig } from './config.ts';
import { describeMissing } from './config-missing.ts';
import type { OldStore } from './old-store.ts';
import type { Registry } from './registry.ts';
import { configKey } from './subnet-key.ts';

export interface ConfigSourceOptions {
  readonly registry: Registry;
  /** Looked at when there is no configuration, for what to say. */
  readonly oldStore: OldStore;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** As given by the user. */
  readonly etcdPrefix: string;
}

type Reporting = Pick<ConfigSourceOptions, 'registry' | 'trouble'>;

/** The configuration is asked for every second while it is missing or wrong, as flanneld does. */
const retryMs = 1_000;
/** How often it is looked what there is instead of it. */
const describeEveryMs = 60_000;

/** Waits, for ever, until etcd holds a valid network configuration. Rejects only with `signal.reason`. */
export async function waitForConfig(
  options: ConfigSourceOptions,
  signal: AbortSignal,
): Promise<NetworkConfig> {
  const { registry, clock, trouble, log } = options;
  const key = configKey(options.etcdPrefix);
  let missing: string | undefined;
  let describedAtMs = Number.NEGATIVE_INFINITY;
  for (;;) {
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
