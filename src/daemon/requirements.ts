import type { Kernel } from '../kernel/kernel.ts';
import { FlannelError } from '../runtime/errors.ts';
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
