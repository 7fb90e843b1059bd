import { HostGateway } from '../backend/hostgw/host-gateway.ts';
import type { PerFamily } from '../ip/ip.ts';
import { firstOf, untilAborted, Wake } from '../runtime/wake.ts';
import type { NetworkConfig } from '../subnet/config/config.ts';
import { subnetsPrefix } from '../subnet/keys.ts';
import type { LeaseManager } from '../subnet/lease/keep/manager.ts';
import { familiesText } from '../subnet/lease/own-lease.ts';
import { LeaseWatch, WATCH_LOOP } from '../subnet/lease/watch/lease-watch.ts';
import { changesOf, type LeaseUpdate } from '../subnet/lease/watch/reader.ts';
import type { EnvFiles } from './env-files.ts';
import type { HostInterface } from './interface/choose-interface.ts';
import type { InterfaceWatch } from './interface/interface-watch.ts';
import type { DaemonOptions } from './options/flags.ts';
import type { Parts } from './parts.ts';
import { type NetworkView, nothingYet } from './state.ts';
import type { FamilyNetwork } from './subnet-env.ts';

export interface RoutingOptions {
  readonly parts: Parts;
  readonly options: DaemonOptions;
  readonly config: NetworkConfig;
  readonly networks: PerFamily<FamilyNetwork>;
  readonly manager: LeaseManager;
  readonly interfaces: InterfaceWatch;
  /** Woken when `interfaces` tells of a change. */
  readonly interfaceChanged: Wake;
  readonly files: EnvFiles;
  readonly onPhase: (phase: string) => void;
  /** Called once the files are there, at the first sync over an interface and again when that is another one. */
  readonly onSynced: (signal: AbortSignal) => Promise<void>;
}

/** Keeps the files and routes of this host's subnets, over the interface that has its addresses. */
export class Routing {
  readonly #options: RoutingOptions;
  #backend: HostGateway | undefined;
  #watch: LeaseWatch | undefined;
  #haveFiles = false;
  readonly #filesWake = new Wake();

  constructor(options: RoutingOptions) {
    this.#options = options;
  }

  /**
   * The peers and their routes; `troubled`: of the peers only those whose route is not installed. The number of leases is
   * absent before the first list over the present interface.
   */
  view(which: 'all' | 'troubled' = 'all'): NetworkView {
    if (this.#backend === undefined || this.#watch === undefined) return nothingYet;
    const { watching, leases, junk } = this.#watch;
    return { ...this.#backend.status(which), watching, junk, ...(leases !== undefined && { leases }) };
  }

  /** Resolves once the files have been written; rejects with `signal.reason`. */
  async haveFiles(signal: AbortSignal): Promise<void> {
    while (!this.#haveFiles) await this.#filesWake.wait(signal);
  }

  /**
   * Works until `signal` aborts, then rejects with its reason. Over one interface, until the host's addresses are on another
   * one; then over that.
   */
  async run(signal: AbortSignal): Promise<never> {
    return await firstOf(signal, (inner) => [this.#keepFiles(inner), this.#keepRoutes(inner)]);
  }

  /** Keeps the current MTU in the files. A full disk delays READY, but neither routes nor a move to another address. */
  async #keepFiles(signal: AbortSignal): Promise<never> {
    const { files, networks, options, interfaces } = this.#options;
    const onWritten = () => {
      this.#haveFiles = true;
      this.#filesWake.wake();
    };
    for (;;) {
      const { mtu } = interfaces.host;
      const environment = { ...networks, mtu, ipMasq: options.ipMasq };
      await firstOf<void>(signal, (inner) => [
        files.keep(environment, onWritten, inner),
        this.#untilMtuIsNot(mtu, inner),
      ]);
    }
  }

  async #untilMtuIsNot(mtu: number, signal: AbortSignal): Promise<void> {
    const { interfaces, interfaceChanged } = this.#options;
    while (interfaces.host.mtu === mtu) await interfaceChanged.wait(signal);
  }

  async #keepRoutes(signal: AbortSignal): Promise<never> {
    const { interfaces, manager, onPhase } = this.#options;
    onPhase(`subnet ${familiesText(manager.lease?.subnets ?? {})}; syncing routes`);
    for (;;) {
      const { host } = interfaces;
      const backend = this.#backendOver(host);
      await firstOf<unknown>(signal, (inner) => [
        this.#serve(backend, inner),
        this.#follow(backend, host, inner),
      ]);
    }
  }

  /** Takes over new addresses; resolves when the interface is another one. */
  async #follow(backend: HostGateway, first: HostInterface, signal: AbortSignal): Promise<void> {
    const { interfaces, interfaceChanged, manager } = this.#options;
    for (let { host } = interfaces; host.name === first.name; { host } = interfaces) {
      manager.moveTo(host.addresses);
      backend.moveTo(host.addresses);
      await interfaceChanged.wait(signal);
    }
  }

  #backendOver(host: HostInterface): HostGateway {
    const { parts, options, config, networks } = this.#options;
    const { ipv4, ipv6 } = networks;
    return new HostGateway({
      ...parts,
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
  async #serve(backend: HostGateway, signal: AbortSignal): Promise<never> {
    const { parts, options, manager, onSynced } = this.#options;
    const watch = new LeaseWatch({
      ...parts,
      subnetsPrefix: subnetsPrefix(options.etcdPrefix),
      // A lease that a bad restore has lost is taken again at once, so that the other hosts' second list has it.
      onDoubt: (update) => manager.observe(update),
      onReopened: () => manager.checkNow(),
    });
    this.#backend = backend;
    this.#watch = watch;
    return await firstOf(signal, (inner) => [
      this.#keepWayToEtcd(backend, inner),
      backend.run(inner),
      watch
        .run(inner, (update) => {
          this.#logUpdate(update);
          backend.update(update);
          manager.observe(update);
        })
        .finally(() => parts.activity.end(WATCH_LOOP)),
      this.#untilSynced(backend, onSynced, inner),
    ]);
  }

  async #keepWayToEtcd(backend: HostGateway, signal: AbortSignal): Promise<never> {
    const { etcdAddresses } = this.#options.parts;
    for (;;) {
      backend.protect(etcdAddresses.current);
      await etcdAddresses.changed(signal);
    }
  }

  #logUpdate(update: LeaseUpdate): void {
    const { type, revision } = update;
    const changes = changesOf(update);
    const [put, removed] = [changes.put.length, changes.removed.length];
    const fields = { event: 'leases', type, revision, put, removed };
    this.#options.parts.log.debug(fields, `leases: ${put} put, ${removed} removed`);
  }

  async #untilSynced(
    backend: HostGateway,
    onSynced: RoutingOptions['onSynced'],
    signal: AbortSignal,
  ): Promise<never> {
    await backend.synced(signal);
    await this.haveFiles(signal);
    await onSynced(signal);
    return await untilAborted(signal);
  }
}
