import { exec, run } from './commands.ts';
import type { Host } from './netns.ts';
import type { Way } from './ping.ts';
import { uniqueName } from './run.ts';

/** A container as Docker connects it, without a Docker: it costs milliseconds. */
export interface NamespaceContainer {
  readonly name: string;
  /** Its addresses on docker0, one for each gateway. */
  readonly addresses: readonly string[];
  /** The first of them. */
  readonly address: string;
  /** The words before a command that run it in there. */
  readonly where: readonly string[];
  /** Removes it; docker0 stays. */
  close(): Promise<void>;
}

/**
 * Gives the host docker0 with `gateways` (FLANNEL_SUBNET: `172.20.91.1/24`, FLANNEL_IPV6_SUBNET: `fd20:0:5::1/64`), unless it
 * is there, and connects a namespace to it that has the second address of each subnet. On failure nothing of the namespace
 * is left.
 */
export async function addContainer(host: Host, ...gateways: readonly string[]): Promise<NamespaceContainer> {
  const bridge = await host.ip('link show docker0').catch(() => undefined);
  if (bridge === undefined) {
    await host.ip('link add docker0 type bridge');
    await host.setAddresses(gateways, 'docker0');
    await host.ip('link set docker0 up');
  }
  const namespace = uniqueName();
  const close = async () => {
    await run('ip', ['netns', 'del', namespace]).catch(() => '');
  };
  const addresses: string[] = [];
  try {
    await run('ip', ['netns', 'add', namespace]);
    const inside = (line: string) => exec(namespace, 'ip', ...line.split(' '));
    await inside('link set lo up');
    await inside(`link add eth0 type veth peer name vethc0 netns ${host.namespace}`);
    await host.ip('link set vethc0 master docker0 up');
    await inside('link set eth0 up');
    for (const gateway of gateways) {
      const [bridgeAddress = '', length] = gateway.split('/');
      const address = bridgeAddress.replace(/([.:])1$/, '$12');
      addresses.push(address);
      await inside(`addr add ${address}/${length} dev eth0${address.includes(':') ? ' nodad' : ''}`);
      await inside(`route add default via ${bridgeAddress}`);
    }
  } catch (error) {
    await close();
    throw error;
  }
  const where = ['nsenter', `--net=/run/netns/${namespace}`, '--'];
  const [address = ''] = addresses;
  return { name: `the container on ${host.name}`, address, addresses, where, close };
}

/** From each of the containers to every address of the others. */
export function waysBetween(containers: readonly NamespaceContainer[]): readonly Way[] {
  return containers.flatMap((from) => {
    const others = containers.filter((other) => other !== from);
    return others
      .flatMap(({ addresses }) => addresses)
      .map((destination) => ({ where: from.where, destination }));
  });
}
