import { bridgeName } from '../backend/hostgw/pool-overlap.ts';
import { bridgeAddress, overlaps, parseSubnet, type Subnet } from '../ip/ip.ts';
import type { Link, LinkAddress } from '../kernel/kernel.ts';
import type { Clock } from '../runtime/clock.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import type { FamilyNetwork } from './subnet-env.ts';

export interface BridgeNoticeOptions {
  readonly clock: Clock;
  /** What the operator should know although this host does its work. */
  readonly notices: TroubleLog;
}

/** Docker is started anew right after this daemon when both are: no mention of what is over by then. */
const patienceMs = 5_000;

/**
 * Notices that Docker's bridge keeps an address of the network that is not this host's any more (flannel #195): containers
 * get addresses that all others route to another host. A bridge outside the network is none of ours.
 */
export class BridgeNotice {
  readonly #options: BridgeNoticeOptions;
  #wanted: FamilyNetwork | undefined;
  #held: readonly string[] = [];
  /** Since when the bridge has addresses that are not ours. */
  #sinceMs: number | undefined;

  constructor(options: BridgeNoticeOptions) {
    this.#options = options;
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
    const { clock, notices } = this.#options;
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
