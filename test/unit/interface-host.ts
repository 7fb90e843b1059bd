import type { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { chooseInterface, type HostInterface } from '../../src/daemon/interface/choose-interface.ts';
import { readHostNetwork, type WantedInterface } from '../../src/daemon/interface/host-network.ts';
import type { Family } from '../../src/ip/ip.ts';

export type Wishes = Partial<WantedInterface>;

/** Nothing asked for, IPv4 alone. */
export function wishes(over: Wishes = {}): WantedInterface {
  return { ifaces: [], ifaceRegexes: [], families: [4], ...over };
}

export const both: readonly Family[] = [4, 6];

/** eth0 with two addresses of each family and the default routes, eth1 with one of each, eth2 with none, down. */
export function makeHost(clock?: VirtualClock): SimKernel {
  const kernel = new SimKernel(clock === undefined ? {} : { clock, latencyMs: 1 });
  const linkIndex = kernel.createLink('eth0', { mtu: 1450 });
  kernel.addAddress('eth0', '10.211.55.100/24');
  kernel.addAddress('eth0', '10.211.55.200/24');
  kernel.addAddress('eth0', 'fd00:55::200/64');
  kernel.addAddress('eth0', 'fd00:55::100/64');
  kernel.createLink('eth1');
  kernel.addAddress('eth1', '192.168.7.1/24');
  kernel.addAddress('eth1', 'fd00:7::1/64');
  kernel.createLink('eth2', { up: false });
  kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.55.1', linkIndex });
  kernel.addRoute({ dst: '::/0', gateway: 'fd00:55::1', linkIndex });
  return kernel;
}

/** `name IPv4 IPv6 MTU`, without what there is not. */
export function brief({ name, addresses: { ipv4, ipv6 }, mtu }: HostInterface): string {
  return [name, ipv4, ipv6, mtu].filter((part) => part !== undefined).join(' ');
}

/** The choice as {@link brief} writes it, with what was skipped; or the problem. */
export async function choose(kernel: SimKernel, over: Wishes = {}): Promise<string> {
  const connection = kernel.open();
  const wanted = wishes(over);
  const host = await readHostNetwork(connection, wanted, new AbortController().signal);
  connection.close();
  const choice = chooseInterface(host, wanted);
  return 'problem' in choice ? choice.problem : [brief(choice.chosen), ...choice.skipped].join('; ');
}

/** A row of a table of choices from {@link makeHost}. */
export type Row = readonly [what: string, wishes: Wishes, expected: string];

/** What is said when nothing of {@link makeHost} fits in an IPv4 network. */
export function noInterface(why: string): string {
  const exist =
    'eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (192.168.7.1/24), eth2 (no IPv4 address, down)';
  return `no usable interface: ${why}. There are: ${exist}`;
}

/** How it begins when --public-ip is not the address that eth0 was chosen with. */
export function noNat(given: string, own: string): string {
  return `--public-ip=${given} is not the address of eth0 (${own}), and host-gw works through no NAT`;
}
