import type { Family, PerFamily } from '../../ip/ip.ts';
import { type Candidate, candidates, wantedAddress } from './candidates.ts';
import { describeHost, fieldOf, type HostNetwork, type WantedInterface } from './host-network.ts';
import { unsettled, unusable, usableAddresses } from './usable-addresses.ts';

/** The interface peers reach this host by. */
export interface HostInterface {
  readonly name: string;
  readonly index: number;
  readonly mtu: number;
  /** Its addresses: the gateways of this host's subnets for all peers. Of each family that is on, and of no other. */
  readonly addresses: PerFamily<string>;
}

export type InterfaceChoice =
  /** `skipped`: why each element before the one that fits does not. */
  | { readonly chosen: HostInterface; readonly skipped: readonly string[] }
  /** `problem`: one line, what was tried and what exists; `why`: the same for whoever has said already that there is none. */
  | { readonly problem: string; readonly why: string };

/** Chooses interface and addresses. An element of the wishes that fails is skipped, in favour of the next. */
export function chooseInterface(host: HostNetwork, wanted: WantedInterface): InterfaceChoice {
  const skipped: string[] = [];
  for (const candidate of candidates(host, wanted)) {
    const choice = typeof candidate === 'string' ? candidate : complete(host, wanted, candidate);
    if (typeof choice !== 'string') return { chosen: choice, skipped };
    if (!skipped.includes(choice)) skipped.push(choice);
  }
  const why = `${skipped.join('; ')}. There are: ${describeHost(host, wanted.families)}`;
  return { problem: `no usable interface: ${why}`, why };
}

/**
 * For a host that has lost some of its addresses and still has `kept`: the choice on the interface that has those, with
 * them.
 */
export function chooseBeside(
  host: HostNetwork,
  wanted: WantedInterface,
  kept: PerFamily<string>,
): InterfaceChoice {
  const problems: string[] = [];
  for (const candidate of candidates(host, wanted)) {
    if (typeof candidate === 'string') {
      problems.push(candidate);
    } else if (holdsAll(host, candidate.link.index, kept)) {
      const addresses = { ...candidate.addresses, ...kept };
      const choice = complete(host, wanted, { link: candidate.link, addresses });
      if (typeof choice !== 'string') return { chosen: choice, skipped: problems };
      problems.push(choice);
    }
  }
  const tried = [...new Set(problems)].join('; ') || 'another interface would fit';
  const why = `${tried}. There are: ${describeHost(host, wanted.families)}`;
  return { problem: why, why };
}

/** Whether a link has all these addresses, as far as is known for itself alone. */
export function holdsAll(host: HostNetwork, linkIndex: number, addresses: PerFamily<string>): boolean {
  return Object.values(addresses).every((text) =>
    host.addresses.some(
      ({ address, linkIndex: index, dadFailed }) => index === linkIndex && address === text && !dadFailed,
    ),
  );
}

/** An interface with an address of each family that is on, or why it has not. */
function complete(host: HostNetwork, wanted: WantedInterface, candidate: Candidate): HostInterface | string {
  const { link } = candidate;
  if (link.loopback) return `${link.name} is the loopback interface, which no peer can reach`;
  const addresses: { ipv4?: string; ipv6?: string } = {};
  for (const family of wanted.families) {
    const found = addressOf(host, wanted, candidate, family);
    if ('problem' in found) return found.problem;
    addresses[fieldOf(family)] = found.address;
  }
  return { name: link.name, index: link.index, mtu: link.mtu, addresses };
}

function addressOf(
  host: HostNetwork,
  wanted: WantedInterface,
  { link, addresses }: Candidate,
  family: Family,
): { readonly address: string } | { readonly problem: string } {
  const asked = addresses[fieldOf(family)];
  const own = asked ?? usableAddresses(host, link, family)[0]?.address;
  const given = wantedAddress(wanted, family);
  if (given === undefined) {
    if (own !== undefined) return { address: own };
    const why = host.addresses
      .filter((held) => held.family === family && held.linkIndex === link.index)
      .map((held) => `${held.address} is ${unusable(held)}`);
    const reasons = why.length > 0 ? ` (${why.join(', ')})` : '';
    return { problem: `interface ${link.name} has no usable IPv${family} address${reasons}` };
  }
  // flanneld compares --public-ip with what it chose, and takes --public-ipv6 as it is. An interface that was named by its
  // IPv6 address has no IPv4 address chosen yet.
  const free = family === 6 || (asked === undefined && addresses.ipv6 !== undefined);
  const held = host.addresses.find(({ address, linkIndex }) => address === given && linkIndex === link.index);
  const why = held && unsettled(held);
  if (why !== undefined) return { problem: `${given} of ${link.name} is ${why}` };
  const fits = own === given || (free && holdsAll(host, link.index, { [fieldOf(family)]: given }));
  return fits ? { address: given } : { problem: describeMismatch(host, { link, own, given, family }) };
}

/** host-gw needs the public address on the interface: flanneld says "NAT" and exits. */
function describeMismatch(
  host: HostNetwork,
  {
    link,
    own,
    given,
    family,
  }: { link: Candidate['link']; own: string | undefined; given: string; family: Family },
): string {
  const flag = family === 4 ? '--public-ip' : '--public-ipv6';
  const what = `${flag}=${given} is not the address of ${link.name}${own === undefined ? '' : ` (${own})`}, and host-gw works through no NAT`;
  const holders = host.addresses.filter(({ address }) => address === given).map(({ linkIndex }) => linkIndex);
  if (holders.includes(link.index)) {
    return `${what}: ${link.name} has it as another address, so give --iface=${given}, or ${flag} without any --iface`;
  }
  const holder = host.links.find(({ index }) => holders.includes(index));
  if (holder === undefined) return `${what}: no interface has it, so leave ${flag} out`;
  return `${what}: ${holder.name} has it, so give --iface=${given}, or ${flag} without any --iface`;
}
