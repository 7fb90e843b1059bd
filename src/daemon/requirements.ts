import type { Kernel } from '../kernel/kernel.ts';
import { FlannelError } from '../runtime/errors.ts';
import type { Files } from '../runtime/files.ts';
import type { Logger } from '../runtime/logger.ts';
import { type NetworkConfig, NetworkConfigError, type PoolConfig } from '../subnet/config.ts';

/** The host cannot do what the daemon is for. Ends it with exit code 1, before anything was touched. */
export class CannotRunError extends FlannelError {}

/** Rejects with {@link CannotRunError}, naming the capability, when this process may not change routes. */
export async function requireCapabilities(kernel: Kernel): Promise<void> {
  const missing = await kernel.missingCapabilities();
  if (missing.length === 0) return;
  throw new CannotRunError(
    'NO_PERMISSION',
    `routes cannot be changed: this process lacks ${missing.join(', ')}`,
    {
      remedy: `Run as root, or give it ${missing.join(', ')} (systemd: AmbientCapabilities=, docker: --cap-add).`,
    },
  );
}

/**
 * Half of a dual-stack network would look like a whole one, so IPv6 is refused until it is supported: throws
 * {@link NetworkConfigError}.
 */
export function requireIPv4(config: NetworkConfig): NetworkConfig & { readonly ipv4: PoolConfig } {
  const { ipv4, ipv6 } = config;
  if (ipv4 !== undefined && ipv6 === undefined) return { ...config, ipv4 };
  throw new NetworkConfigError(
    'FAMILY',
    'EnableIPv6',
    'EnableIPv6 is true, which this version does not support',
    'Set EnableIPv6 to false and EnableIPv4 to true.',
  );
}

/** Without forwarding all routes are in vain. Only said: it is the operator's to switch on, before Docker starts. */
export async function warnUnlessForwarding({
  files,
  log,
}: {
  readonly files: Files;
  readonly log: Logger;
}): Promise<void> {
  const forwarding = await files.readText('/proc/sys/net/ipv4/ip_forward').catch(() => undefined);
  if (forwarding?.trim() !== '0') return;
  log.warn(
    { event: 'not-forwarding' },
    'this host does not forward packets, so its containers reach no other host: sysctl -w net.ipv4.ip_forward=1',
  );
}
