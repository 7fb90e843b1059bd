import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { startEtcd } from '../testbed/etcd.ts';
import { type KernelMonitor, monitorKernel } from '../testbed/kernel-monitor.ts';
import { enterNamespace, type Host, makeNetwork } from '../testbed/netns.ts';
import { tempDir } from '../testbed/run.ts';

const PREFIX = '/bench';
/** Wide enough that each of 100,000 peers has a gateway of its own on the link. */
const HOST_ADDRESS = '172.16.0.1/12';
const CONFIG = {
  Network: '10.0.0.0/8',
  SubnetMin: '10.200.0.0',
  SubnetMax: '10.201.0.0',
  Backend: { Type: 'host-gw' },
};
/** etcd's default limit of operations in a transaction. */
const TXN_OPS = 128;
const DAY_SECONDS = 86_400;

export const ENDPOINT = 'http://127.0.0.1:2379';

/** A peer, by its number: its subnet, and its gateway before (0) or after a move (1). */
export const subnetOf = (peer: number): string => `10.${peer >> 8}.${peer & 255}.0/24`;
export const gatewayOf = (peer: number, moved: 0 | 1 = 0): string =>
  `172.${(moved === 0 ? 17 : 24) + (peer >> 16)}.${(peer >> 8) & 255}.${peer & 255}`;

/**
 * One host in a network namespace with an etcd of its own. Peers are leases alone: a route needs its gateway on
 * link, not alive. While a stage is open this process's main thread is in that namespace, so its requests to etcd
 * and the programs it starts need no way between. Needs root.
 */
export class Stage {
  readonly dir: string;
  readonly host: Host;
  readonly monitor: KernelMonitor;
  readonly flags = [`--etcd-endpoints=${ENDPOINT}`, `--etcd-prefix=${PREFIX}`, '--iface=eth0'];
  readonly #close: () => Promise<void>;
  #leaseId = '0';

  private constructor(dir: string, host: Host, monitor: KernelMonitor, close: () => Promise<void>) {
    this.dir = dir;
    this.host = host;
    this.monitor = monitor;
    this.#close = close;
  }

  /** Opens a stage with the network configuration stored, and no lease. */
  static async open(): Promise<Stage> {
    const closers: (() => Promise<unknown>)[] = [];
    const close = async () => {
      for (const one of closers.toReversed()) await one();
    };
    try {
      const dir = tempDir('bench');
      closers.push(async () => rmSync(dir, { recursive: true, force: true }));
      const network = await makeNetwork([{ name: 'bench', addresses: [HOST_ADDRESS] }]);
      closers.push(() => network.close());
      const [host] = network.hosts;
      if (host === undefined) throw new Error('no host');
      const members = [{ netns: host.namespace, ip: '127.0.0.1' }];
      const etcd = await startEtcd({ dir: join(dir, 'etcd'), members });
      closers.push(() => etcd.close());
      const monitor = await monitorKernel(host.namespace);
      closers.push(() => monitor.stop());
      const leave = enterNamespace(host.namespace);
      closers.push(async () => leave());
      const stage = new Stage(dir, host, monitor, close);
      await stage.#prepare();
      return stage;
    } catch (error) {
      await close();
      throw error;
    }
  }

  async #prepare(): Promise<void> {
    const { ID } = await ask<{ ID: string }>('lease/grant', { TTL: DAY_SECONDS });
    this.#leaseId = ID;
    await ask('kv/put', { key: base64(`${PREFIX}/config`), value: base64(JSON.stringify(CONFIG)) });
  }

  /** Puts the lease of a peer; resolves to the wall-clock ms at which the request was sent. */
  async putPeer(peer: number, moved: 0 | 1 = 0): Promise<number> {
    const sentMs = nowMs();
    await ask('kv/put', put(subnetOf(peer), gatewayOf(peer, moved), this.#leaseId));
    return sentMs;
  }

  /** Puts the leases of many peers, 128 in a transaction; resolves to when the last one was sent. */
  async putPeers(peers: readonly number[], moved: 0 | 1 = 0): Promise<number> {
    let sentMs = nowMs();
    for (let first = 0; first < peers.length; first += TXN_OPS) {
      const some = peers.slice(first, first + TXN_OPS);
      sentMs = nowMs();
      const success = some.map((peer) => ({
        requestPut: put(subnetOf(peer), gatewayOf(peer, moved), this.#leaseId),
      }));
      await ask('kv/txn', { success });
    }
    return sentMs;
  }

  async removePeer(peer: number): Promise<void> {
    await ask('kv/deleterange', { key: base64(keyOf(subnetOf(peer))) });
  }

  /** Takes all leases of peers away. */
  async removePeers(): Promise<void> {
    await this.#remove(`${PREFIX}/subnets/`, `${PREFIX}/subnets0`);
  }

  /** As before the first start of this host: it has no lease, and no routes to peers. */
  async clearHost(): Promise<void> {
    await this.#remove(keyOf('10.200'), keyOf('10.202'));
    // Routes go with the link, at once, however many there are.
    await this.host.linkDown();
    await this.host.linkUp();
  }

  async #remove(key: string, rangeEnd: string): Promise<void> {
    await ask('kv/deleterange', { key: base64(key), range_end: base64(rangeEnd) });
  }

  async close(): Promise<void> {
    await this.#close();
  }
}

export const nowMs = (): number => performance.timeOrigin + performance.now();

const base64 = (text: string): string => Buffer.from(text).toString('base64');
const keyOf = (subnet: string): string => `${PREFIX}/subnets/${subnet.replace('/', '-')}`;

function put(subnet: string, publicIP: string, lease = '0'): object {
  const value = JSON.stringify({ PublicIP: publicIP, PublicIPv6: null, BackendType: 'host-gw' });
  return { key: base64(keyOf(subnet)), value: base64(value), lease };
}

/** etcd's JSON gateway: enough for a few requests, without a client of our own in what is measured. */
async function ask<T>(call: string, body: object): Promise<T> {
  const answer = await fetch(`${ENDPOINT}/v3/${call}`, { method: 'POST', body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`etcd: ${call}: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as T;
}
