import type { Arp } from '../src/arp/arp.ts';
import { Daemon } from '../src/daemon/daemon.ts';
import { requireCapabilities } from '../src/daemon/host-checks.ts';
import type { DaemonOptions } from '../src/daemon/options/flags.ts';
import type { DaemonParts } from '../src/daemon/parts.ts';
import type { Readiness, State } from '../src/daemon/state.ts';
import { parseSubnetEnv } from '../src/daemon/subnet-env.ts';
import type { Family, PerFamily, Subnet } from '../src/ip/ip.ts';
import type { Kernel } from '../src/kernel/kernel.ts';
import type { Commands, Files, Notifier, Random } from '../src/runtime/effects.ts';
import { TroubleLog } from '../src/runtime/trouble.ts';
import { subnetsPrefix } from '../src/subnet/keys.ts';
import { EtcdAddresses } from '../src/subnet/registry/addresses.ts';
import type { Registry } from '../src/subnet/registry/registry.ts';
import { rotate } from '../src/subnet/registry/rotation.ts';
import type { VirtualClock } from './clock.ts';
import type { SimEtcd } from './etcd.ts';
import type { HostEnd } from './etcd-connection.ts';
import { SimFiles } from './files.ts';
import { SimFirewall } from './firewall.ts';
import { HostClock } from './host-clock.ts';
import { SimKernel } from './kernel.ts';
import type { SimLog } from './log.ts';
import { SimNotifier } from './notifier.ts';
import { SimOldStore } from './old-store.ts';
import { SimProcess } from './process.ts';
import type { Segment } from './segment.ts';

export const prefix = '/atomic.io/network';
/** The number our routes carry. */
export const routeProtocol = 102;

const daemonOptions: DaemonOptions = {
  etcdPrefix: prefix,
  ifaces: [],
  ifaceRegexes: [],
  subnetFile: '/run/flannel/subnet.env',
  dockerOptsFile: '/run/docker_opts.env',
  dockerOptsKey: 'DOCKER_OPTS',
  renewMarginMs: 3_600_000,
  subnetLeaseTtlSeconds: 86_400,
  routeProtocol,
  ipMasqFullyRandom: true,
  iptablesForwardPosition: 'auto',
  iptablesForwardRules: true,
  iptablesResyncMs: 60_000,
  setIpForward: false,
  ipMasq: false,
  ipBlackholeRoute: false,
};

/** What the daemons' parts are wrapped in before they are handed over: breaks one of them on purpose. */
export interface Wrappers {
  readonly registry?: (inner: Registry, host: SimHost) => Registry;
  readonly kernel?: (inner: Kernel, host: SimHost) => Kernel;
  readonly files?: (inner: Files, host: SimHost) => Files;
  readonly arp?: (inner: Arp, host: SimHost) => Arp;
  readonly commands?: (inner: Commands, host: SimHost) => Commands;
}

/** What a host needs of its cluster. */
export interface Surroundings {
  readonly clock: VirtualClock;
  readonly etcd: SimEtcd;
  readonly segment: Segment;
  readonly log: SimLog;
  readonly options: Partial<DaemonOptions>;
  readonly wrappers: Wrappers;
}

/** One run of a daemon on a host, from start to stop. */
interface DaemonRun {
  readonly daemon: Daemon;
  readonly process: SimProcess;
  readonly controller: AbortController;
  readonly kernel: Kernel;
  readonly registry: Registry;
  readonly ended: Promise<unknown>;
}

interface HostOptions {
  readonly index: number;
  readonly random: Random;
  readonly ipv6: boolean;
  readonly kernelLatencyMs: number;
}

/** A daemon's parts, and the service manager it is watched by. */
export type SimParts = DaemonParts & { readonly notifier: SimNotifier };

/** A host that can be rebooted: its kernel and disk outlive the daemon. */
export class SimHost {
  readonly name: string;
  /** On eth0; changes when the simulation gives it another. */
  address: string;
  /** On eth0 in a cluster that has IPv6. */
  readonly addressIPv6: string;
  readonly kernel: SimKernel;
  readonly files = new SimFiles();
  readonly firewall = new SimFirewall();
  notifier = new SimNotifier();
  /** Where its daemon reaches etcd; the one in memory is nowhere. */
  readonly etcdAddresses = new EtcdAddresses();
  readonly arp: Arp;
  readonly #cluster: Surroundings;
  readonly #random: Random;
  #identity: number;
  readonly clock: HostClock;
  #run: DaemonRun | undefined;

