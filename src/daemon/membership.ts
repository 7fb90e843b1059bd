import { HostGateway } from '../backend/hostgw/host-gateway.ts';
import { Firewall } from '../firewall/firewall.ts';
import type { PerFamily, Subnet } from '../ip/ip.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { firstOf, untilAborted, Wake } from '../runtime/wake.ts';
import type { NetworkConfig } from '../subnet/config.ts';
import { LeaseWatch } from '../subnet/lease-watch.ts';
import { LeaseManager } from '../subnet/manager.ts';
import { familiesText } from '../subnet/own-lease.ts';
import { subnetsPrefix } from '../subnet/subnet-key.ts';
import type { DaemonOptions, DaemonParts } from './daemon.ts';
import { EnvFiles } from './env-files.ts';
import { prepareForwarding, reportBridgeFilter } from './forwarding.ts';
import type { HostInterface } from './interface/choose-interface.ts';
import { InterfaceWatch } from './interface/interface-watch.ts';
import { waitForInterface } from './interface/wait-for-interface.ts';

import type { FamilyNetwork } from './subnet-env.ts';

export interface MembershipOptions {
  readonly parts: DaemonParts;
  readonly options: DaemonOptions;
  readonly trouble: TroubleLog;
  readonly config: NetworkConfig;
  /** Told what the boot is at, and once everything has been done a first time. */
  readonly onPhase: (phase: string) => void;
  readonly onReady: () => void;
}

/** When the interface is down no peer can be routed to: a probe and a status line need not hear all their names. */
const namedProblems = 5;

/**
 * This host's part in a network whose configuration is known: an address, a lease, the files, routes and rules. Everything
 * that follows from the interface is done anew when that changes; lease and routes stay while that goes on.
 */
