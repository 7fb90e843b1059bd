import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { makeBusyboxImage, runBusybox } from './busybox.ts';
import { until } from './commands.ts';
import { DaemonProcess, OUR_PROTOCOL } from './daemon.ts';
import { type Docker, startDocker } from './docker.ts';
import { type EtcdCluster, startEtcd } from './etcd.ts';
import { onHost, runFolder } from './host.ts';
import { type Host, makeNetwork } from './netns.ts';
import { runToEnd } from './process.ts';
import { tempDir } from './run.ts';

/** The key prefix and the network configuration of the scenario in README.md. */
export const PREFIX = '/atomic.io/network';
export const CONFIG = {
  Network: '172.20.0.0/16',
  SubnetMin: '172.20.10.0',
  SubnetMax: '172.20.254.0',
  Backend: { Type: 'host-gw' },
};

const MK_DOCKER_OPTS = join(import.meta.dirname, '../../systemd/mk-docker-opts.sh');

export interface ClusterOptions {
  /** How many hosts there are: master, node-1, node-2, …; default 3. etcd runs on the first three. */
  readonly hosts?: number;
  /** Which members a daemon is told: its own host's, if it has one (the scenario), or all. Default: all. */
  readonly endpoints?: 'own' | 'all';
  /** Whether the hosts have an IPv6 address as well: fd00:55::100/64 and on. */
  readonly ipv6?: boolean;
  /** Flags of every daemon; default `--iface=eth0`. */
  readonly flags?: readonly string[];
}

/** One host of a cluster and what runs on it. */
export interface ClusterHost {
  readonly name: string;
  /** Its address on the segment, without a length. */
  readonly address: string;
  /** Its folder; `dir/run` is its /run. */
  readonly dir: string;
  readonly net: Host;
  readonly daemon: DaemonProcess;
}

/** A busybox container and where it is. */
export interface Container {
  readonly name: string;
  readonly address: string;
  readonly host: ClusterHost;
  readonly docker: Docker;
}

/** Hosts on one segment, set up step by step as an operator does it. */
export class Cluster {
  readonly dir = tempDir('cluster');
  readonly #options: ClusterOptions;
  readonly #closers: (() => Promise<void>)[] = [];
  readonly #dockers = new Map<ClusterHost, Docker>();
  #hosts: readonly ClusterHost[] = [];
  #etcd: EtcdCluster | undefined;

  constructor(options: ClusterOptions) {
    this.#options = options;
  }

