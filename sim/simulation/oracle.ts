import {
  canonicalAddress,
  containsAddress,
  containsSubnet,
  type Family,
  overlaps,
  parseSubnet,
  type Subnet,
} from '../../src/ip/ip.ts';
import type { KeyValue } from '../../src/subnet/registry/registry.ts';
import { prefix, type SimHost } from '../host.ts';

// What has to be, told from etcd and the kernel alone and not by the code that is to bring it about.

export const subnetsPrefix = `${prefix}/subnets/`;
export const subnetFile = '/run/flannel/subnet.env';
export const dockerOptsFile = '/run/docker_opts.env';

const network: Readonly<Record<Family, Subnet>> = {
  4: parseSubnet('172.20.0.0/16') as Subnet,
  6: parseSubnet('fc00::/48') as Subnet,
};
const reserved = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3', '::/8', 'fe80::/10', 'ff00::/8'].map(
  (text) => parseSubnet(text) as Subnet,
);

/** The subnets that hosts may lease of a family, in order: `pool` of IPv4, and of IPv6 one more. */
export function poolOf(pool: number, family: Family): readonly string[] {
  return family === 4
    ? Array.from({ length: pool }, (_, i) => `172.20.${10 + i}.0/24`)
    : Array.from({ length: pool + 1 }, (_, i) => `fc00:0:0:${(0x10 + i).toString(16)}::/64`);
}

/** The network configuration with these pools. */
export function configText(pool: number, ipv6: boolean): string {
  const ends = (family: Family) => {
    const addresses = poolOf(pool, family).map((text) => text.split('/')[0]);
    return { min: addresses[0], max: addresses.at(-1) };
  };
  const [four, six] = [ends(4), ends(6)];
  return JSON.stringify({
    Network: '172.20.0.0/16',
    SubnetMin: four.min,
    SubnetMax: four.max,
    ...(ipv6 && {
      EnableIPv6: true,
      IPv6Network: 'fc00::/48',
      IPv6SubnetMin: six.min,
      IPv6SubnetMax: six.max,
    }),
    Backend: { Type: 'host-gw' },
  });
}

/** What one key asks for: destination, gateway and the key's age. */
export interface Claim {
  readonly dst: Subnet;
  readonly gateway: string;
  readonly createRevision: number;
}

/** `a.b.c.d-len`, or with an IPv6 half. */
const keyPattern = /^((?:\d{1,3}\.){3}\d{1,3}-\d{1,2})(?:&([0-9a-f:]+-\d{1,3}))?$/;

/** The route of one family that a key asks for; undefined when none. */
export function claimOf(kv: KeyValue, family: Family): Claim | undefined {
  const halves = keyPattern.exec(kv.key.startsWith(subnetsPrefix) ? kv.key.slice(subnetsPrefix.length) : '');
  const half = halves?.[family === 4 ? 1 : 2];
  const dst = half === undefined ? undefined : parseSubnet(half.replace('-', '/'));
  const value = valueOf(kv);
  if (value?.['BackendType'] !== 'host-gw' || dst?.text.replace('/', '-') !== half || dst?.length === 0)
    return undefined;
  // What cannot be read in one half is no key at all.
  if (family === 4 && halves?.[2] !== undefined && claimless(halves[2])) return undefined;
  const gateway = addressIn(value[family === 4 ? 'PublicIP' : 'PublicIPv6']);
  return dst && gateway ? { dst, gateway, createRevision: kv.createRevision } : undefined;
}

/** The address a key's value names; undefined when it cannot be read. */
export function holderOf(kv: KeyValue): string | undefined {
  const isKey = keyPattern.test(kv.key.slice(subnetsPrefix.length));
  return isKey ? addressIn(valueOf(kv)?.['PublicIP']) : undefined;
}

function addressIn(value: unknown): string | undefined {
  const address = typeof value === 'string' ? canonicalAddress(value) : undefined;
  return address === '0.0.0.0' ? undefined : address;
}

/** A value that everybody reads alike: an object whose addresses are addresses. Nothing else is written here that counts. */
function valueOf({ value }: KeyValue): Readonly<Record<string, unknown>> | undefined {
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined;
    const fields = parsed as Readonly<Record<string, unknown>>;
    const addresses = [fields['PublicIP'], fields['PublicIPv6']];
    const well = addresses.every((one) => one === undefined || one === null || typeof one === 'string');
    return well ? fields : undefined;
  } catch {
    return undefined;
  }
}

function claimless(half: string): boolean {
  return parseSubnet(half.replace('-', '/'))?.text.replace('/', '-') !== half;
}

/** This host's own subnet and address of a family; undefined without one. */
export function selfOf(
  host: SimHost,
  family: Family,
): { readonly subnet: Subnet; readonly address: string } | undefined {
  const text = host.files.peek(subnetFile) ?? '';
  const name = family === 4 ? 'FLANNEL_SUBNET' : 'FLANNEL_IPV6_SUBNET';
  const line = text.split('\n').find((one) => one.startsWith(`${name}=`));
  const subnet = line === undefined ? undefined : parseSubnet(line.slice(name.length + 1));
  return subnet && { subnet, address: family === 4 ? host.address : host.addressIPv6 };
}

