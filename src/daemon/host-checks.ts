import { bridgeName, cniBridgeName } from '../backend/hostgw/host-networks.ts';
import { bridgeAddress, type Family, overlaps, parseSubnet, type Subnet } from '../ip/ip.ts';
import {
  bridgeFilter,
  forwarding,
  type Kernel,
  type Link,
  type LinkAddress,
  linkForwarding,
  type Sysctl,
} from '../kernel/kernel.ts';
import type { Files } from '../runtime/effects.ts';
import { FlannelError, systemReason } from '../runtime/errors.ts';
import type { Parts } from './parts.ts';
import type { FamilyNetwork } from './subnet-env.ts';

interface ForwardingOptions extends Pick<Parts, 'files' | 'clock' | 'log' | 'trouble' | 'activity'> {
  readonly families: readonly Family[];
  /** Whether to switch forwarding on when it is off (`--set-ip-forward`). */
  readonly setIpForward: boolean;
  /** The interface that peers reach this host by. */
  readonly linkName: () => string;
}

/** The kernel sends no event for these settings; a look takes at most five reads of /proc. */
const checkIntervalMs = 10_000;
const loop = 'forwarding';
/** Reads of /proc take no time. */
const stuckMs = 60_000;

/**
 * Whether this host passes packets on: without that all routes are in vain. Looked at before Docker starts, as dockerd closes the
 * FORWARD chain when it is the one that has to switch it on, and then all the time. With `setIpForward` what is off is switched on,
 * again and again.
 */
export class Forwarding {
  readonly #options: ForwardingOptions;

  constructor(options: ForwardingOptions) {
    this.#options = options;
  }

  /** Checks until `signal` aborts, then rejects with its reason. */
  async run(signal: AbortSignal): Promise<never> {
    const { clock, activity } = this.#options;
    try {
      for (;;) {
        activity.round(loop, stuckMs);
        await clock.sleep(checkIntervalMs, signal);
        await this.check();
      }
    } finally {
      activity.end(loop);
    }
  }

  /** Looks once, and switches on what is to be. Never rejects. */
  async check(): Promise<void> {
    const { families, trouble } = this.#options;
    for (const family of families) {
      const what = `forwarding-ipv${family}`;
      const isOff = (await this.#read(forwarding[family])) === '0';
      const failure = isOff && this.#options.setIpForward ? await this.#switchOn(family) : undefined;
      const off =
        isOff && (failure !== undefined || !this.#options.setIpForward)
          ? [forwarding[family]]
          : await this.#linksOff(family);
      if (off.length === 0) {
        trouble.clear(what, `IPv${family} forwarding is on again`);
        continue;
      }
      const remedy = off.map(({ name }) => `sysctl -w ${name}=1`).join(' && ');
      const named = off.map(({ name }) => `${name} = 0`).join(', ');
      const tried = failure === undefined ? '' : `, and the daemon cannot switch it on: ${failure}`;
      trouble.report(
        what,
        `IPv${family} forwarding is off (${named}), so containers reach no other host${tried}. Run: ${remedy}`,
        { event: 'not-forwarding', family },
      );
    }
  }

  /**
   * Links that do not forward although the host does. Somebody chose that for this link, so the daemon reports it and leaves it. In IPv6
   * a link's own setting only says whether the host takes router advertisements there.
   */
  async #linksOff(family: Family): Promise<readonly Sysctl[]> {
    if (family === 6) return [];
    const names = [this.#options.linkName(), bridgeName, cniBridgeName];
    const links = names.map(linkForwarding);
    const values = await Promise.all(links.map((setting) => this.#read(setting)));
    return links.filter((_, i) => values[i] === '0');
  }

  /** Why that failed; undefined when it succeeded. */
  async #switchOn(family: Family): Promise<string | undefined> {
    const { files, log, activity } = this.#options;
    const { path, name } = forwarding[family];
    try {
      await files.writeInPlace(path, '1\n');
    } catch (error) {
      return systemReason(error);
    }
    activity.count('forwarding-set', `ipv${family}`);
    log.warn(
      { event: 'forwarding-set', family },
      `IPv${family} forwarding was off; the daemon switched it on (${name}=1)`,
    );
    return undefined;
  }

  #read(setting: Sysctl): Promise<string | undefined> {
    return valueOf(this.#options.files, setting.path);
  }
}

/**
 * Warns when packets between containers on one bridge bypass iptables, because rules of other programs may rely on it. flanneld exits
 * in that case in iptables mode; our own routes and rules do not need it. Never rejects.
 */
export async function reportBridgeFilter({
  files,
  log,
  families,
}: Pick<ForwardingOptions, 'files' | 'log' | 'families'>): Promise<void> {
  for (const family of families) {
    const { path, name } = bridgeFilter[family];
    if ((await valueOf(files, path)) !== undefined) continue;
    log.warn(
      { event: 'no-bridge-filter', family },
      `packets between containers of this host bypass iptables, because ${name} does not exist; to change that: modprobe br_netfilter`,
    );
  }
}

/** Undefined when the setting does not exist or cannot be read. */
async function valueOf(files: Files, path: string): Promise<string | undefined> {
  return (await files.readText(path).catch(() => undefined))?.trim();
}

/** When both are restarted, Docker restarts right after this daemon: wait for that before the notice. */
const patienceMs = 5_000;

/**
 * Notices that Docker's bridge keeps an address of the network that is not this host's any more (flannel #195): containers
 * get addresses that all other hosts route to another host. Ignores a bridge outside the network.
 */
export class BridgeNotice {
  readonly #parts: Pick<Parts, 'clock' | 'notices'>;
  #wanted: FamilyNetwork | undefined;
  #held: readonly string[] = [];
  /** Since when the bridge has addresses that are not ours. */
  #sinceMs: number | undefined;

  constructor(parts: Pick<Parts, 'clock' | 'notices'>) {
    this.#parts = parts;
  }

  /** Takes in the IPv4 network and this host's subnet in it. */
  expect(ipv4: FamilyNetwork | undefined): void {
    this.#wanted = ipv4;
    this.#judge();
  }

  /** Takes in what the host has now. */
  look(links: readonly Link[], addresses: readonly LinkAddress[]): void {
    const bridge = links.find(({ name }) => name === bridgeName);
    this.#held = addresses
      .filter(({ family, linkIndex }) => family === 4 && linkIndex === bridge?.index)
      .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
    this.#judge();
  }

  #judge(): void {
    const { clock, notices } = this.#parts;
    const wanted = this.#wanted;
    if (wanted === undefined) return;
    const old = this.#held.filter(
      (text) => text !== bridgeAddress(wanted.subnet) && isIn(wanted.network, text),
    );
    if (old.length === 0) {
      this.#sinceMs = undefined;
      notices.clear('bridge', `${bridgeName} has no address of another subnet any more`);
      return;
    }
    this.#sinceMs ??= clock.monotonic();
    if (clock.monotonic() - this.#sinceMs < patienceMs) return;
    notices.report(
      'bridge',
      `${bridgeName} has ${old.join(' and ')}, and this host's subnet is ${wanted.subnet.text}: ` +
        'its containers cannot be reached from other hosts. Run: systemctl restart docker',
      { bridge: bridgeName, has: old },
    );
  }
}

function isIn(network: Subnet, text: string): boolean {
  const subnet = parseSubnet(text);
  return subnet !== undefined && overlaps(subnet, network);
}

/** The daemon cannot work on this host. It exits with code 1 before it has touched anything. */
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
