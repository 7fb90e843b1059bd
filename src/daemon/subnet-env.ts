import { bridgeAddress, type Family, type PerFamily, parseSubnet, type Subnet } from '../ip/ip.ts';
import type { NetworkConfig } from '../subnet/config/config.ts';

/** One family's part of subnet.env. */
export interface FamilyNetwork {
  readonly network: Subnet;
  /** This host's part of it. */
  readonly subnet: Subnet;
}

/** The networks of a configuration with this host's subnets in them. */
export function networksOf(
  { ipv4, ipv6 }: NetworkConfig,
  subnets: PerFamily<Subnet>,
): PerFamily<FamilyNetwork> {
  return {
    ...(ipv4 && subnets.ipv4 && { ipv4: { network: ipv4.network, subnet: subnets.ipv4 } }),
    ...(ipv6 && subnets.ipv6 && { ipv6: { network: ipv6.network, subnet: subnets.ipv6 } }),
  };
}

/** What subnet.env says; a family that is off is absent. */
export interface SubnetEnvironment extends PerFamily<FamilyNetwork> {
  readonly mtu: number;
  /** Whether we masquerade; docker then must not. */
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
  return [`${prefix}_NETWORK=${network.text}`, `${prefix}_SUBNET=${bridgeAddress(subnet)}`];
}

/**
 * The subnets this host had according to an earlier subnet.env, flanneld's too: a hint, to be checked against the leases of
 * now. Read in dotenv syntax: comments, `export`, quotes, CRLF. Undefined when a line or
 * a subnet is not well formed (half a file is no hint), or when it names no subnet.
 */
export function parseSubnetEnv(text: string): PerFamily<Subnet> | undefined {
  const variables = variablesOf(text);
  if (variables === undefined) return undefined;
  const ipv4 = hintOf(4, variables.get('FLANNEL_SUBNET'));
  const ipv6 = hintOf(6, variables.get('FLANNEL_IPV6_SUBNET'));
  if (ipv4 === 'invalid' || ipv6 === 'invalid') return undefined;
  if (ipv4 === undefined && ipv6 === undefined) return undefined;
  return { ...(ipv4 === undefined ? {} : { ipv4 }), ...(ipv6 === undefined ? {} : { ipv6 }) };
}

/** The networks and subnets that subnet.env names, as far as it does; undefined as for {@link parseSubnetEnv}. */
export function networksInSubnetEnv(
  text: string,
): { readonly subnets: PerFamily<Subnet>; readonly networks: PerFamily<Subnet> } | undefined {
  const subnets = parseSubnetEnv(text);
  const variables = variablesOf(text);
  if (subnets === undefined || variables === undefined) return undefined;
  const ipv4 = parseSubnet(variables.get('FLANNEL_NETWORK') ?? '');
  const ipv6 = parseSubnet(variables.get('FLANNEL_IPV6_NETWORK') ?? '');
  return { subnets, networks: { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) } };
}

/** Undefined when a line is not well formed. */
function variablesOf(text: string): ReadonlyMap<string, string> | undefined {
  const variables = new Map<string, string>();
  for (const line of text.replace(/^\ufeff/, '').split(/\r?\n|\r/)) {
    if (/^\s*(?:#.*)?$/.test(line)) continue;
    const assignment = parseLine(line);
    if (assignment === undefined) return undefined;
    variables.set(assignment.name, assignment.value);
  }
  return variables;
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
