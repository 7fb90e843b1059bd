import { Daemon } from '../src/daemon/daemon.ts';
import type { Readiness } from '../src/daemon/health.ts';
import type { DaemonOptions, DaemonParts } from '../src/daemon/parts.ts';
import type { State } from '../src/daemon/state.ts';
import { parseSubnetEnv } from '../src/daemon/subnet-env.ts';
import type { Family, PerFamily, Subnet } from '../src/ip/ip.ts';
import type { Kernel } from '../src/kernel/kernel.ts';
import type { Random } from '../src/runtime/random.ts';
import { TroubleLog } from '../src/runtime/trouble.ts';
import type { Registry } from '../src/subnet/registry.ts';
import { rotate } from '../src/subnet/rotation.ts';
import { VirtualClock } from './clock.ts';
import { SimEtcd } from './etcd.ts';
import { SimFiles } from './files.ts';
import { SimFirewall } from './firewall.ts';
import { SimKernel } from './kernel.ts';
import { SimLog } from './log.ts';
import { SimNotifier } from './notifier.ts';
import { SeededRandom } from './random.ts';

export interface ClusterOptions {
  readonly seed: number;
  /** How many hosts; the first three hold an etcd member each. */
  readonly hosts: number;
  /** Text stored as the network configuration; absent: the scenario's. Null: none. */
  readonly config?: string | null;
  /** Whether hosts have an IPv6 address, too; default false. */
  readonly ipv6?: boolean;
}

export const prefix = '/atomic.io/network';
const scenarioConfig =
  '{"Network":"172.20.0.0/16","SubnetMin":"172.20.10.0","SubnetMax":"172.20.254.0","Backend":{"Type":"host-gw"}}';

const daemonOptions: DaemonOptions = {
  etcdPrefix: prefix,
  ifaces: [],
  ifaceRegexes: [],
  subnetFile: '/run/flannel/subnet.env',
  dockerOptsFile: '/run/docker_opts.env',
  dockerOptsKey: 'DOCKER_OPTS',
  renewMarginMs: 3_600_000,
  subnetLeaseTtlSeconds: 86_400,
  routeProtocol: 102,
  ipMasqFullyRandom: true,
  iptablesForwardPosition: 'auto',
  iptablesForwardRules: true,
  iptablesResyncMs: 60_000,
  setIpForward: false,
  ipMasq: false,
  ipBlackholeRoute: false,
};

/** One run of a daemon on a host, from start to stop. */
interface DaemonRun {
  readonly daemon: Daemon;
  readonly controller: AbortController;
  readonly kernel: Kernel;
  readonly registry: Registry;
  readonly ended: Promise<unknown>;
}

/** A daemon's parts, and the service manager it is watched by. */
export type SimParts = DaemonParts & { readonly notifier: SimNotifier };

/** A host that can be rebooted: its kernel and disk outlive the daemon. */
export class SimHost {
  readonly name: string;
  readonly address: string;
  /** On eth0 in a cluster that has IPv6. */
  readonly addressIPv6: string;
  readonly kernel: SimKernel;
  readonly files = new SimFiles();
  readonly firewall = new SimFirewall();
  notifier = new SimNotifier();
  readonly #cluster: SimCluster;
  readonly #random: Random;
  readonly #identity: number;
  #run: DaemonRun | undefined;

  constructor(cluster: SimCluster, index: number, random: Random, ipv6: boolean) {
    this.#cluster = cluster;
    this.#random = random;
    this.#identity = index + 1;
    this.name = `h${index}`;
    this.address = `10.211.${55 + Math.floor(index / 200)}.${20 + (index % 200)}`;
    this.kernel = new SimKernel({ clock: cluster.clock });
    const linkIndex = this.kernel.createLink('eth0');
    this.kernel.addAddress('eth0', `${this.address}/16`);
    this.kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
    this.addressIPv6 = `fd00:55::${20 + index}`;
    if (!ipv6) return;
    this.kernel.addAddress('eth0', `${this.addressIPv6}/64`);
    this.kernel.addRoute({ dst: '::/0', gateway: 'fd00:55::1', linkIndex });
  }

  get running(): boolean {
    return this.#run !== undefined;
  }

