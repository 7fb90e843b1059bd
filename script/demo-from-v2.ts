/** `--from-v2`: hosts move from flannel 0.7.1 on etcd's v2 store to flanneld-ts on its v3 store, and no ping is lost. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cluster, type ClusterHost, CONFIG, PREFIX } from '../test/testbed/cluster.ts';
import { run } from '../test/testbed/commands.ts';
import { addContainer, type NamespaceContainer } from '../test/testbed/container-namespace.ts';
import { OUR_PROTOCOL, PROGRAM, plainEnvironment } from '../test/testbed/daemon.ts';
import { Flannel071Process } from '../test/testbed/flannel-071.ts';
import { onHost } from '../test/testbed/host.ts';
import { until } from '../test/testbed/netns.ts';
import { NotifySocket } from '../test/testbed/notify-socket.ts';
import { type PingResult, pingWhile } from '../test/testbed/ping.ts';
import { RunningProcess } from '../test/testbed/process.ts';
import { DemoFailure, HOSTS_TITLE, lines, perHost, Steps, showHosts, startEtcd } from './demo-steps.ts';

const DEADLINE_MS = 30_000;
const PING_INTERVAL_MS = 100;

/** Shows the move of three hosts. Throws what a step throws, and a DemoFailure when a ping is lost, or when `stopped` says so. */
export async function runStepsFromV2(cluster: Cluster, stopped: () => boolean): Promise<void> {
  await requireV2();
  const steps = new Steps(stopped);
  const move = new Move(cluster);
  const [master, node1, node2] = [cluster.at(0), cluster.at(1), cluster.at(2)];
  await steps.show(HOSTS_TITLE, () => showHosts(cluster));
  await steps.show('an etcd cluster that serves its v2 store, too (--enable-v2), a member on each host', () =>
    startEtcd(cluster, '--enable-v2'),
  );
  await steps.show('the network configuration, in the v2 store', () => move.storeConfig());
  await steps.show('flannel 0.7.1 on every host (a model of it), with leases in v2', () =>
    move.startFormer(),
  );
  await steps.show(
    'a container on each host; from now on every one pings every other one, 10 times a second',
    () => move.addContainers(),
  );
  const pings = await move.whilePinging(async () => {
    await steps.show('migrate --follow on master copies all to v3 and keeps both stores alike', () =>
      move.startBridge(master),
    );
    await steps.show('node-2 moves: flannel 0.7.1 stops, flanneld-ts starts', () => move.forth(node2));
    await steps.show('node-2 goes back: flanneld-ts stops, flannel 0.7.1 starts', () => move.back(node2));
    await steps.show('node-2 moves again', () => move.forth(node2));
    await steps.show('node-1 moves', () => move.forth(node1));
    await steps.show('master moves', () => move.forth(master));
    await steps.show('no host uses v2 any more: migrate --follow is stopped', () => move.stopBridge());
    await steps.show("flannel's keys in v2 are removed", () => move.removeV2());
    // Ten more pings: a host that still followed v2 would remove its routes by then.
    await sleep(1_000);
  });
  await steps.show('the pings', async () => table(pings));
  const total = (count: (result: PingResult) => number) =>
    pings.reduce((sum, { result }) => sum + count(result), 0);
  const [sent, lost] = [total((result) => result.sent), total((result) => result.lost.length)];
  if (lost > 0) throw new DemoFailure(`${lost} of ${sent} pings were lost`);
  console.log(`\nAll ${sent} pings were answered while three hosts moved, one of them back and forth.`);
}

/** etcd 3.6 has no v2 store. */
async function requireV2(): Promise<void> {
  const [help, version] = await Promise.all([run('etcd', ['--help']), run('etcd', ['--version'])]);
  if (help.includes('--enable-v2')) return;
  const found = /^etcd Version: (.*)$/m.exec(version)?.[1] ?? 'of an unknown version';
  throw new DemoFailure(
    `--from-v2 needs an etcd that has a v2 store, from 3.4 to 3.5; the one here is ${found}. Install that of Debian 12 or 13`,
  );
}

/** The pings from one host's container to another's. */
interface PairPings {
  readonly from: string;
  readonly to: string;
  readonly result: PingResult;
}

function table(pings: readonly PairPings[]): readonly string[] {
  const cells = [
    ['FROM', 'TO', 'SENT', 'LOST'],
    ...pings.map(({ from, to, result: { sent, lost } }) => [from, to, String(sent), String(lost.length)]),
  ];
  return cells.map(([from = '', to = '', sent = '', lost = '']) =>
    [from.padEnd(6), to.padEnd(6), sent.padStart(5), lost.padStart(5)].join('  '),
  );
}

