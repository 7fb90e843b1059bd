import type { AddressGuard } from '../arp/address-guard.ts';
import { junkFaults, oddities, ownFaults, peerFaults, routedText } from '../backend/hostgw/status.ts';
import { type Passage, readBlockages } from '../firewall/blockages.ts';
import { Firewall } from '../firewall/firewall.ts';
import { familiesOf, type PerFamily, type Subnet } from '../ip/ip.ts';
import { linkInside } from '../kernel/kernel.ts';
import { explanationOf } from '../runtime/errors.ts';
import { type BackoffPolicy, retryForever } from '../runtime/retry.ts';
import { counted } from '../runtime/texts.ts';
import type { Fault } from '../runtime/trouble.ts';
import { firstOf, unlessAborted, Wake } from '../runtime/wake.ts';
import type { NetworkConfig } from '../subnet/config/config.ts';
import { subnetsPrefix } from '../subnet/keys.ts';
import { leasedAddresses } from '../subnet/lease/acquire/own-keys.ts';
import type { Grants } from '../subnet/lease/grants.ts';
import { LeaseManager } from '../subnet/lease/keep/manager.ts';
import { familiesText, leaseFaults } from '../subnet/lease/own-lease.ts';
import { listRange, stuckWithEtcdMs } from '../subnet/registry/registry.ts';
import { EnvFiles } from './env-files.ts';
import { BridgeNotice, Forwarding, reportBridgeFilter } from './host-checks.ts';
import type { HostInterface } from './interface/choose-interface.ts';
import { InterfaceWatch } from './interface/interface-watch.ts';
import { interfaceLoop, waitForInterface, waitForPool } from './interface/wait.ts';
import type { DaemonOptions } from './options/flags.ts';
import type { Parts } from './parts.ts';
import { Routing } from './routing.ts';
import { type Faults, type LeaseView, type NetworkMember, type NetworkView, nothingYet } from './state.ts';
import { type FamilyNetwork, networksOf } from './subnet-env.ts';

export interface MembershipOptions {
  readonly parts: Parts;
  readonly options: DaemonOptions;
  readonly config: NetworkConfig;
  readonly grants: Grants;
  /** At work already; told here which address is this host's. */
  readonly guard: AddressGuard;
  /** Called with the step that the boot is at, and once when everything is done for the first time. */
  readonly onPhase: (phase: string) => void;
  readonly onReady: () => void;
}

/** A firewall tool that hangs must not delay READY any longer. */
const firewallPatienceMs = 10_000;
/** The rules wait for the files, and so long at most. */
const firewallDelayMs = 500;
/** How often etcd is asked which address this host's lease names. */
const policy: BackoffPolicy = { initialMs: 200, maxMs: 10_000 };

/**
 * This host's part in a network whose configuration is known: an address, a lease, the files, routes and rules. When the interface
 * changes, everything that depends on it is done again; lease and routes stay meanwhile.
 */
