import type { Backend } from '../backend/backend.ts';
import { HostGateway } from '../backend/hostgw/host-gateway.ts';
import type { Subnet } from '../ip/ip.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Files } from '../runtime/files.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Notifier } from '../runtime/notifier.ts';
import type { Random } from '../runtime/random.ts';
import { TroubleLog } from '../runtime/trouble.ts';
import { firstOf, untilAborted } from '../runtime/wake.ts';
import type { PoolConfig } from '../subnet/config.ts';
import { waitForConfig } from '../subnet/config-source.ts';
import { ConfigWatch } from '../subnet/config-watch.ts';
import { LeaseWatch } from '../subnet/lease-watch.ts';
import { LeaseManager } from '../subnet/manager.ts';
import { familiesText, type OwnLease } from '../subnet/own-lease.ts';
import type { Registry } from '../subnet/registry.ts';
import { subnetsPrefix } from '../subnet/subnet-key.ts';
import { EnvFiles } from './env-files.ts';
import { prepareForwarding } from './forwarding.ts';
import type { Readiness } from './health.ts';
import type { HostInterface } from './interface/choose-interface.ts';
import { waitForInterface } from './interface/wait-for-interface.ts';
import type { Options } from './options/options.ts';
import { requireCapabilities, requireIPv4 } from './requirements.ts';

/** Everything the daemon touches outside itself. */
export interface DaemonParts {
  readonly clock: Clock;
  readonly random: Random;
  /** A number below 2^31 that no other host has, the same until this one is booted again. */
  readonly hostIdentity: number;
  readonly registry: Registry;
  readonly kernel: Kernel;
  readonly files: Files;
  readonly notifier: Notifier;
  readonly log: Logger;
}

/** The part of the options the daemon itself needs; the rest chose its parts. */
export type DaemonOptions = Pick<
  Options,
  | 'etcdPrefix'
  | 'ifaces'
  | 'ifaceRegexes'
  | 'ifaceCanReach'
  | 'publicIP'
  | 'publicIPv6'
  | 'subnetFile'
  | 'dockerOptsFile'
  | 'dockerOptsKey'
  | 'renewMarginMs'
  | 'subnetLeaseTtlSeconds'
  | 'routeProtocol'
  | 'setIpForward'
>;

/** How often the status line is brought up to date. */
const statusIntervalMs = 5_000;

/** When the interface is down no peer can be routed to: a probe and a status line need not hear all their names. */
const namedProblems = 5;

/**
 * One host's daemon, from the first look at etcd to the signal that ends it. Constructing does nothing; `run` works.
 *
 * Steps of the boot wait for ever for what they need. Once up, no trouble ends it: etcd gone, a route refused or the lease
 * lost degrade readiness and are worked on.
 */
export class Daemon {
  readonly #parts: DaemonParts;
  readonly #options: DaemonOptions;
  readonly #trouble: TroubleLog;
  /** What the operator should know although this host does its work. */
  readonly #notices: TroubleLog;
  readonly #files: EnvFiles;
  #manager: LeaseManager | undefined;
  #backend: Backend | undefined;
  #watch: LeaseWatch | undefined;
  #ready = false;
  #phase = '';
  #said = '';

  constructor(parts: DaemonParts, options: DaemonOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#trouble = new TroubleLog(parts.clock, parts.log);
    this.#notices = new TroubleLog(parts.clock, parts.log);
    this.#files = new EnvFiles({ ...parts, ...options, trouble: this.#trouble });
  }