  constructor(cluster: Surroundings, { index, random, ipv6, kernelLatencyMs }: HostOptions) {
    this.#cluster = cluster;
    this.#random = random;
    this.#identity = index + 1;
    this.clock = new HostClock(cluster.clock);
    this.name = `h${index}`;
    this.address = `10.211.${55 + Math.floor(index / 200)}.${20 + (index % 200)}`;
    const bytes = [(index + 1) >> 8, (index + 1) & 0xff].map((byte) => byte.toString(16).padStart(2, '0'));
    const macPrefix = ['02', '00', ...bytes].join(':');
    this.kernel = new SimKernel({ clock: cluster.clock, latencyMs: kernelLatencyMs, macPrefix });
    this.arp = cluster.segment.join(this.kernel);
    this.kernel.onAddresses = () => cluster.etcd.readdressed(this.name);
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
    this.startWith({ ...daemonOptions, ...this.#cluster.options, ...options }, change);
  }

  /** Starts the daemon with these options and no others. */
  startWith(options: DaemonOptions, change?: (parts: SimParts) => DaemonParts): void {
    if (this.#run !== undefined) throw new Error(`${this.name} is running already`);
    const { etcd, wrappers, log: logs } = this.#cluster;
    const process = new SimProcess(this.clock);
    const clock = process.clock();
    const log = process.telling(logs.of(this.name));
    this.notifier = new SimNotifier();
    const rotated = rotate(
      etcd.connect(this.name, this.#end).map((member) => process.registry(member)),
      { leasesPrefix: subnetsPrefix(options.etcdPrefix), clock },
    );
    const registry = wrappers.registry?.(rotated, this) ?? rotated;
    const rawKernel = this.kernel.open();
    const kernel = process.kernel(wrappers.kernel?.(rawKernel, this) ?? rawKernel);
    const files = process.files(wrappers.files?.(this.files, this) ?? this.files);
    const outside = {
      clock,
      random: this.#random,
      hostIdentity: this.#identity,
      log,
      registry,
      oldStore: new SimOldStore(),
      etcdAddresses: this.etcdAddresses,
      kernel,
      arp: process.arp(wrappers.arp?.(this.arp, this) ?? this.arp),
      files,
      trouble: new TroubleLog(clock, log),
      notices: new TroubleLog(clock, log),
    };
    const notifier = process.telling<Notifier>(this.notifier);
    const commands = process.commands(wrappers.commands?.(this.firewall, this) ?? this.firewall);
    const serve = async () => {};
    const parts = { ...outside, notifier, commands, serve };
    const daemon = new Daemon(change?.({ ...parts, notifier: this.notifier }) ?? parts, options);
    const controller = new AbortController();
    const ended = requireCapabilities(kernel)
      .then(() => daemon.run(controller.signal))
      .then(
        () => undefined,
        (error: unknown) => error,
      );
    const run = { daemon, process, controller, kernel, registry, ended };
    this.#run = run;
    void ended.then((error) => {
      if (this.#run === run) this.ended = { error };
    });
    process.atDeath(() => {
      if (this.#run === run) this.#run = undefined;
    });
  }

  /** Its connections to etcd come from its first address; without one they take another way, which is never lost. */
  get #end(): HostEnd {
    const addresses = () => this.kernel.addresses();
    return {
      source: () => addresses().find(({ family, scope }) => family === 4 && scope === 'global')?.address,
      holds: (text) => addresses().some(({ address }) => address === text),
      opened: (local, drop) => this.etcdAddresses.opened(local, drop),
    };
  }

  /** How often it was booted since the beginning. */
  boots = 0;

  /** Set when the daemon has ended by itself; what it failed with, if it did. */
  ended: { readonly error: unknown } | undefined;

  /** Kills the daemon between two steps: nothing it would do at its end is done. */
  crash(): void {
    this.#run?.process.kill();
  }

  /** Kills the daemon at one of its next steps; see SimProcess.killAfter. */
  crashAfter(steps: number): void {
    this.#run?.process.killAfter(steps);
  }

  /** A boot: /run is empty and the boot id another one. The daemon must not run. */
  reboot(): void {
    if (this.#run !== undefined) throw new Error(`${this.name} is running`);
    this.files.clear();
    this.boots++;
    this.#identity += 100_000;
  }

  /** Stops the daemon as a signal does, and waits; resolves to what it failed with, if it did. */
  async stop(): Promise<unknown> {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined) return undefined;
    this.clock.resume();
    run.controller.abort(new Error('stopped'));
    let ended = false;
    const failure = run.ended.finally(() => {
      ended = true;
    });
    // Cleaning up may talk to etcd, which takes time.
    await this.#cluster.clock.until(`${this.name} stopped`, () => ended || run.process.dead, 10_000);
    run.registry.close();
    run.kernel.close();
    return run.process.dead ? undefined : failure;
  }

  get readiness(): Readiness {
    const { state } = this;
    return state?.readiness() ?? { ready: false, reasons: ['not running'], degraded: [], notices: [] };
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
      .filter(({ protocol }) => protocol === routeProtocol)
      .map(({ dst, gateway }) => `${dst} via ${gateway}`)
      .toSorted();
  }
}
