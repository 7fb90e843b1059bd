import { InvalidValue } from './errors.ts';
import type { Flag } from './flag.ts';
import { boolean, choice, integer, seconds } from './values.ts';

/**
 * Protocol numbers that mark other programs' routes (the kernel's rtnetlink.h; 80 is Calico's): with one of those as our
 * mark we would take their routes for ours, and delete them.
 */
const takenProtocols: ReadonlyMap<number, string> = new Map([
  [8, 'gated'],
  [9, 'router advertisements'],
  [10, 'MRT'],
  [11, 'zebra'],
  [12, 'BIRD'],
  [13, 'DECnet'],
  [14, 'XORP'],
  [15, 'Netsukuku'],
  [16, 'DHCP clients'],
  [17, 'multicast daemons'],
  [18, 'keepalived'],
  [42, 'Babel'],
  [80, 'Calico'],
  [84, 'Open/R'],
  [99, 'OVN'],
  [186, 'BGP'],
  [187, 'IS-IS'],
  [188, 'OSPF'],
  [189, 'RIP'],
  [192, 'EIGRP'],
]);

function routeProtocol(text: string): number {
  const rule = '(0 to 4 mark the routes of the kernel, boot scripts and the administrator)';
  const number = integer(5, 255, ` ${rule}`)(text);
  const owner = takenProtocols.get(number);
  if (owner === undefined) return number;
  throw new InvalidValue(
    `must be a number that no other program uses, and ${number} marks the routes of ${owner}`,
  );
}

/** Routes and firewall: what happens to packets. */
export const packetFlags = {
  routeProtocol: {
    name: 'route-protocol',
    group: 'Routes',
    placeholder: 'NUMBER',
    describe: 'protocol number that marks our routes in the kernel, 5 to 255',
    fallback: '102',
    parse: routeProtocol,
  } satisfies Flag<number>,
  ipBlackholeRoute: {
    name: 'ip-blackhole-route',
    group: 'Routes',
    describe:
      'drop packets to the own subnet while no bridge has it, instead of sending them to the default route',
    fallback: 'false',
    parse: boolean,
    boolean: true,
  } satisfies Flag<boolean>,
  setIpForward: {
    name: 'set-ip-forward',
    group: 'Routes',
    describe: 'switch forwarding on in the kernel, whenever it is off',
    fallback: 'false',
    parse: boolean,
    boolean: true,
  } satisfies Flag<boolean>,
  ipMasq: {
    name: 'ip-masq',
    group: 'Firewall',
    describe: "masquerade what leaves the containers' network",
    fallback: 'false',
    parse: boolean,
    boolean: true,
  } satisfies Flag<boolean>,
  ipMasqFullyRandomDisable: {
    name: 'ip-masq-fully-random-disable',
    group: 'Firewall',
    describe: 'masquerade without fully random ports',
    fallback: 'false',
    parse: boolean,
    boolean: true,
  } satisfies Flag<boolean>,
  iptablesForwardRules: {
    name: 'iptables-forward-rules',
    group: 'Firewall',
    placeholder: 'BOOL',
    describe: 'let what is forwarded from and to the network pass',
    fallback: 'true',
    parse: boolean,
    boolean: true,
  } satisfies Flag<boolean>,
  iptablesForwardPosition: {
    name: 'iptables-forward-position',
    group: 'Firewall',
    placeholder: 'WHERE',
    describe: 'where in FORWARD: first, last, or auto: last, but before a final REJECT or DROP',
    fallback: 'auto',
    parse: choice('auto', 'first', 'last'),
  } satisfies Flag<'auto' | 'first' | 'last'>,
  iptablesResync: {
    name: 'iptables-resync',
    group: 'Firewall',
    placeholder: 'SECONDS',
    describe: 'how often the rules are checked, at least 1',
    fallback: '5',
    parse: seconds,
  } satisfies Flag<number>,
} as const;
