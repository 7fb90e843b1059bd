import { PREFIX } from './cluster.ts';

/** The key of the lease of a subnet, `172.20.1.0/24`. */
export function leaseKey(subnet: string): string {
  return `${PREFIX}/subnets/${subnet.replace('/', '-')}`;
}

/** The value of a lease, with these fields besides. */
export function leaseValue(publicIP: string, more: object = {}): string {
  return JSON.stringify({ PublicIP: publicIP, PublicIPv6: null, BackendType: 'host-gw', ...more });
}