/** The hosts while they move. Each step resolves to what there is to see after it. */
class Move {
  readonly #cluster: Cluster;
  readonly #former: ReadonlyMap<ClusterHost, Flannel071Process>;
  readonly #containers: NamespaceContainer[] = [];
  readonly #onV3 = new Set<ClusterHost>();
  #bridge: Bridge | undefined;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    const endpoints = 'http://127.0.0.1:2379';
    this.#former = new Map(
      cluster.hosts.map((host) => {
        const flannel = new Flannel071Process({ ...host.daemon.options, endpoints, prefix: PREFIX });
        cluster.onClose(() => flannel.close());
        return [host, flannel];
      }),
    );
  }

  async storeConfig(): Promise<readonly string[]> {
    const { first } = this.#cluster.etcd;
    return lines(await first.ctlV2('set', `${PREFIX}/config`, JSON.stringify(CONFIG)));
  }

  async startFormer(): Promise<readonly string[]> {
    await Promise.all([...this.#former.values()].map((flannel) => flannel.start()));
    for (const host of this.#cluster.hosts) await this.#routed(host);
    return await this.#routes();
  }

  async addContainers(): Promise<readonly string[]> {
    for (const [{ net }, flannel] of this.#former) {
      const container = await addContainer(net, flannel.subnet.replace('.0/', '.1/'));
      this.#cluster.onClose(() => container.close());
      this.#containers.push(container);
    }
    return await perHost(this.#cluster, async (host) => [this.#containerOf(host).address]);
  }

  /** Pings between all containers while `act` runs. */
  async whilePinging(act: () => Promise<void>): Promise<readonly PairPings[]> {
    const { hosts } = this.#cluster;
    const pairs = hosts.flatMap((from) => hosts.filter((to) => to !== from).map((to) => ({ from, to })));
    const ways = pairs.map(({ from, to }) => ({
      where: this.#containerOf(from).where,
      destination: this.#containerOf(to).address,
    }));
    const { ways: results } = await pingWhile(ways, act, PING_INTERVAL_MS);
    return results.map((result, at) => ({
      from: pairs[at]?.from.name ?? '',
      to: pairs[at]?.to.name ?? '',
      result,
    }));
  }

  async startBridge(host: ClusterHost): Promise<readonly string[]> {
    this.#bridge = new Bridge(host);
    this.#cluster.onClose(async () => this.#bridge?.close());
    return [await this.#bridged(), ...(await this.#leases())];
  }

  async forth(host: ClusterHost): Promise<readonly string[]> {
    await this.#former.get(host)?.stop();
    await host.daemon.start();
    this.#onV3.add(host);
    await this.#routed(host, OUR_PROTOCOL);
    return [await this.#bridged(), ...(await this.#routes())];
  }

  async back(host: ClusterHost): Promise<readonly string[]> {
    await host.daemon.stop();
    await this.#former.get(host)?.start();
    this.#onV3.delete(host);
    return [await this.#bridged(), ...(await this.#routes())];
  }

  async stopBridge(): Promise<readonly string[]> {
    await this.#bridge?.close();
    return await this.#leases();
  }

  async removeV2(): Promise<readonly string[]> {
    await this.#cluster.etcd.first.ctlV2('rm', '--recursive', PREFIX);
    return [...(await this.#leases()), ...(await this.#routes())];
  }

  #containerOf(host: ClusterHost): NamespaceContainer {
    const container = this.#containers[this.#cluster.hosts.indexOf(host)];
    if (container === undefined) throw new RangeError(`no container on ${host.name}`);
    return container;
  }

  /** Waits until the host has a route to every other one; flannel 0.7.1 leaves the protocol of its own to `ip`. */
  async #routed({ name, net }: ClusterHost, protocol?: string): Promise<void> {
    const has = async () => {
      const routes = (await net.routes()).filter(({ gateway }) => gateway !== undefined);
      return routes.filter((route) => route.protocol === protocol).length === this.#cluster.hosts.length - 1;
    };
    await until(has, DEADLINE_MS, `${name} does not route to all others`);
  }

  /** What the bridge says once it knows which host uses which store. */
  async #bridged(): Promise<string> {
    const onV3 = this.#onV3.size;
    const hosts = this.#cluster.hosts.length - onV3;
    return `the bridge says: ${await this.#bridge?.says(`${hosts} ${hosts === 1 ? 'host' : 'hosts'} on v2, ${onV3} on v3, 0 conflicts`)}`;
  }

  async #routes(): Promise<readonly string[]> {
    return await perHost(this.#cluster, async ({ net }) =>
      lines(await net.ip('-N route')).flatMap((line) => (line.includes(' via ') ? [line.trimEnd()] : [])),
    );
  }

  async #leases(): Promise<readonly string[]> {
    const { first } = this.#cluster.etcd;
    const leases = `${PREFIX}/subnets`;
    const v2 = await first.ctlV2('ls', leases).catch(() => '');
    const v3 = await first.ctl('get', '--prefix', '--keys-only', leases);
    const subnets = (output: string) =>
      lines(output).flatMap((line) => (line === '' ? [] : [line.slice(leases.length + 1).replace('-', '/')]));
    const shown = (output: string) => subnets(output).toSorted().join('  ') || 'none';
    return [`leases in v2: ${shown(v2)}`, `leases in v3: ${shown(v3)}`];
  }
}

/** `migrate --follow` as systemd runs it, on a host. */
class Bridge {
  readonly #process: RunningProcess;
  readonly #socket: NotifySocket;

  constructor({ dir, daemon: { options } }: ClusterHost) {
    this.#socket = new NotifySocket(join(dir, 'bridge.sock'));
    this.#process = new RunningProcess(onHost(options, [PROGRAM, 'migrate', '--follow']), {
      env: { ...plainEnvironment(), ...options.env, NOTIFY_SOCKET: this.#socket.path },
      logFile: join(dir, 'migrate.log'),
    });
  }

  /** Waits until its status line, which `systemctl status` shows, is this one. */
  async says(wanted: string): Promise<string> {
    let said: string | undefined;
    const isSaid = () => {
      if (!this.#process.running) throw new Error(`migrate --follow has ended\n${this.#process.tail()}`);
      said = this.#socket.messages.flatMap((text) => /^STATUS=(.*)$/m.exec(text)?.[1] ?? []).at(-1);
      return said === wanted;
    };
    await until(isSaid, DEADLINE_MS, () => `migrate --follow says '${said}', not '${wanted}'`);
    return wanted;
  }

  async close(): Promise<void> {
    if (!this.#process.running) return;
    await this.#process.stop();
    this.#socket.close();
  }
}
