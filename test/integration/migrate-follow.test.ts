import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { V2Store } from '../../src/subnet/etcd-v2/store.ts';
import { v2Client } from '../contract/v2-store-real.ts';
import { type ClusterHost, CONFIG, PREFIX } from '../testbed/cluster.ts';
import { addContainer, type NamespaceContainer, waysBetween } from '../testbed/container-namespace.ts';
import { leaderOf } from '../testbed/etcd-leader.ts';
import { FLANNEL_071, Flannel071Process } from '../testbed/flannel-071.ts';
import { enterNamespace, until, untilLines } from '../testbed/netns.ts';
import { Pings, type Way } from '../testbed/ping.ts';
import { BridgeProcess } from './bridge-process.ts';
import { gatewayOf, storedLeases, subnetOf } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

// vitest shows names only when something fails.
console.log(`flannel 0.7.1 is ${FLANNEL_071.name}`);

const DEADLINE_MS = 40_000;
const { signal } = new AbortController();

/** A host that runs flannel 0.7.1 or this program, one at a time. */
class MovingHost {
  readonly host: ClusterHost;
  readonly old: Flannel071Process;
  /** Its subnet since the first start of either. */
  subnet = '';

  constructor(host: ClusterHost, endpoints: string) {
    const { dir, name, net } = host;
    this.host = host;
    this.old = new Flannel071Process({
      dir,
      namespace: net.namespace,
      hostname: name,
      endpoints,
      prefix: PREFIX,
    });
  }

  async start(what: 'old' | 'ours'): Promise<void> {
    await (what === 'old' ? this.old : this.host.daemon).start();
  }

  /** Changes to the other program; `between` happens while the second one starts. */
  async move(between: () => Promise<unknown> = () => Promise.resolve()): Promise<void> {
    const to = this.old.running ? 'ours' : 'old';
    await this.stop();
    await Promise.all([this.start(to), between()]);
  }

  async stop(): Promise<void> {
    await (this.old.running ? this.old : this.host.daemon).stop();
  }

  /** The routes by way of a gateway, `dst via gateway`, whoever made them, in order. */
  async routes(): Promise<readonly string[]> {
    const routes = await this.host.net.routes();
    return routes.flatMap(({ dst, gateway }) => (gateway ? [`${dst} via ${gateway}`] : [])).toSorted();
  }

  /** The end of what both have said, for messages. */
  tail(): string {
    const { host, old } = this;
    return `${host.name}:\n${(old.running ? old : host.daemon).process.tail(10)}`;
  }
}

/**
 * Three hosts go from flannel 0.7.1 to this program and back, twice more, in each order; a fourth one joins with flannel 0.7.1, a fifth one
 * with this program. Their containers ping each other all the time, ten times a second. The tests are steps, in this order.
 */
