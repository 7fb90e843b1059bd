import {
  containsAddress,
  containsSubnet,
  type Family,
  overlaps,
  parseSubnet,
  type Subnet,
} from '../../src/ip/ip.ts';
import { parseLease } from '../../src/subnet/lease.ts';
import type { KeyValue } from '../../src/subnet/registry.ts';
import type { SimHost } from '../host.ts';
import { prefix, routeProtocol } from '../host.ts';

// What has to be, told from etcd and the kernel alone and not by the code that is to bring it about.

export const subnetsPrefix = `${prefix}/subnets/`;

const network: Readonly<Record<Family, Subnet>> = {
  4: parseSubnet('172.20.0.0/16') as Subnet,
  6: parseSubnet('fc00::/48') as Subnet,
};
const reserved = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3', '::/8', 'fe80::/10', 'ff00::/8'].map(
  (text) => parseSubnet(text) as Subnet,
);

/** The network configuration with so many subnets to lease. */
export function configText(pool: number, ipv6: boolean): string {
  const four = { Network: '172.20.0.0/16', SubnetMin: '172.20.10.0', SubnetMax: `172.20.${9 + pool}.0` };
  const six = {
    EnableIPv6: true,
    IPv6Network: 'fc00::/48',
    IPv6SubnetMin: 'fc00:0:0:10::',
    IPv6SubnetMax: `fc00:0:0:${(0x10 + pool).toString(16)}::`,
  };
  return JSON.stringify({ ...four, ...(ipv6 ? six : {}), Backend: { Type: 'host-gw' } });
}

/** What one key asks for: destination, gateway and the key's age. */
export interface Claim {
  readonly dst: Subnet;
  readonly gateway: string;
  readonly createRevision: number;
}

/** The route of one family that a key asks for; undefined when none. */
export function claimOf(kv: KeyValue, family: Family): Claim | undefined {
  const parsed = parseLease(subnetsPrefix, kv);
  if (!('lease' in parsed) || parsed.lease.value.backendType !== 'host-gw') return undefined;
  const { subnets, value, createRevision } = parsed.lease;
  const dst = family === 4 ? subnets.ipv4 : subnets.ipv6;
  const gateway = family === 4 ? value.publicIP : value.publicIPv6;
  return dst && gateway ? { dst, gateway, createRevision } : undefined;
}

/** The address a key's value names; undefined when it cannot be read. */
export function holderOf(kv: KeyValue): string | undefined {
  const parsed = parseLease(subnetsPrefix, kv);
  return 'lease' in parsed ? parsed.lease.value.publicIP : undefined;
}

/** This host's own subnet and address of a family; undefined without one. */
export function selfOf(
  host: SimHost,
  family: Family,
): { readonly subnet: Subnet; readonly address: string } | undefined {
  const text = host.files.peek('/run/flannel/subnet.env') ?? '';
  const name = family === 4 ? 'FLANNEL_SUBNET' : 'FLANNEL_IPV6_SUBNET';
  const line = text.split('\n').find((one) => one.startsWith(`${name}=`));
  const subnet = line === undefined ? undefined : parseSubnet(line.slice(name.length + 1));
  return subnet && { subnet, address: family === 4 ? host.address : host.addressIPv6 };
}

/** Why a host must not have this route, whatever a lease says (invariant 6); undefined when it may. */
export function forbidden(host: SimHost, dst: Subnet, gateway: string): string | undefined {
  const self = selfOf(host, dst.family);
  if (self && overlaps(dst, self.subnet)) return `overlaps the own subnet ${self.subnet.text}`;
  if (self && containsAddress(dst, self.address)) return `contains the own address ${self.address}`;
  if (containsAddress(dst, gateway)) return 'contains its gateway';
  if (host.kernel.addresses().some(({ address }) => address === gateway)) return 'its gateway is this host';
  const never = reserved.find((one) => one.family === dst.family && overlaps(one, dst));
  return never && `overlaps ${never.text}`;
}

/** Whether this host's kernel takes a route over that gateway. */
export function isReachable(host: SimHost, gateway: string): boolean {
  const link = host.kernel.links().find(({ name }) => name === 'eth0');
  if (!link?.up) return false;
  return host.kernel.addresses().some(({ linkIndex, address, prefixLength }) => {
    const subnet = parseSubnet(`${address}/${prefixLength}`);
    return linkIndex === link.index && subnet !== undefined && containsAddress(subnet, gateway);
  });
}

/** Whether the kernel routes this destination as a network of its own. */
export function isConnected(host: SimHost, { family, text }: Subnet): boolean {
  return host.kernel.routes(family).some(({ dst, protocol }) => dst === text && protocol === 2);
}

/** The routes a host has to have of a family: `dst via gateway`, sorted. */
export function wantedRoutes(host: SimHost, family: Family, kvs: readonly KeyValue[]): readonly string[] {
  const claims = new Map<string, Claim>();
  const byAge = kvs
    .flatMap((kv) => claimOf(kv, family) ?? [])
    .toSorted((a, b) => a.createRevision - b.createRevision);
  for (const claim of byAge) {
    const { dst, gateway } = claim;
    if (claims.has(dst.text) || forbidden(host, dst, gateway) !== undefined) continue;
    claims.set(dst.text, claim);
  }
  return [...claims.values()]
    .filter(({ dst, gateway }) => isReachable(host, gateway) && !isConnected(host, dst))
    .map(({ dst, gateway }) => `${dst.text} via ${gateway}`)
    .toSorted();
}

/** The routes a host has with our number. */
export function actualRoutes(host: SimHost, family: Family): readonly string[] {
  return host.kernel
    .routes(family)
    .filter(({ protocol }) => protocol === routeProtocol)
    .map(({ dst, gateway }) => `${dst} via ${gateway}`)
    .toSorted();
}

/** Whether a destination lies in the cluster's network. */
export function isInNetwork(dst: string): boolean {
  const subnet = parseSubnet(dst);
  return subnet !== undefined && containsSubnet(network[subnet.family], subnet);
}
