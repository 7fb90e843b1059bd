import type { PerFamily, Subnet } from '../../ip/ip.ts';
import { firstOf } from '../../runtime/wake.ts';
import type { LeaseUpdate } from '../../subnet/lease/watch/reader.ts';
import type { Ownership } from './ownership.ts';
import { Reconciler, type ReconcilerOptions } from './reconciler.ts';
import type { RoutesStatus } from './status.ts';

interface HostGatewayOptions extends Omit<ReconcilerOptions, 'self' | 'ownership'> {
  /** This host's own subnets; a family without one is off. */
  readonly subnets: PerFamily<Subnet>;
  /** Peers reach this host at these. Needed for each family that is on. */
  readonly addresses: PerFamily<string>;
  /** The cluster's networks and the length of their subnets. Needed for each family that is on. */
  readonly networks: PerFamily<Omit<Ownership, 'protocol'>>;
  /** rtm_protocol of our routes. */
  readonly protocol: number;
}

const families = ['ipv4', 'ipv6'] as const;

/**
 * host-gw: one route per peer and family, by way of the peer's own address. IPv4 and IPv6 have their own
 * tables, events and troubles, so each family that is on has a {@link Reconciler}, whose methods these
 * forward to. Throws RangeError for a family with a subnet but no address or network.
 */
export class HostGateway {
  readonly #reconcilers: readonly Reconciler[];

  constructor({ subnets, addresses, networks, protocol, ...rest }: HostGatewayOptions) {
    this.#reconcilers = families.flatMap((family) => {
      const subnet = subnets[family];
      if (subnet === undefined) return [];
      const address = addresses[family];
      const network = networks[family];
      if (address === undefined || network === undefined) throw new RangeError(`${family} is on by half`);
      return [new Reconciler({ ...rest, self: { subnet, address }, ownership: { protocol, ...network } })];
    });
  }

  update(update: LeaseUpdate): void {
    for (const reconciler of this.#reconcilers) reconciler.update(update);
  }

  moveTo(addresses: PerFamily<string>): void {
    for (const reconciler of this.#reconcilers) reconciler.moveTo(addresses);
  }

  protect(addresses: readonly string[]): void {
    for (const reconciler of this.#reconcilers) reconciler.protect(addresses);
  }

  run(signal: AbortSignal): Promise<never> {
    return firstOf(signal, (inner) => this.#reconcilers.map((reconciler) => reconciler.run(inner)));
  }

  async synced(signal: AbortSignal): Promise<void> {
    for (const reconciler of this.#reconcilers) await reconciler.synced(signal);
  }

  status(which: 'all' | 'troubled' = 'all'): RoutesStatus {
    const all = this.#reconcilers.map((reconciler) => reconciler.status(which));
    const sum = (count: (one: RoutesStatus) => number) => all.reduce((total, one) => total + count(one), 0);
    const synced = all.flatMap(({ syncedAtMs }) => syncedAtMs ?? []);
    return {
      counts: { peers: sum(({ counts }) => counts.peers), routed: sum(({ counts }) => counts.routed) },
      peers: all.flatMap(({ peers }) => peers),
      // Both families report a fault of the whole lease.
      refused: [
        ...new Map(
          all.flatMap(({ refused }) => refused).map((one) => [`${one.key} ${one.reason}`, one]),
        ).values(),
      ],
      outside: all.flatMap(({ outside }) => outside),
      ...(synced.length === all.length && { syncedAtMs: Math.min(...synced) }),
    };
  }
}