describe('a cluster of hosts with flannel 0.7.1, hosts with this program, and a bridge', () => {
  const cluster = useCluster({ hosts: 5, etcd: false });
  const routes = useRoutes(cluster);
  const pings = new Pings(100);
  /** Those that are in the cluster. */
  const members: MovingHost[] = [];
  const containers: NamespaceContainer[] = [];
  let all: readonly MovingHost[];
  let v2: V2Store;
  let bridge: BridgeProcess;

  beforeAll(async () => {
    const { endpoints } = await cluster.startEtcd(['--enable-v2']);
    const { net, name } = cluster.at(0);
    const leave = enterNamespace(net.namespace);
    cluster.onClose(async () => leave());
    v2 = v2Client(endpoints.split(','));
    await v2.create(`${PREFIX}/config`, JSON.stringify(CONFIG), 'permanent', signal);
    all = cluster.hosts.map((host) => new MovingHost(host, endpoints));
    bridge = new BridgeProcess({
      dir: join(cluster.dir, 'bridge'),
      namespace: net.namespace,
      hostname: name,
      endpoints,
      prefix: PREFIX,
      port: 8472,
    });
    cluster.onClose(async () => {
      await pings.close();
      await Promise.all([bridge.close(), ...all.map(({ old }) => old.close())]);
    });
  });

  const at = (place: number): MovingHost => {
    const host = all[place];
    if (host === undefined) throw new RangeError(`no host ${place}`);
    return host;
  };

  /** Starts hosts, waits until everybody routes to them, and has them ping and be pinged from then on. */
  const joinCluster = async (places: readonly number[], what: 'old' | 'ours') => {
    const joining = places.map(at);
    await Promise.all(joining.map((host) => host.start(what)));
    for (const host of joining) host.subnet = subnetOf(host.host);
    members.push(...joining);
    await untilRouted();
    const added = await Promise.all(joining.map(({ host }) => addContainer(host.net, gatewayOf(host))));
    for (const container of added) cluster.onClose(() => container.close());
    containers.push(...added);
    const isNew = ({ where, destination }: Way) =>
      added.some((container) => container.where === where || container.address === destination);
    await pings.add(waysBetween(containers).filter(isNew));
  };

  /** Every member routes to all others, and to nothing else. */
  const untilRouted = async () => {
    for (const member of members) {
      const others = members.filter((other) => other !== member);
      const wanted = others.map(({ subnet, host }) => `${subnet} via ${host.address}`).toSorted();
      await untilLines(
        () => member.routes(),
        wanted,
        DEADLINE_MS,
        () => member.tail(),
      );
    }
  };

  /** `subnet address` of every key, in order: one that is there twice shows twice. */
  const inV2 = async () => {
    const { nodes } = await v2.list(`${PREFIX}/subnets`, signal);
    return nodes.map(lineOf).toSorted();
  };
  const inV3 = async () => {
    const member = cluster.etcd.members.find(({ running }) => running) ?? cluster.etcd.first;
    return (await storedLeases(member)).map(lineOf).toSorted();
  };
  const inUse = () => members.map(({ subnet, host }) => `${subnet} ${host.address}`).toSorted();

  /** What holds at any moment, whether a bridge is there or not. */
  const expectAsBefore = async () => {
    expect(members.map(({ host }) => subnetOf(host))).toEqual(members.map(({ subnet }) => subnet));
    expect(await inV2()).toEqual(inUse());
    expect(await inV3()).toEqual(inUse());
    await untilRouted();
  };

  /** Waits until the bridge knows which store each host uses, and has nothing to complain of. */
  const untilInStep = async (onV2: number, onV3: number) => {
    await bridge.inStep(onV2, onV3);
    await expectAsBefore();
  };

  it('has each host in both stores, with a route to all others', async () => {
    await joinCluster([0, 1, 2], 'old');
    expect(new Set(inUse()).size).toBe(3);
    bridge.launch();
    await untilInStep(3, 0);
    await routes.mark();
  });

  it('goes to this program one by one, while a fourth host joins with flannel 0.7.1', async () => {
    await at(0).move();
    await untilInStep(2, 1);
    await joinCluster([3], 'old');
    for (const place of [1, 2]) {
      await at(place).move();
      await expectAsBefore();
    }
    await untilInStep(1, 3);
  });

  it('goes back and forth in other orders, while the bridge is killed and another one waits for its lock to end', async () => {
    await at(0).move();
    await untilInStep(2, 2);
    await at(2).move(() => bridge.kill9());
    await expectAsBefore();
    bridge.launch();
    await bridge.waitForLog('bridge-waits');
    await at(1).move();
    await expectAsBefore();
    for (const place of [1, 0, 2]) {
      await at(place).move();
      await expectAsBefore();
    }
    await untilInStep(1, 3);
  });

  it('goes back while the leader of etcd is killed', async () => {
    await at(1).move();
    await expectAsBefore();
    const leader = await leaderOf(cluster.etcd);
    await at(2).move(() => leader.kill());
    await expectAsBefore();
    await at(0).move();
    await untilInStep(4, 0);
    await leader.start();
  });

  it('goes to this program once more, while a fifth host joins with it, and back', async () => {
    await at(2).move();
    await untilInStep(3, 1);
    await joinCluster([4], 'ours');
    for (const place of [0, 1]) {
      await at(place).move();
      await expectAsBefore();
    }
    await untilInStep(1, 4);
    for (const place of [2, 1, 0]) {
      await at(place).move();
      await expectAsBefore();
    }
    await untilInStep(4, 1);
  });

  it('has lost no packet and no route by all that, and has heard of no restored store', async () => {
    const { sent, complaints } = await pings.stop();
    console.log(`packets sent: ${sent}`);
    expect(complaints).toEqual([]);
    expect(sent).toBeGreaterThan(1_000);
    expect(await routes.deletions()).toEqual([]);
    const logged = bridge.history();
    expect(logged.filter(({ event }) => event === 'bridge-restored' || event === 'crash')).toEqual([]);
    expect(new Set(inUse().map((line) => line.split(' ')[0])).size).toBe(5);
  });

  it('forgets a host of either side that leaves', async () => {
    const leaving = [at(3), at(4)];
    for (const host of leaving) await host.stop();
    members.splice(3, 2);
    const [old, ours] = leaving;
    const { nodes } = await v2.list(`${PREFIX}/subnets`, signal);
    const node = nodes.find((one) => lineOf(one) === `${old?.subnet} ${old?.host.address}`);
    if (node === undefined) throw new Error('no key of the host that leaves');
    await v2.expire(node.key, node.value, node.modifiedIndex, signal);
    await cluster.etcd.ctl('del', `${PREFIX}/subnets/${ours?.subnet.replace('/', '-')}`);
    await until(async () => (await inV2()).length === 3 && (await inV3()).length === 3, DEADLINE_MS);
    await untilInStep(3, 0);
    expect(await bridge.stop()).toEqual({ code: 0, signal: null });
  });
});

function lineOf({ key, value }: { readonly key: string; readonly value: string }): string {
  const subnet = key.slice(key.lastIndexOf('/') + 1).replace('-', '/');
  return `${subnet} ${(JSON.parse(value) as { readonly PublicIP: string }).PublicIP}`;
}