  /**
   * Works until `signal` aborts, then resolves; routes, lease and files stay. Rejects with {@link CannotRunError} when the
   * process lacks what it needs, before anything is touched.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { kernel, notifier, log } = this.#parts;
    // Said at once: what the work under way still needs to come to an end is part of the stop.
    const onAbort = () => {
      notifier.stopping();
      log.info({ event: 'stopping' }, 'stopping as asked; routes, lease and files stay');
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await requireCapabilities(kernel);
      await firstOf(signal, (inner) => [this.#work(inner), this.#tellStatus(inner)]);
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Whether this host does its part in the network just now, and if not, why. */
  readiness(): Readiness {
    const reasons = [...this.#trouble.current];
    if (!this.#ready && reasons.length === 0) reasons.push('starting');
    if (this.#manager !== undefined && this.#manager.state !== 'held') {
      reasons.push(`the own lease is ${this.#manager.state}`);
    }
    if (this.#ready && this.#watch?.watching === false) reasons.push('the lease watch is not up');
    if (this.#ready) reasons.push(...this.#routeProblems());
    return { ready: this.#ready && reasons.length === 0, reasons, notices: this.#notices.current };
  }

  /** Peers that are not routed to, the first few by name. */
  #routeProblems(): readonly string[] {
    const problems = this.#backend?.status().problems ?? [];
    const rest = problems.length - namedProblems;
    return rest > 0
      ? [...problems.slice(0, namedProblems), `${rest} more routes are not installed`]
      : problems;
  }

  async #work(signal: AbortSignal): Promise<never> {
    const trouble = this.#trouble;
    this.#enter('waiting for etcd and the network configuration');
    const config = await waitForConfig(
      { ...this.#parts, ...this.#options, trouble, accept: requireIPv4 },
      signal,
    );
    const { etcdPrefix } = this.#options;
    const watch = new ConfigWatch({ ...this.#parts, trouble, notices: this.#notices, etcdPrefix, config });
    return await firstOf(signal, (inner) => [watch.run(inner), this.#join(config, inner)]);
  }

  /** Becomes a member of the network, and stays one. */
  async #join({ ipv4: pool }: { readonly ipv4: PoolConfig }, signal: AbortSignal): Promise<never> {
    const trouble = this.#trouble;
    this.#enter('waiting for an address on the interface');
    const host = await waitForInterface({ ...this.#parts, ...this.#options, families: [4], trouble }, signal);
    this.#logChoice(host, pool);
    this.#enter('waiting for a subnet');
    const manager = await this.#manage(host, pool, signal);
    const lease = await manager.acquire(signal);
    // From here on the lease is kept, however long the files or the routes take.
    return await firstOf(signal, (inner) => [
      manager.run(inner),
      this.#useSubnet(manager, lease, host, pool, inner),
    ]);
  }

  async #useSubnet(
    manager: LeaseManager,
    lease: OwnLease,
    host: HostInterface,
    pool: PoolConfig,
    signal: AbortSignal,
  ): Promise<never> {
    this.#enter(`subnet ${familiesText(lease.subnets)}; writing files`);
    await this.#files.write({ pool, subnet: ipv4SubnetOf(lease), mtu: host.mtu }, signal);
    this.#enter(`subnet ${familiesText(lease.subnets)}; syncing routes`);
    return await this.#serve(manager, lease, host, pool, signal);
  }

  #logChoice(host: HostInterface, pool: PoolConfig): void {
    const { name, addresses, mtu } = host;
    const address = addresses.ipv4;
    this.#parts.log.info(
      { event: 'interface-chosen', interface: name, publicIP: address, mtu, network: pool.network.text },
      `network ${pool.network.text} over ${name} (${address}, MTU ${mtu})`,
    );
  }

  async #manage(host: HostInterface, pool: PoolConfig, signal: AbortSignal): Promise<LeaseManager> {
    const hint = await this.#files.hint(signal);
    this.#manager = new LeaseManager({
      ...this.#parts,
      trouble: this.#trouble,
      subnetsPrefix: subnetsPrefix(this.#options.etcdPrefix),
      pools: { ipv4: pool },
      addresses: { ipv4: ipv4Of(host) },
      renewMarginMs: this.#options.renewMarginMs,
      leaseTtlSeconds: this.#options.subnetLeaseTtlSeconds,
      ...(hint === undefined ? {} : { hint: { ipv4: hint } }),
    });
    return this.#manager;
  }

  /**
   * Runs watch and routes side by side; they end only with `signal`. Should one fail otherwise, which is a bug, the others
   * end too: a daemon that is half alive is worse than one that is started again with its routes in place.
   */
  async #serve(
    manager: LeaseManager,
    lease: OwnLease,
    host: HostInterface,
    pool: PoolConfig,
    signal: AbortSignal,
  ): Promise<never> {
    const backend = new HostGateway({
      ...this.#parts,
      trouble: this.#trouble,
      subnets: { ipv4: ipv4SubnetOf(lease) },
      addresses: { ipv4: ipv4Of(host) },
      networks: { ipv4: pool },
      protocol: this.#options.routeProtocol,
      linkName: host.name,
      blackhole: false,
    });
    const watch = new LeaseWatch({
      ...this.#parts,
      trouble: this.#trouble,
      subnetsPrefix: subnetsPrefix(this.#options.etcdPrefix),
    });
    this.#backend = backend;
    this.#watch = watch;
    return await firstOf(signal, (inner) => [
      backend.run(inner),
      watch.run(inner, (update) => {
        backend.update(update);
        manager.observe(update);
      }),
      this.#announce(backend, lease, inner).then(() => untilAborted(inner)),
    ]);
  }

  /** READY=1 once the first sync is done; then there is nothing more to announce. */
  async #announce(backend: Backend, lease: OwnLease, signal: AbortSignal): Promise<void> {
    await backend.synced(signal);
    this.#ready = true;
    this.#parts.notifier.ready();
    this.#sayStatus();
    const { peers, problems } = backend.status();
    this.#parts.log.info(
      { event: 'ready', subnet: familiesText(lease.subnets), peers: peers.length, problems: problems.length },
      `ready: subnet ${familiesText(lease.subnets)}, ${peers.length} ${peers.length === 1 ? 'peer' : 'peers'}`,
    );
    await prepareForwarding({ ...this.#parts, ...this.#options, families: [4] });
  }

  /** Keeps the line true that `systemctl status` shows: where the boot stands, or how many peers are routed, and the troubles. */
  async #tellStatus(signal: AbortSignal): Promise<never> {
    for (;;) {
      await this.#parts.clock.sleep(statusIntervalMs, signal);
      this.#sayStatus();
    }
  }

  #enter(phase: string): void {
    this.#phase = phase;
    this.#sayStatus();
  }

  #sayStatus(): void {
    const status = this.#statusLine();
    if (status !== this.#said) this.#parts.notifier.status(status);
    this.#said = status;
  }

  #statusLine(): string {
    const troubles = this.#trouble.current.map((reason) => `; ${reason}`).join('');
    const lease = this.#manager?.lease;
    if (!this.#ready || lease === undefined) return this.#phase + troubles;
    const peers = this.#backend?.status().peers ?? [];
    const installed = peers.filter(({ state }) => state === 'installed').length;
    return `subnet ${familiesText(lease.subnets)}; ${installed} of ${peers.length} peers routed${troubles}`;
  }
}

/** The network has IPv4 on, as required, so the interface was chosen by it. */
function ipv4Of({ addresses }: HostInterface): string {
  if (addresses.ipv4 === undefined) throw new TypeError('an interface was chosen without an IPv4 address');
  return addresses.ipv4;
}

function ipv4SubnetOf({ subnets }: OwnLease): Subnet {
  if (subnets.ipv4 === undefined) throw new TypeError('a lease was taken without an IPv4 subnet');
  return subnets.ipv4;
}