  /** Starts the daemon; `options` differ from the usual ones, `change` may put something between it and its parts. */
  start(options: Partial<DaemonOptions> = {}, change?: (parts: SimParts) => DaemonParts): void {
    this.startWith({ ...daemonOptions, ...options }, change);
  }

  /** Starts the daemon with these options and no others. */
  startWith(options: DaemonOptions, change: (parts: SimParts) => DaemonParts = (parts) => parts): void {
    if (this.#run !== undefined) throw new Error(`${this.name} is running already`);
    const { clock, etcd, log } = this.#cluster;
    this.notifier = new SimNotifier();
    const kernel = this.kernel.open();
    const registry = rotate(etcd.connect(this.name));
    const { files, notifier, firewall } = this;
    const trouble = new TroubleLog(clock, log.of(this.name));
    const outside = { clock, random: this.#random, hostIdentity: this.#identity, log: log.of(this.name) };
    const parts = { ...outside, registry, kernel, files, notifier, commands: firewall, trouble };
    const daemon = new Daemon(change(parts), options);
    const controller = new AbortController();
    const ended = daemon.run(controller.signal).catch((error: unknown) => error);
    this.#run = { daemon, controller, kernel, registry, ended };
  }

  /** Stops the daemon as a signal does, and waits; resolves to what it failed with, if it did. */
  async stop(): Promise<unknown> {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined) return undefined;
    run.controller.abort(new Error('stopped'));
    let ended = false;
    const failure = run.ended.finally(() => {
      ended = true;
    });
    // Cleaning up may talk to etcd, which takes time.
    await this.#cluster.clock.until(`${this.name} stopped`, () => ended, 10_000);
    run.registry.close();
    run.kernel.close();
    return failure;
  }

  get readiness(): Readiness {
    return this.#run?.daemon.readiness() ?? { ready: false, reasons: ['not running'], notices: [] };
  }

  /** What the daemon tells of itself; undefined while none runs. */
  get state(): State | undefined {
    return this.#run?.daemon.state;
  }

  /** The IPv4 subnet in subnet.env; undefined while there is none. */
  async subnet(): Promise<Subnet | undefined> {
    return (await this.subnets()).ipv4;
  }

  /** The subnets in subnet.env. */
  async subnets(): Promise<PerFamily<Subnet>> {
    const text = await this.files.readText(daemonOptions.subnetFile);
    return (text === undefined ? undefined : parseSubnetEnv(text)) ?? {};
  }

  /** The daemon's IPv4 routes, as `dst via gateway`, sorted. */
  get ownRoutes(): readonly string[] {
    return this.routes(4);
  }

  /** The daemon's routes of a family, as `dst via gateway`, sorted. */
  routes(family: Family): readonly string[] {
    return this.kernel
      .routes(family)
      .filter(({ protocol }) => protocol === daemonOptions.routeProtocol)
      .map(({ dst, gateway }) => `${dst} via ${gateway}`)
      .toSorted();
  }
}

/** A whole cluster in one process, on one virtual clock: the real core on an etcd, kernels and disks in memory. */
export class SimCluster {
  readonly clock = new VirtualClock();
  readonly etcd: SimEtcd;
  readonly log: SimLog;
  readonly hosts: readonly SimHost[];

  constructor({ seed, hosts, config = scenarioConfig, ipv6 = false }: ClusterOptions) {
    const random = new SeededRandom(seed);
    this.log = new SimLog(this.clock);
    this.etcd = new SimEtcd({
      clock: this.clock,
      members: ['etcd-0', 'etcd-1', 'etcd-2'],
      latencyMs: 1,
    });
    if (config !== null) this.etcd.put(`${prefix}/config`, config);
    this.hosts = Array.from({ length: hosts }, (_, index) => new SimHost(this, index, random, ipv6));
  }

  /** Whether every running host is ready and has exactly one route to every other running host's lease. */
  get meshed(): boolean {
    const running = this.hosts.filter((host) => host.running);
    return running.every((host) => host.readiness.ready && host.ownRoutes.length === running.length - 1);
  }

  /** Stops everything; nothing waits on the clock afterwards. */
  async close(): Promise<void> {
    for (const host of this.hosts) await host.stop();
    this.etcd.close();
    await this.clock.settle();
  }
}
