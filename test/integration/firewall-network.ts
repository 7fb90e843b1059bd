import { rmSync } from 'node:fs';
import { subnet } from '../../sim/leases.ts';
import { systemCommands } from '../../src/daemon/host/commands.ts';
import { subnetAt } from '../../src/ip/ip.ts';
import type { Commands } from '../../src/runtime/effects.ts';
import { type FirewallWorld } from '../contract/firewall-world.ts';
import { type IptablesVariant, iptablesFolder } from '../testbed/iptables.ts';
import { type Host, ipBatch, makeNetwork, type Network } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';

/** Addresses by family: hosts a and b, the world outside, containers on a and b, and one of another network on a. */
export const addresses = {
  4: {
    a: '10.211.55.100',
    b: '10.211.55.101',
    out: '10.211.55.200',
    ca: '10.5.7.2',
    cb: '10.5.8.2',
    cx: '192.168.9.2',
  },
  6: {
    a: 'fd00:55::100',
    b: 'fd00:55::101',
    out: 'fd00:55::200',
    ca: 'fc00:5:0:7::2',
    cb: 'fc00:5:0:8::2',
    cx: 'fd00:9::2',
  },
} as const;

export type Place = keyof (typeof addresses)[4];

/** Prefix lengths of segments and containers' bridges. */
const lengths = { 4: 24, 6: 64 } as const;
const networks = { 4: subnet('10.5.0.0/16'), 6: subnet('fc00:5::/32') };
const PORT = 7000;

/** Answers every connection with the address it came from. */
const SERVER = `
require('node:net').createServer((socket) => {
  socket.on('error', () => {});
  socket.end(socket.remoteAddress.replace('::ffff:', '') + '\\n');
}).listen(${PORT}, '::', () => console.log('listening'))`;

/** What host a or b has for its firewall. */
export function networksOf(host: 'a' | 'b') {
  const container = host === 'a' ? 'ca' : 'cb';
  const own = (family: 4 | 6) => subnet(`${addresses[family][container]}/${lengths[family]}`);
  return {
    ipv4: { network: networks[4], subnet: own(4) },
    ipv6: { network: networks[6], subnet: own(6) },
  };
}

/**
 * Two hosts on one segment with a container each, routed by host-gw, somebody outside who knows the way to all of them, and
 * on host a a container of another network. Everybody tells who connects.
 */
export class FirewallNetwork {
  readonly #network: Network;
  readonly #servers: RunningProcess[] = [];
  readonly #folders: Readonly<Record<IptablesVariant, string>>;

  private constructor(network: Network) {
    this.#network = network;
    this.#folders = { legacy: iptablesFolder('legacy'), nft: iptablesFolder('nft') };
  }

  static async make(): Promise<FirewallNetwork> {
    const onSegment = (place: Place) => [`${addresses[4][place]}/24`, `${addresses[6][place]}/64`];
    const made = new FirewallNetwork(
      await makeNetwork([
        ...(['a', 'b', 'out'] as const).map((name) => ({ name, addresses: onSegment(name) })),
        ...(['ca', 'cb', 'cx'] as const).map((name) => ({ name, addresses: [] })),
      ]),
    );
    try {
      await made.#connect();
      return made;
    } catch (error) {
      await made.close();
      throw error;
    }
  }

  host(place: Place): Host {
    const host = this.#network.hosts.find(({ name }) => name === place);
    if (host === undefined) throw new Error(`no ${place}`);
    return host;
  }

  /** The firewall tools of a host. */
  tools(place: 'a' | 'b', variant: IptablesVariant): FirewallWorld {
    const inside = ['--net', `/run/netns/${this.host(place).namespace}`].join('=');
    const commands = systemCommands([this.#folders[variant]]);
    const run: Commands['run'] = (program, args, options, signal) =>
      commands.run('nsenter', [inside, '--', program, ...args], options, signal);
    return { commands: { run }, close: async () => undefined };
  }

  /** Connects from one place to another; resolves to the address the other saw, or to undefined when nothing got through. */
  async seenFrom(from: Place, to: Place, family: 4 | 6, timeoutS = 10): Promise<string | undefined> {
    // Node's pipes are sockets, and a bash that reads from one takes itself for a remote shell: it would run ~/.bashrc first.
    const script = `exec 3<>/dev/tcp/${addresses[family][to]}/${PORT} && cat <&3`;
    try {
      const said = await this.host(from).exec('timeout', String(timeoutS), 'bash', '--norc', '-c', script);
      return said.trim() || undefined;
    } catch (error) {
      // What is dropped is waited for in vain (timeout says 124); what is refused has an answer (bash says 1).
      const { code } = (error as Error).cause as { readonly code?: number };
      if (code === 124 || code === 1) return undefined;
      throw error;
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.stop('SIGKILL')));
    for (const folder of Object.values(this.#folders)) rmSync(folder, { recursive: true, force: true });
    await this.#network.close();
  }

  async #connect(): Promise<void> {
    await this.#attach('a', 'docker0', 'ca');
    await this.#attach('b', 'docker0', 'cb');
    await this.#attach('a', 'br1', 'cx');
    for (const family of [4, 6] as const) {
      await this.#route('a', 'cb', 'b', family);
      await this.#route('b', 'ca', 'a', family);
      for (const container of ['ca', 'cx'] as const) await this.#route('out', container, 'a', family);
      await this.#route('out', 'cb', 'b', family);
      await this.#route('b', 'cx', 'a', family);
    }
    for (const host of ['a', 'b'] as const) {
      const forward = 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding';
      await this.host(host).exec('sh', '-ec', forward);
    }
    for (const host of this.#network.hosts)
      this.#servers.push(new RunningProcess(host.command(process.execPath, '-e', SERVER)));
    const listening = (lines: readonly string[]) => lines.find((line) => line === 'listening');
    await Promise.all(this.#servers.map((server) => server.waitFor(listening, 30_000, 'listening')));
  }

  /** Puts a container on a bridge of a host, as Docker does. */
  async #attach(host: 'a' | 'b', bridge: string, container: Place): Promise<void> {
    const { namespace } = this.host(host);
    const inside = this.host(container);
    await inside.deleteEth0();
    await inside.ip(`link add eth0 type veth peer name v-${container} netns ${namespace}`);
    const gateways = ([4, 6] as const).map((family) => gatewayOf(container, family));
    await ipBatch(namespace, [
      `link add ${bridge} type bridge forward_delay 0`,
      ...gateways.map((gateway) => `addr add ${gateway.cidr} dev ${bridge}${gateway.flags}`),
      `link set ${bridge} up`,
      `link set v-${container} master ${bridge} up`,
    ]);
    await inside.setAddresses(
      ([4, 6] as const).map((family) => `${addresses[family][container]}/${lengths[family]}`),
    );
    await inside.linkUp();
    for (const { address } of gateways) await inside.ip(`route add default via ${address}`);
  }

  async #route(from: Place, container: Place, gateway: Place, family: 4 | 6): Promise<void> {
    const dst = subnet(`${addresses[family][container]}/${lengths[family]}`).text;
    await this.host(from).ip(`route add ${dst} via ${addresses[family][gateway]}`);
  }
}

/** The bridge's own address in a container's subnet: the first. */
function gatewayOf(container: Place, family: 4 | 6) {
  const { first } = subnet(`${addresses[family][container]}/${lengths[family]}`);
  const address = subnetAt(family, first + 1n, family === 4 ? 32 : 128).text.split('/')[0] ?? '';
  return { address, cidr: `${address}/${lengths[family]}`, flags: family === 6 ? ' nodad' : '' };
}
