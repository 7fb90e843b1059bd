import { type Family, gatewayAddress, parseSubnet, type Subnet } from '../ip/ip.ts';

/** One family's part of subnet.env. */
interface FamilyNetwork {
  readonly network: Subnet;
  /** This host's part of it. */
  readonly subnet: Subnet;
}

export interface SubnetEnvironment {
  /** Absent: IPv4 is off. */
  readonly ipv4?: FamilyNetwork;
  /** Absent: IPv6 is off. */
  readonly ipv6?: FamilyNetwork;
  readonly mtu: number;
  readonly ipMasq: boolean;
}

/** The bytes of subnet.env as flanneld writes them: what dockerd's wrappers and the flannel CNI plugin read. */
export function renderSubnetEnv({ ipv4, ipv6, mtu, ipMasq }: SubnetEnvironment): string {
  const lines = [
    ...(ipv4 === undefined ? [] : familyLines('FLANNEL', ipv4)),
    ...(ipv6 === undefined ? [] : familyLines('FLANNEL_IPV6', ipv6)),
    `FLANNEL_MTU=${mtu}`,
    `FLANNEL_IPMASQ=${ipMasq}`,
  ];
  return `${lines.join('\n')}\n`;
}

function familyLines(prefix: string, { network, subnet }: FamilyNetwork): readonly string[] {
  return [`${prefix}_NETWORK=${network.text}`, `${prefix}_SUBNET=${gatewayAddress(subnet)}/${subnet.length}`];
}

/** The subnets this host had according to an earlier subnet.env: a hint, to be checked against the leases of now. */
export interface SubnetHint {
  readonly subnet?: Subnet;
  readonly ipv6Subnet?: Subnet;
}

/**
 * Reads an earlier subnet.env, flanneld's too, in dotenv syntax: comments, `export`, quotes, CRLF. Undefined when a line or
 * a subnet is not well formed (half a file is no hint), or when it names no subnet.
 */
export function parseSubnetEnv(text: string): SubnetHint | undefined {
  const variables = new Map<string, string>();
  for (const line of text.replace(/^\ufeff/, '').split(/\r?\n|\r/)) {
    if (/^\s*(?:#.*)?$/.test(line)) continue;
    const assignment = parseLine(line);
    if (assignment === undefined) return undefined;
    variables.set(assignment.name, assignment.value);
  }
  const subnet = hintOf(4, variables.get('FLANNEL_SUBNET'));
  const ipv6Subnet = hintOf(6, variables.get('FLANNEL_IPV6_SUBNET'));
  if (subnet === 'invalid' || ipv6Subnet === 'invalid') return undefined;
  if (subnet === undefined && ipv6Subnet === undefined) return undefined;
  return { ...(subnet === undefined ? {} : { subnet }), ...(ipv6Subnet === undefined ? {} : { ipv6Subnet }) };
}

function parseLine(line: string): { readonly name: string; readonly value: string } | undefined {
  const [, name, text] = /^\s*(?:export\s+)?([A-Za-z_][\w.]*)\s*=\s*(.*)$/.exec(line) ?? [];
  if (name === undefined || text === undefined) return undefined;
  if (!/^['"]/.test(text)) return { name, value: text.replace(/(?:^|\s)#.*$/, '').trim() };
  const quoted = /^(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?$/.exec(text);
  return quoted === null
    ? undefined
    : { name, value: quoted[1] ?? quoted[2]?.replaceAll(/\\(.)/g, '$1') ?? '' };
}

/** The subnet a bridge address such as `172.20.91.1/24` lies in. */
function hintOf(family: Family, text: string | undefined): Subnet | 'invalid' | undefined {
  if (text === undefined || text === '') return undefined;
  const subnet = parseSubnet(text);
  return subnet?.family === family ? subnet : 'invalid';
}
