import { parseSubnet, type Subnet } from '../src/ip/ip.ts';
import type { PoolConfig } from '../src/subnet/config/config.ts';
import { type Lease, parseLease } from '../src/subnet/lease/lease.ts';

/** Where the leases lie of hosts whose prefix is `/net`. */
export const prefix = '/net/subnets/';

/** A subnet that the caller knows to be one. */
export function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  if (parsed === undefined) throw new RangeError(`not a subnet: ${text}`);
  return parsed;
}

/** The pool from one subnet to another of the same length, both included. */
export function poolOf(min: string, max: string, network = '10.0.0.0/8'): PoolConfig {
  return {
    network: subnet(network),
    subnetLength: subnet(min).length,
    min: subnet(min),
    max: subnet(max),
  };
}

/** The value of a lease, to the byte as flanneld writes it. */
export const valueOf = (publicIP: string, publicIPv6?: string) =>
  `{"PublicIP":"${publicIP}","PublicIPv6":${publicIPv6 ? `"${publicIPv6}"` : 'null'},"BackendType":"host-gw"}`;

/** The lease of `dst` as etcd would hold it. */
export function lease(dst: string, publicIP: string, over: Partial<Lease> = {}): Lease {
  return { ...leaseAt(dst.replace('/', '-'), valueOf(publicIP)), ...over };
}

/** The lease of a dual-stack host; `0.0.0.0/0` and PublicIP 0.0.0.0 for one with IPv6 alone. */
export function dualLease(dst4: string, dst6: string, publicIP: string, publicIPv6: string): Lease {
  return leaseAt(`${dst4.replace('/', '-')}&${dst6.replace('/', '-')}`, valueOf(publicIP, publicIPv6));
}

function leaseAt(name: string, value: string): Lease {
  const found = parseLease(prefix, {
    key: prefix + name,
    value,
    createRevision: 1,
    modRevision: 1,
    lease: '7',
  });
  if (!('lease' in found)) throw new Error(found.problem);
  return found.lease;
}