export class Membership {
  readonly #options: MembershipOptions;
  readonly #files: EnvFiles;
  readonly #interfaceChanged = new Wake();
  #manager: LeaseManager | undefined;
  #backend: HostGateway | undefined;
  #watch: LeaseWatch | undefined;
  #ready = false;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#files = new EnvFiles({ ...options.parts, ...options.options, trouble: options.trouble });
  }

  /** Why this host does not do its part just now; troubles that are logged are not among it. */
  get problems(): readonly string[] {
    const lease = this.#manager?.state ?? 'held';
    return [
      ...(lease === 'held' ? [] : [`the own lease is ${lease}`]),
      ...(this.#ready && this.#watch?.watching === false ? ['the lease watch is not up'] : []),
      ...(this.#ready ? this.#routeProblems() : []),
    ];
  }

  /** Whether this host has leased subnets by its configuration. */
  get hasLease(): boolean {
    return this.#manager?.lease !== undefined;
  }

  /** `subnet … ; 3 of 4 peers routed`; undefined while the boot is not over. */
  get summary(): string | undefined {
    const subnets = this.#manager?.lease?.subnets;
    if (!this.#ready || subnets === undefined) return undefined;
    const peers = this.#backend?.status().peers ?? [];
    const installed = peers.filter(({ state }) => state === 'installed').length;
    return `subnet ${familiesText(subnets)}; ${installed} of ${peers.length} peers routed`;
  }

  /** Works until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal): Promise<never> {
    const { onPhase } = this.#options;
    onPhase('waiting for an address on the interface');
    const host = await waitForInterface(this.#wantedInterface, signal);
    this.#logChoice(host);
    onPhase('waiting for a subnet');
    const manager = await this.#manage(host, signal);
    const { subnets } = await manager.acquire(signal);
    // From here on the lease is kept, however long the files or the routes take.
    return await firstOf(signal, (inner) => [
      manager.run(inner),
      this.#useSubnets(manager, subnets, host, inner),
    ]);
  }

  get #wantedInterface() {
    const { parts, options, trouble, config } = this.#options;
    const families = [config.ipv4 && (4 as const), config.ipv6 && (6 as const)].filter(
      (family) => family !== undefined,
    );
    return { ...parts, ...options, trouble, families };
  }

  #logChoice({ name, addresses, mtu }: HostInterface): void {
    const { parts, config } = this.#options;
    const network = [config.ipv4, config.ipv6].flatMap((pool) => pool?.network.text ?? []).join(' and ');
    const address = [addresses.ipv4, addresses.ipv6].filter((text) => text !== undefined).join(' and ');
    parts.log.info(
      { event: 'interface-chosen', interface: name, publicIP: address, mtu, network },
      `network ${network} over ${name} (${address}, MTU ${mtu})`,
    );
  }

  async #manage(host: HostInterface, signal: AbortSignal): Promise<LeaseManager> {
    const { parts, options, trouble, config } = this.#options;
    const hint = await this.#files.hint(signal);
    this.#manager = new LeaseManager({
      ...parts,
      trouble,
      subnetsPrefix: subnetsPrefix(options.etcdPrefix),
      pools: config,
      addresses: host.addresses,
      renewMarginMs: options.renewMarginMs,
      leaseTtlSeconds: options.subnetLeaseTtlSeconds,
      hostIdentity: parts.hostIdentity,
      ...(hint === undefined ? {} : { hint }),
    });
    return this.#manager;
  }

  async #useSubnets(
    manager: LeaseManager,
    subnets: PerFamily<Subnet>,
    host: HostInterface,
    signal: AbortSignal,
  ): Promise<never> {
    const networks = networksOf(this.#options.config, subnets);
    const interfaces = new InterfaceWatch({
      ...this.#wantedInterface,
      host,
      onChange: (next) => {
        manager.moveTo(next.addresses);
        this.#interfaceChanged.wake();
      },
    });
    await this.#prepareHost();
    return await firstOf(signal, (inner) => [
      interfaces.run(inner),
      this.#firewall(networks).run(inner),
      this.#serveInterfaces(manager, networks, interfaces, inner),
    ]);
  }

  async #prepareHost(): Promise<void> {
    const { parts, options, config } = this.#options;
    const { families } = this.#wantedInterface;
    await prepareForwarding({ ...parts, families, setIpForward: options.setIpForward });
    if (!config.enableNFTables) await reportBridgeFilter({ ...parts, families });
  }

  #firewall(networks: PerFamily<FamilyNetwork>): Firewall {
    const { parts, options, trouble, config } = this.#options;
    return new Firewall({
      ...parts,
      trouble,
      networks,
      mode: config.enableNFTables ? 'nftables' : 'iptables',
      masquerade: options.ipMasq,
      fullyRandom: options.ipMasqFullyRandom,
      forwardRules: options.iptablesForwardRules,
      forwardPosition: options.iptablesForwardPosition,
      resyncMs: options.iptablesResyncMs,
    });
  }

  /** Routes over one interface, until the host's addresses are on another one; then over that. */
  async #serveInterfaces(
    manager: LeaseManager,
    networks: PerFamily<FamilyNetwork>,
    interfaces: InterfaceWatch,
    signal: AbortSignal,
  ): Promise<never> {
    const { options, onPhase } = this.#options;
    const text = familiesText(manager.lease?.subnets ?? {});
    for (;;) {
      const { host } = interfaces;
      onPhase(`subnet ${text}; writing files`);
      await this.#files.write({ ...networks, mtu: host.mtu, ipMasq: options.ipMasq }, signal);
      onPhase(`subnet ${text}; syncing routes`);
      const backend = this.#backendOver(host, networks);
      await firstOf<unknown>(signal, (inner) => [
        this.#serve(manager, backend, inner),
        this.#follow(interfaces, backend, host, networks, inner),
      ]);
    }
  }

  /** Takes over new addresses and another MTU; resolves when the interface is another one. */
  async #follow(
    interfaces: InterfaceWatch,
    backend: HostGateway,
    first: HostInterface,
    networks: PerFamily<FamilyNetwork>,
    signal: AbortSignal,
  ): Promise<void> {
    let { mtu } = first;
    for (let { host } = interfaces; host.name === first.name; { host } = interfaces) {
      backend.moveTo(host.addresses);
      if (host.mtu !== mtu) {
        ({ mtu } = host);
        await this.#files.write({ ...networks, mtu, ipMasq: this.#options.options.ipMasq }, signal);
      }
      await this.#interfaceChanged.wait(signal);
    }
  }

  #backendOver(host: HostInterface, { ipv4, ipv6 }: PerFamily<FamilyNetwork>): HostGateway {
    const { parts, options, trouble, config } = this.#options;
    return new HostGateway({
      ...parts,
      trouble,
      subnets: { ...(ipv4 && { ipv4: ipv4.subnet }), ...(ipv6 && { ipv6: ipv6.subnet }) },
      addresses: host.addresses,
      networks: config,
      protocol: options.routeProtocol,
      blackhole: options.ipBlackholeRoute,
      linkName: host.name,
    });
  }

  /**
   * Runs watch and routes side by side; they end only with `signal`. Should one fail otherwise, which is a bug, the others
   * end too: a daemon that is half alive is worse than one that is started again with its routes in place.
   */
  async #serve(manager: LeaseManager, backend: HostGateway, signal: AbortSignal): Promise<never> {
    const { parts, options, trouble } = this.#options;
    const watch = new LeaseWatch({
      ...parts,
      trouble,
      subnetsPrefix: subnetsPrefix(options.etcdPrefix),
    });
    this.#backend = backend;
    this.#watch = watch;
    return await firstOf(signal, (inner) => [
      backend.run(inner),
      watch.run(inner, (update) => {
        backend.update(update);
        manager.observe(update);
      }),
      this.#announce(backend, inner).then(() => untilAborted(inner)),
    ]);
  }

  /** READY=1 once the first sync is done; then there is nothing more to announce. */
  async #announce(backend: HostGateway, signal: AbortSignal): Promise<void> {
    await backend.synced(signal);
    if (this.#ready) return;
    this.#ready = true;
    this.#options.onReady();
    const { peers, problems } = backend.status();
    const subnet = familiesText(this.#manager?.lease?.subnets ?? {});
    this.#options.parts.log.info(
      { event: 'ready', subnet, peers: peers.length, problems: problems.length },
      `ready: subnet ${subnet}, ${peers.length} ${peers.length === 1 ? 'peer' : 'peers'}`,
    );
  }

  /** Peers that are not routed to, the first few by name. */
  #routeProblems(): readonly string[] {
    const problems = this.#backend?.status().problems ?? [];
    const rest = problems.length - namedProblems;
    return rest > 0
      ? [...problems.slice(0, namedProblems), `${rest} more routes are not installed`]
      : problems;
  }
}

function networksOf({ ipv4, ipv6 }: NetworkConfig, subnets: PerFamily<Subnet>): PerFamily<FamilyNetwork> {
  return {
    ...(ipv4 && subnets.ipv4 && { ipv4: { network: ipv4.network, subnet: subnets.ipv4 } }),
    ...(ipv6 && subnets.ipv6 && { ipv6: { network: ipv6.network, subnet: subnets.ipv6 } }),
  };
}