  /** Makes the hosts, with the addresses of the scenario: 10.211.55.100/24 and on. */
  async make(): Promise<void> {
    const { hosts = 3, ipv6 = false, endpoints, flags = ['--iface=eth0'] } = this.#options;
    const network = await makeNetwork(
      Array.from({ length: hosts }, (_, index) => ({
        name: index === 0 ? 'master' : `node-${index}`,
        addresses: [`10.211.55.${100 + index}/24`, ...(ipv6 ? [`fd00:55::${100 + index}/64`] : [])],
      })),
    );
    this.onClose(() => network.close());
    this.#hosts = network.hosts.map((net, index) => {
      const place = { dir: join(this.dir, net.name), namespace: net.namespace, hostname: net.name };
      mkdirSync(runFolder(place), { recursive: true });
      const env = sysconfig(network.hosts, endpoints === 'own' ? index : undefined);
      const daemon = new DaemonProcess({ ...place, flags, env });
      this.onClose(() => daemon.close());
      return { name: net.name, address: net.address, dir: place.dir, net, daemon };
    });
  }

  /** None before make(). */
  get hosts(): readonly ClusterHost[] {
    return this.#hosts;
  }

  /** The host with this index; throws when there is none. */
  at(index: number): ClusterHost {
    const host = this.hosts[index];
    if (host === undefined) throw new RangeError(`there is no host ${index}`);
    return host;
  }

  /** Runs `close` at the end, before what it was made on goes; the last one first. */
  onClose(close: () => Promise<void>): void {
    this.#closers.push(close);
  }

  /** Throws before startEtcd(). */
  get etcd(): EtcdCluster {
    if (this.#etcd === undefined) throw new Error('etcd was not started');
    return this.#etcd;
  }

  /** A member on each of the first three hosts, on the ports of the scenario; `args` are more flags of theirs. */
  async startEtcd(args: readonly string[] = []): Promise<EtcdCluster> {
    const places = this.hosts.slice(0, 3).map(({ net, address }) => ({ netns: net.namespace, ip: address }));
    const etcd = await startEtcd({ dir: join(this.dir, 'etcd'), members: places, args });
    this.onClose(() => etcd.close());
    this.#etcd = etcd;
    return etcd;
  }

  /** Stores the network configuration; default the scenario's. */
  async storeConfig(config: object = CONFIG): Promise<void> {
    await this.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(config));
  }

  /**
   * Starts all daemons at once and waits until each is ready and routes to all others: it is ready before those are known that
   * start after it.
   */
  async startDaemons(): Promise<void> {
    await Promise.all(this.hosts.map(({ daemon }) => daemon.start()));
    const isMeshed = async ({ net }: ClusterHost) => {
      const own = (await net.routes()).filter(({ protocol }) => protocol === OUR_PROTOCOL);
      return own.length >= this.hosts.length - 1;
    };
    for (const host of this.hosts)
      await until(() => isMeshed(host), 30_000, `${host.name} does not route to all others`);
  }

  /** Runs a command on a host: in its network, with its /run. Throws when it fails. */
  async exec(host: ClusterHost, ...argv: string[]): Promise<string> {
    const { exit, stdout, output } = await runToEnd(onHost(host.daemon.options, argv));
    if (exit.code !== 0) throw new Error(`${host.name}: ${argv.join(' ')}: ${output}`);
    return stdout;
  }

  /** Makes /run/docker_opts.env of every host from its subnet.env by mk-docker-opts.sh, as the unit does. */
  async writeDockerOptions(): Promise<void> {
    await Promise.all(
      this.hosts.map((host) => this.exec(host, 'sh', MK_DOCKER_OPTS, '-c', '-d', '/run/docker_opts.env')),
    );
  }

  /** Starts a dockerd on every host, with the host's docker_opts.env. */
  async startDocker(): Promise<readonly Docker[]> {
    this.onClose(
      async () => void (await Promise.all([...this.#dockers.values()].map((docker) => docker.close()))),
    );
    return await Promise.all(
      this.hosts.map(async (host) => {
        const { options, dockerOptsFile } = host.daemon;
        const docker = await startDocker({ ...options, optionsFile: dockerOptsFile });
        this.#dockers.set(host, docker);
        return docker;
      }),
    );
  }

  /** The dockerd of a host; throws before startDocker(). */
  docker(host: ClusterHost): Docker {
    const docker = this.#dockers.get(host);
    if (docker === undefined) throw new Error(`no docker on ${host.name}`);
    return docker;
  }

  /** Runs a busybox container on every host. */
  async startContainers(): Promise<readonly Container[]> {
    const image = await makeBusyboxImage(this.dir);
    return await Promise.all(
      this.hosts.map(async (host) => {
        const docker = this.docker(host);
        const name = `busybox-on-${host.name}`;
        return { name, host, docker, address: await runBusybox(docker, image, name) };
      }),
    );
  }

  /** Ends and removes everything. All of it is tried; the first failure is thrown at the end. */
  async close(): Promise<void> {
    const failures: unknown[] = [];
    for (const close of this.#closers.toReversed())
      await close().catch((error: unknown) => failures.push(error));
    rmSync(this.dir, { recursive: true, force: true });
    if (failures.length > 0) throw new AggregateError(failures, 'the cluster was not removed completely');
  }
}

/** Makes hosts; whoever asks for them closes them. On failure nothing is left. */
export async function makeHosts(options: ClusterOptions = {}): Promise<Cluster> {
  const cluster = new Cluster(options);
  try {
    await cluster.make();
    return cluster;
  } catch (error) {
    await cluster.close();
    throw error;
  }
}

/** What /etc/sysconfig/flanneld holds on the host with this index. */
function sysconfig(hosts: readonly Host[], own: number | undefined): Readonly<Record<string, string>> {
  const members = hosts.slice(0, 3).map(({ address }) => `http://${address}:2379`);
  const local = own !== undefined && own < members.length;
  return {
    FLANNEL_ETCD_ENDPOINTS: local ? 'http://127.0.0.1:2379' : members.join(','),
    FLANNEL_ETCD_PREFIX: PREFIX,
  };
}
