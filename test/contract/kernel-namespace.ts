import { systemClock } from '../../src/daemon/host/clock.ts';
import type { Kernel, RouteFinder } from '../../src/kernel/kernel.ts';
import { type NetlinkKernelOptions, openNetlinkKernel } from '../../src/kernel/netlink-kernel.ts';
import { enterNamespace, type Host, makeNetwork, until } from '../testbed/netns.ts';
import {
  type Connection,
  HOST4,
  HOST6,
  type KernelWorld,
  type Operator,
  type OperatorRoute,
} from './kernel-world.ts';

/** A world in a namespace of its own, which this process's main thread is moved into until it is closed. */
export interface NamespaceWorld extends KernelWorld {
  readonly host: Host;
  open(options?: Partial<NetlinkKernelOptions>): Kernel & RouteFinder;
}

export async function makeNamespaceWorld(
  wrap: (kernel: Connection) => Connection = (kernel) => kernel,
): Promise<NamespaceWorld> {
  const network = await makeNetwork([{ addresses: [HOST4, HOST6] }]);
  const [host] = network.hosts;
  if (host === undefined) throw new Error('no host');
  await host.ip('link set eth0 addrgenmode none');
  await host.ip('-6 addr flush dev eth0 scope link');
  await until(() => isSettled(host), 20_000, 'eth0 got no carrier, or its addresses stay tentative');
  const opened: Kernel[] = [];
  const leave = enterNamespace(host.namespace);
  return {
    host,
    operator: operatorOf(host),
    open: (options = {}) => {
      const kernel = wrap(openNetlinkKernel({ clock: systemClock, ...options }));
      opened.push(kernel);
      return kernel;
    },
    close: async () => {
      for (const kernel of opened) kernel.close();
      leave();
      await network.close();
    },
  };
}

/** With carrier the kernel looks for duplicates of IPv6 addresses, and tells of them once more when it has done so. */
async function isSettled(host: Host): Promise<boolean> {
  const [link, addresses] = [await host.ip('link show eth0'), await host.ip('-6 addr show dev eth0')];
  return link.includes('state UP') && !addresses.includes('tentative');
}

function operatorOf(host: Host): Operator {
  return {
    linkIndex: (name) => host.linkIndex(name),
    createLink: async () => host.createEth0([]),
    deleteLink: async (name) => void (await host.ip(`link del ${name}`)),
    setLinkUp: async (name, up) => void (await host.ip(`link set ${name} ${up ? 'up' : 'down'}`)),
    setCarrier: (_name, plugged) => host.setCarrier(plugged),
    addAddress: (name, cidr) => host.setAddresses([cidr], name),
    removeAddress: async (name, cidr) => void (await host.ip(`addr del ${cidr} dev ${name}`)),
    addRoute: async (mode, route) => void (await host.ip(`route ${mode} ${words(route)}`)),
    deleteRoute: async (route) => void (await host.ip(`route del ${words(route)}`)),
  };
}

function words(route: OperatorRoute): string {
  const { dst, gateway, dev, protocol, metric, blackhole } = route;
  const parts = [blackhole ? `blackhole ${dst}` : dst];
  if (gateway !== undefined) parts.push(`via ${gateway}`);
  if (dev !== undefined) parts.push(`dev ${dev}`);
  if (protocol !== undefined) parts.push(`proto ${protocol}`);
  if (metric !== undefined) parts.push(`metric ${metric}`);
  return parts.join(' ');
}
