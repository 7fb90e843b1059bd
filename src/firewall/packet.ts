import { type Family, parseAddress, parseSubnet, type Subnet } from '../ip/ip.ts';

/** Whether a test is true of the packets in question: of all, of none, or of some (or nobody can say). */
export type Match = 'yes' | 'no' | 'maybe';

/** Addresses without a gap, both ends included. */
export interface AddressRange {
  readonly first: bigint;
  readonly last: bigint;
}

/**
 * A kind of packets: the first ones of connections between a container here and one on another host. Nothing is known of
 * their protocol and ports. They carry no mark, and no address of them is translated.
 */
export interface Packets {
  readonly family: Family;
  readonly source: readonly AddressRange[];
  readonly destination: readonly AddressRange[];
  /** Name of the interface they come in by; undefined when it is not known. */
  readonly inLink: string | undefined;
  readonly outLink: string | undefined;
}

/** One condition of a rule. */
export type Test = (packets: Packets) => Match;

export const always: Test = () => 'yes';
export const never: Test = () => 'no';
export const unknown: Test = () => 'maybe';

/** What is true when `test` is not. */
export function not(test: Test): Test {
  return (packets) => {
    const match = test(packets);
    return match === 'maybe' ? match : match === 'yes' ? 'no' : 'yes';
  };
}

/** All of `tests`. */
export function allOf(tests: readonly Test[]): Test {
  return (packets) => {
    let all: Match = 'yes';
    for (const test of tests) {
      const match = test(packets);
      if (match === 'no') return 'no';
      if (match === 'maybe') all = 'maybe';
    }
    return all;
  };
}

/** At least one of `tests`. */
export function anyOf(tests: readonly Test[]): Test {
  return not(allOf(tests.map(not)));
}

/** The address is in `range`, which is of `family`. */
export function addressTest(
  side: 'source' | 'destination',
  family: Family,
  { first, last }: AddressRange,
): Test {
  return (packets) => {
    if (packets.family !== family) return 'no';
    const ranges = packets[side];
    if (ranges.every((range) => range.first >= first && range.last <= last)) return 'yes';
    return ranges.every((range) => range.last < first || range.first > last) ? 'no' : 'maybe';
  };
}

/** The interface is `name`, or begins with it before a final `wildcard`. */
export function linkTest(side: 'inLink' | 'outLink', name: string, wildcard: '+' | '*'): Test {
  return (packets) => {
    const link = packets[side];
    const start = name.endsWith(wildcard) ? name.slice(0, -1) : undefined;
    if (start === '') return 'yes';
    if (link === undefined) return 'maybe';
    return (start === undefined ? link === name : link.startsWith(start)) ? 'yes' : 'no';
  };
}

export function familyTest(family: Family): Test {
  return (packets) => (packets.family === family ? 'yes' : 'no');
}

/** An address, with a length or without, as a range; undefined for anything else. */
export function rangeOf(text: string): (AddressRange & { readonly family: Family }) | undefined {
  const address = parseAddress(text);
  if (address !== undefined) return { family: address.family, first: address.value, last: address.value };
  return parseSubnet(text);
}

/** What is left of a network without one of its subnets. */
export function rest(network: Subnet, subnet: Subnet): readonly AddressRange[] {
  return [
    { first: network.first, last: subnet.first - 1n },
    { first: subnet.last + 1n, last: network.last },
  ].filter(({ first, last }) => first <= last);
}
