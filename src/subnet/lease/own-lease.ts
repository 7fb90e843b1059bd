import type { PerFamily } from '../../ip/ip.ts';
import type { Logger } from '../../runtime/effects.ts';
import { FlannelError } from '../../runtime/errors.ts';
import type { LeaseSubnets } from '../keys.ts';
import type { Registry } from '../registry/registry.ts';
import type { Grants } from './grants.ts';

/** What every step of getting and keeping a lease needs. */
export interface LeaseOptions {
  readonly registry: Registry;
  readonly grants: Grants;
  readonly log: Logger;
  /** `<prefix>/subnets/`, with the slash. */
  readonly subnetsPrefix: string;
  /** This host's addresses: the gateways under which peers reach its subnets. One for each family that is on. */
  readonly addresses: PerFamily<string>;
  /** The TTL to ask for when a lease is granted. */
  readonly leaseTtlSeconds: number;
}

/** The lease this host holds. */
export interface OwnLease {
  readonly key: string;
  /** One for each family that is on. */
  readonly subnets: LeaseSubnets;
  /** The value we wrote or found, byte for byte. */
  readonly value: string;
  /** The key's revision when we last wrote or read it: a later one is another's write. */
  readonly modRevision: number;
  /** Decimal etcd lease id; '0' for a reservation, which has none and never gets one. */
  readonly leaseId: string;
  /** The TTL that the last grant or keepalive announced, in seconds; 0 for a reservation. */
  readonly ttlSeconds: number;
  /** How it was obtained. */
  readonly origin: 'reused' | 'hint' | 'new' | 'retaken';
}

/**
 * `moving`: the lease is held, but does not carry this host's new address yet. `contested`: another host owns our subnet now;
 * never overwritten, this host goes on and the operator is told.
 */
export type LeaseState = 'acquiring' | 'held' | 'moving' | 'lost' | 'contested';

/** What a state means for this host, the same in log and status. */
export const leaseFaults: Readonly<Record<Exclude<LeaseState, 'held'>, string>> = {
  acquiring: 'no lease yet',
  contested: 'another host holds the subnet of this host',
  lost: 'the own lease is gone from etcd: the daemon takes it again',
  moving: 'the own lease still names the former address of this host: the daemon is changing that',
};

/** A lease's subnets, or a host's addresses, for a line: `172.20.9.0/24`, or both of a dual-stack host. */
export function familiesText({
  ipv4,
  ipv6,
}: PerFamily<string | { readonly text: string } | undefined>): string {
  return [ipv4, ipv6]
    .flatMap((one) => (one === undefined ? [] : [typeof one === 'string' ? one : one.text]))
    .join(' and ');
}

/** Other hosts were faster again and again. */
export class RaceLostError extends FlannelError {
  constructor(subnetsPrefix: string) {
    super('RACE_LOST', `other hosts keep changing ${subnetsPrefix} at the same moment; trying again`);
  }
}

/** Another host uses our address: the one with this MAC address, or one that lives and holds this lease under it. */
export class AddressInUseError extends FlannelError {
  constructor(addresses: PerFamily<string>, by: { readonly mac: string } | { readonly key: string }) {
    const address = familiesText(addresses);
    const text =
      'mac' in by
        ? `another host (MAC address ${by.mac}) uses this host's address ${address}`
        : `another host that is running uses this host's address ${address}, for the lease ${by.key}`;
    super('ADDRESS_IN_USE', text, {
      remedy:
        'Peers can tell hosts apart by their addresses only: give one of the two an address of its own with ' +
        '--iface=INTERFACE or --public-ip=ADDRESS',
    });
  }
}
