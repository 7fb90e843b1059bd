import type { Family } from '../ip/ip.ts';
import { bridgeFilter, forwarding } from '../kernel/sysctl.ts';
import { messageOf } from '../runtime/errors.ts';
import type { Files } from '../runtime/files.ts';
import type { Logger } from '../runtime/logger.ts';

interface HostParts {
  readonly files: Files;
  readonly log: Logger;
}

/**
 * Without forwarding all routes are in vain. With `setIpForward` it is switched on, otherwise only said: dockerd closes the
 * FORWARD chain when it is the one that has to switch it on, so this is to happen before Docker starts. Never rejects.
 */
export async function prepareForwarding({
  files,
  log,
  families,
  setIpForward,
}: HostParts & { readonly families: readonly Family[]; readonly setIpForward: boolean }): Promise<void> {
  for (const family of families) {
    const { path, name } = forwarding[family];
    if ((await valueOf(files, path)) !== '0') continue;
    const remedy = `sysctl -w ${name}=1`;
    if (!setIpForward) {
      log.warn(
        { event: 'not-forwarding', family },
        `this host does not forward packets, so its containers reach no other host: ${remedy}`,
      );
      continue;
    }
    try {
      await files.writeInPlace(path, '1\n');
      log.info({ event: 'forwarding-set', family }, `forwarding was off and is switched on (${name}=1)`);
    } catch (error) {
      log.warn(
        { event: 'not-forwarding', family },
        `this host does not forward packets, and that cannot be changed: ${messageOf(error)}. As root: ${remedy}`,
      );
    }
  }
}

/**
 * Says when packets between containers on one bridge do not pass iptables, which rules of other programs may count on; flanneld
 * ends for that in iptables mode. Our own routes and rules do without. Never rejects.
 */
export async function reportBridgeFilter({
  files,
  log,
  families,
}: HostParts & { readonly families: readonly Family[] }): Promise<void> {
  for (const family of families) {
    const { path, name } = bridgeFilter[family];
    if ((await valueOf(files, path)) !== undefined) continue;
    log.warn(
      { event: 'no-bridge-filter', family },
      `packets between containers of this host do not pass iptables, as ${name} is missing; if they are to: modprobe br_netfilter`,
    );
  }
}

/** undefined when there is no such setting, or none that can be read. */
async function valueOf(files: Files, path: string): Promise<string | undefined> {
  return (await files.readText(path).catch(() => undefined))?.trim();
}