export class Membership implements NetworkMember {
  readonly #options: MembershipOptions;
  readonly #files: EnvFiles;
  #manager: LeaseManager | undefined;
  #routing: Routing | undefined;
  readonly #bridge: BridgeNotice;
  #ready = false;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#files = new EnvFiles({ ...options.parts, ...options.options });
    this.#bridge = new BridgeNotice(options.parts);
  }

  faults(most?: number): Faults {
    const routed = this.#ready ? this.#routing?.view('troubled') : undefined;
    const view = routed ?? nothingYet;
    return {
      reasons: [...this.#leaseFaults(), ...this.#watchFaults(routed), ...ownFaults(view, most)],
      degraded: [...peerFaults(view, most), ...junkFaults(view.junk, most)],
      notices: oddities(view, most),
    };
  }

  /** The logged trouble, if there is one, says more. */
  #leaseFaults(): readonly Fault[] {
    const { trouble } = this.#options.parts;
    const state = this.#manager?.state ?? 'held';
    if (state === 'held') return [];
    const said = { acquiring: 'lease', contested: 'contested', lost: 'lost', moving: 'address' }[state];
    return trouble.has(said) ? [] : [{ what: 'own lease', text: leaseFaults[state], passing: true }];
  }

  #watchFaults(routed: NetworkView | undefined): readonly Fault[] {
    const { trouble } = this.#options.parts;
    if (routed?.watching !== false || trouble.has('lease-watch')) return [];
    const text = 'the watch of the leases is interrupted: the daemon lists them again';
    return [{ what: 'watch', text, passing: true }];
  }

  /** Whether this host has leased subnets by its configuration. */
  get hasLease(): boolean {
    return this.#manager?.lease !== undefined;
  }

  /** `subnet … ; 3 of 4 peers routed`; undefined while the boot is not over. */
  get summary(): string | undefined {
    const subnets = this.#manager?.lease?.subnets;
    if (!this.#ready || subnets === undefined) return undefined;
    const { counts, leases } = this.#routing?.view('troubled') ?? nothingYet;
    return `subnet ${familiesText(subnets)}; ${routedText(counts, leases !== undefined)}`;
  }

  view(): NetworkView {
    const lease = this.#leaseView();
    return { ...(this.#routing?.view() ?? nothingYet), ...(lease && { lease }) };
  }

  #leaseView(): LeaseView | undefined {
    const { lease, addresses, state, expiresAtMs = Number.POSITIVE_INFINITY } = this.#manager ?? {};
    if (lease === undefined || addresses === undefined || state === undefined) return undefined;
    return {
      key: lease.key,
      state,
      subnets: [lease.subnets.ipv4, lease.subnets.ipv6].flatMap((subnet) => subnet?.text ?? []),
      addresses: [addresses.ipv4, addresses.ipv6].flatMap((address) => address ?? []),
      ...(Number.isFinite(expiresAtMs) && { expiresAtMs }),
    };
  }

  /**
   * Works until `signal` aborts, then rejects with its reason. Resolves when it must start over, because the interface
   * changed before there was a lease.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { parts, guard, onPhase } = this.#options;
    onPhase('waiting for an address on the interface');
    const leased = (inner: AbortSignal) => this.#leasedAddresses(inner);
    const host = await waitForInterface({ ...this.#wantedInterface, leased }, signal);
    this.#logChoice(host);
    onPhase('waiting for a subnet');
    const changed = new Wake();
    guard.follow(host);
    const interfaces = new InterfaceWatch({
      ...this.#wantedInterface,
      host,
      onChange: (next) => {
        guard.follow(next);
        changed.wake();
      },
      onLook: (links, addresses) => {
        guard.look(links);
        this.#bridge.look(links, addresses);
        parts.etcdAddresses.keepFrom(addresses.map(({ address }) => address));
      },
    });
    await firstOf<void>(signal, (inner) => [interfaces.run(inner), this.#join(interfaces, changed, inner)]);
  }

  async #join(interfaces: InterfaceWatch, changed: Wake, signal: AbortSignal): Promise<void> {
    const { parts, options, config, guard } = this.#options;
    const { host } = interfaces;
    const hint = await this.#files.hint(signal);
    const wait = { ...parts, config, host, hint, subnetsPrefix: subnetsPrefix(options.etcdPrefix) };
    const manager = this.#manage(host, hint);
    await firstOf<unknown>(signal, (inner) => [
      waitForPool(wait, inner).then(() => manager.acquire(inner)),
      changed.wait(inner),
    ]);
    const subnets = manager.lease?.subnets;
    if (subnets === undefined) return;
    guard.hold();
    // From here on the lease is kept, however long the files or the routes take.
    return await firstOf(signal, (inner) => [
      manager.run(inner),
      this.#useSubnets(manager, subnets, interfaces, changed, inner),
    ]);
  }

  /** The addresses in this host's lease, when something else than them shows that it is this host's. Waits for etcd. */
  async #leasedAddresses(signal: AbortSignal): Promise<PerFamily<string>> {
    const { parts, options, grants } = this.#options;
    const { activity, clock, random, registry, trouble } = parts;
    const prefix = subnetsPrefix(options.etcdPrefix);
    const hint = await this.#files.hint(signal);
    const onFailure = (error: unknown) =>
      trouble.report('lease', `waiting: the leases cannot be read: ${explanationOf(error)}`, { error });
    const { kvs } = await retryForever({ clock, random, policy, onFailure }, signal, (inner) => {
      // While etcd is away this waits within one look at the interface.
      activity.round(interfaceLoop.loop, stuckWithEtcdMs);
      return listRange(registry, prefix, inner);
    });
    trouble.clear('lease', 'the leases could be read');
    return leasedAddresses({ grants, hint, subnetsPrefix: prefix }, kvs);
  }

  get #wantedInterface() {
    const { parts, options, config } = this.#options;
    return { ...parts, ...options, families: familiesOf(config) };
  }

  #logChoice({ name, addresses, mtu }: HostInterface): void {
    const { parts, config } = this.#options;
    const network = familiesText({ ipv4: config.ipv4?.network, ipv6: config.ipv6?.network });
    const address = familiesText(addresses);
    parts.log.info(
      { event: 'interface-chosen', interface: name, publicIP: address, mtu, network },
      `network ${network} over ${name} (${address}, MTU ${mtu})`,
    );
  }

  #manage(host: HostInterface, hint: PerFamily<Subnet> | undefined): LeaseManager {
    const { parts, options, config, grants, guard: addressUse } = this.#options;
    this.#manager = new LeaseManager({
      ...parts,
      grants,
      subnetsPrefix: subnetsPrefix(options.etcdPrefix),
      pools: config,
      addresses: host.addresses,
      addressUse,
      renewMarginMs: options.renewMarginMs,
      leaseTtlSeconds: options.subnetLeaseTtlSeconds,
      ...(hint === undefined ? {} : { hint }),
    });
    return this.#manager;
  }

  async #useSubnets(
    manager: LeaseManager,
    subnets: PerFamily<Subnet>,
    interfaces: InterfaceWatch,
    interfaceChanged: Wake,
    signal: AbortSignal,
  ): Promise<never> {
    const { parts, options, config, onPhase } = this.#options;
    const networks = networksOf(config, subnets);
    this.#bridge.expect(networks.ipv4);
    const firewall = this.#makeFirewall(networks, interfaces);
    const routing = new Routing({
      parts,
      options,
      config,
      onPhase,
      networks,
      manager,
      interfaces,
      interfaceChanged,
      files: this.#files,
      onSynced: (inner) => this.#announce(routing, firewall, inner),
    });
    this.#routing = routing;
    const families = familiesOf(config);
    const linkName = () => interfaces.host.name;
    const forwarding = new Forwarding({ ...parts, families, setIpForward: options.setIpForward, linkName });
    await forwarding.check();
    if (!config.enableNFTables) await reportBridgeFilter({ ...parts, families });
    // To start a program keeps this process from its files and routes for as long as they take.
    const runFirewall = async (inner: AbortSignal) => {
      await firstOf(inner, (one) => [routing.haveFiles(one), parts.clock.sleep(firewallDelayMs, one)]);
      return await firewall.run(inner);
    };
    return await firstOf(signal, (inner) => [routing.run(inner), forwarding.run(inner), runFirewall(inner)]);
  }

  #makeFirewall(networks: PerFamily<FamilyNetwork>, interfaces: InterfaceWatch): Firewall {
    const { parts, options, config } = this.#options;
    const mode = config.enableNFTables ? 'nftables' : 'iptables';
    const { commands, kernel } = parts;
    const look = async (signal: AbortSignal) => {
      const uplink = interfaces.host.name;
      const passages: Passage[] = [];
      for (const network of [networks.ipv4, networks.ipv6]) {
        if (network === undefined) continue;
        const bridge = await linkInside(kernel, network.subnet, signal);
        passages.push({ ...network, uplink, ...(bridge === undefined ? {} : { bridge }) });
      }
      return await readBlockages({ commands, passages, mode }, signal);
    };
    return new Firewall({
      ...parts,
      networks,
      mode,
      look,
      masquerade: options.ipMasq,
      fullyRandom: options.ipMasqFullyRandom,
      forwardRules: options.iptablesForwardRules,
      forwardPosition: options.iptablesForwardPosition,
      resyncMs: options.iptablesResyncMs,
    });
  }

  /** READY=1 once the first sync is done; then there is nothing more to announce. */
  async #announce(routing: Routing, firewall: Firewall, signal: AbortSignal): Promise<void> {
    if (this.#ready) return;
    const { parts, onReady } = this.#options;
    // Docker starts after this and its containers with it: a connection made before the rules are there escapes them.
    const serving = parts.serve();
    await firstOf(signal, (inner) => [firewall.tried(inner), parts.clock.sleep(firewallPatienceMs, inner)]);
    // Whoever waits for READY may ask at once.
    await unlessAborted(serving, signal);
    this.#ready = true;
    onReady();
    const { peers, routed } = routing.view('troubled').counts;
    const subnet = familiesText(this.#manager?.lease?.subnets ?? {});
    parts.log.info(
      {
        event: 'ready',
        subnet,
        peers,
        problems: peers - routed,
      },
      `ready: subnet ${subnet}, ${counted(peers, 'peer')}`,
    );
  }
}
