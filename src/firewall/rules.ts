import type { Family, Subnet } from '../ip/ip.ts';

/** One family's network and this host's part of it. */
export interface FirewallNetwork {
  readonly network: Subnet;
  readonly subnet: Subnet;
}

/** An address test: in `subnet`, or not in it. */
export interface AddressMatch {
  readonly subnet: string;
  readonly not?: boolean;
}

/** One rule, whichever tool it is written with. */
export interface Rule {
  /** Tests for the mark of packets that must not be masqueraded. */
  readonly marked?: boolean;
  readonly source?: AddressMatch;
  readonly destination?: AddressMatch;
  readonly verdict: 'accept' | 'return' | 'masquerade' | 'masquerade-random';
}

/** A chain as it has to be: rules all networks of a host share, which come first, then one network's own. */
export interface WantedChain {
  readonly shared: readonly Rule[];
  readonly own: readonly Rule[];
}

/** The bit of a packet's mark that exempts it from masquerading (Kubernetes' too). */
export const unmasqueradedMark = 0x4000;

const multicast: Readonly<Record<Family, string>> = { 4: '224.0.0.0/4', 6: 'ff00::/8' };

/** What lets a network's packets pass; flanneld's rules and order. */
export function forwardRules({ network }: FirewallNetwork): WantedChain {
  const inside = { subnet: network.text };
  return {
    shared: [],
    own: [
      { source: inside, verdict: 'accept' },
      { destination: inside, verdict: 'accept' },
    ],
  };
}

/**
 * What hides containers behind their host towards the outside, and only there; flanneld's rules and order. `random`: with
 * ports chosen at random, which avoids a kernel race that loses packets.
 */
export function masqueradeRules({ network, subnet }: FirewallNetwork, random: boolean): WantedChain {
  const [n, s] = [network.text, subnet.text];
  const verdict = random ? 'masquerade-random' : 'masquerade';
  return {
    shared: [{ marked: true, verdict: 'return' }],
    own: [
      { source: { subnet: s }, destination: { subnet: n }, verdict: 'return' },
      { source: { subnet: n }, destination: { subnet: s }, verdict: 'return' },
      { source: { subnet: n, not: true }, destination: { subnet: s }, verdict: 'return' },
      {
        source: { subnet: n },
        destination: { subnet: multicast[network.family], not: true },
        verdict,
      },
      { source: { subnet: n, not: true }, destination: { subnet: n }, verdict },
    ],
  };
}
