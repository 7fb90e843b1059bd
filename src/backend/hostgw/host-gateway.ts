import type { PerFamily, Subnet } from '../../ip/ip.ts';
import { firstOf } from '../../runtime/wake.ts';
import type { LeaseUpdate } from '../../subnet/lease/watch/lease-watch.ts';
import type { Ownership } from './ownership.ts';
import { Reconciler, type ReconcilerOptions } from './reconciler.ts';
import type { RefusedLease, RoutesStatus } from './status.ts';

export interface HostGatewayOptions extends Omit<ReconcilerOptions, 'self' | 'ownership'> {
  /** This host's own subnets: a family without one is off. */
  readonly subnets: PerFamily<Subnet>;
  /** The addresses under which peers reach this host, for each family that is on. */
  readonly addresses: PerFamily<string>;
  /** The cluster's networks and the length of the subnets in them, for each family that is on. */
  readonly networks: PerFamily<Omit<Ownership, 'protocol'>>;
  /** rtm_protocol of our routes. */
  readonly protocol: number;
}

const textOf = ({ key, reason }: RefusedLease) => `${key} ${reason}`;
const families = ['ipv4', 'ipv6'] as const;

/**
 * host-gw: one route per peer and family, via the peer's own address. IPv4 and IPv6 have tables, events and troubles of
 * their own, so each family that is on is kept by a {@link Reconciler} of its own, whose methods say what these do. Throws RangeError
 * when a family has a subnet and no address or network.
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

  status(): RoutesStatus {
    const all = this.#reconcilers.map((reconciler) => reconciler.status());
    const synced = all.flatMap(({ syncedAtMs }) => syncedAtMs ?? []);
    return {
      peers: all.flatMap(({ peers }) => peers),
      // What is wrong with a whole lease both families say.
      refused: [...new Map(all.flatMap(({ refused }) => refused).map((one) => [textOf(one), one])).values()],
      outside: all.flatMap(({ outside }) => outside),
      ...(synced.length === all.length && { syncedAtMs: Math.min(...synced) }),
    };
  }
}