/** Whether the card is there. */
export const hasNic = (host: SimHost): boolean => host.kernel.links().some(({ name }) => name === 'eth0');

/** Whether a host has the address of this CIDR. */
export function holds({ kernel }: SimHost, cidr: string): boolean {
  return kernel.addresses().some(({ address }) => cidr.startsWith(`${address}/`));
}

/** Why a host must not have this route, whatever a lease says (invariant 6); undefined when it may. */
export function forbidden(host: SimHost, dst: Subnet, gateway: string): string | undefined {
  // What it works with is written down only when there is room.
  const self = host.files.writeError === undefined ? selfOf(host, dst.family) : undefined;
  if (self && overlaps(dst, self.subnet)) return `overlaps the own subnet ${self.subnet.text}`;
  if (self && containsAddress(dst, self.address)) return `contains the own address ${self.address}`;
  if (containsAddress(dst, gateway)) return 'contains its gateway';
  if (host.kernel.addresses().some(({ address }) => address === gateway)) return 'its gateway is this host';
  const connected = networksOf(host).find((one) => overlaps(one, dst));
  if (connected) return `overlaps ${connected.text}, a network of the host's own`;
  const never = reserved.find((one) => one.family === dst.family && overlaps(one, dst));
  return never && `overlaps ${never.text}`;
}

/** The networks the host is connected to over its NIC. */
function networksOf({ kernel }: SimHost): readonly Subnet[] {
  const nic = kernel.links().find(({ name }) => name === 'eth0');
  return kernel.addresses().flatMap(({ linkIndex, address, prefixLength }) => {
    const subnet = linkIndex === nic?.index ? parseSubnet(`${address}/${prefixLength}`) : undefined;
    return subnet ?? [];
  });
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
  const claims: Claim[] = [];
  const byAge = kvs
    .flatMap((kv) => claimOf(kv, family) ?? [])
    .toSorted((a, b) => a.createRevision - b.createRevision);
  for (const claim of byAge) {
    const { dst, gateway } = claim;
    // Nobody takes a part of an older lease's subnet.
    if (claims.some((older) => overlaps(older.dst, dst)) || forbidden(host, dst, gateway) !== undefined)
      continue;
    claims.push(claim);
  }
  return claims
    .filter(({ dst, gateway }) => isReachable(host, gateway) && !isConnected(host, dst))
    .map(({ dst, gateway }) => `${dst.text} via ${gateway}`)
    .toSorted();
}

/** The rules that let the cluster's packets pass and that a host lacks. */
export function missingRules(host: SimHost): readonly string[] {
  const { stdout } = host.firewall.answer({ program: 'iptables-save', args: ['-t', 'filter'], stdin: '' });
  const wanted = ['-s', '-d'].map(
    (side) => new RegExp(`^-A FLANNEL-FWD ${side} 172.20.0.0/16 .*-j ACCEPT$`, 'm'),
  );
  return [...wanted, /^-A FORWARD .*-j FLANNEL-FWD$/m].filter((rule) => !rule.test(stdout)).map(String);
}

const subnetEnvPattern =
  /^FLANNEL_NETWORK=172\.20\.0\.0\/16\nFLANNEL_SUBNET=(172\.20\.\d+\.1\/24)\n(?:FLANNEL_IPV6_NETWORK=fc00::\/48\nFLANNEL_IPV6_SUBNET=fc00:[0-9a-f:]+\/64\n)?FLANNEL_MTU=(\d+)\nFLANNEL_IPMASQ=false\n$/;

/** What of the files for other programs is not as it has to be on a host that is ready. */
export function wrongFiles({ files, kernel }: SimHost): readonly string[] {
  const [subnetEnv, dockerOpts] = [files.peek(subnetFile), files.peek(dockerOptsFile)];
  const [, bridge, mtu] = subnetEnvPattern.exec(subnetEnv ?? '') ?? [];
  if (Number(mtu) !== kernel.link('eth0').mtu) return [`${subnetFile} is ${JSON.stringify(subnetEnv)}`];
  const isRight = dockerOpts === `DOCKER_OPTS=" --bip=${bridge} --ip-masq=true --mtu=${mtu}"\n`;
  return isRight ? [] : [`${dockerOptsFile} is ${JSON.stringify(dockerOpts)} for ${bridge} and ${mtu}`];
}

/** Whether a destination is a subnet of the cluster's network as flanneld leases them. */
export function isLeasable(dst: string): boolean {
  const subnet = parseSubnet(dst);
  return subnet?.length === (subnet?.family === 4 ? 24 : 64) && isInNetwork(dst);
}

/** Whether a destination lies in the cluster's network. */
export function isInNetwork(dst: string): boolean {
  const subnet = parseSubnet(dst);
  return subnet !== undefined && containsSubnet(network[subnet.family], subnet);
}
