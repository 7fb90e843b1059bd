import fc from 'fast-check';
import { type OperatorRoute, SimKernel } from '../../sim/kernel.ts';
import { HostNetworks } from '../../src/backend/hostgw/host-networks.ts';
import { Mirror } from '../../src/backend/hostgw/mirror.ts';
import { blackholeMetricOf, metricOf, type Ownership } from '../../src/backend/hostgw/ownership.ts';
import { ownFault, type PlanInput } from '../../src/backend/hostgw/plan.ts';
import type { Family } from '../../src/ip/ip.ts';
import { KernelError } from '../../src/kernel/kernel.ts';
import { protocol, subnet } from './reconciler-host.ts';

/** One family's network, and what hosts and operators may use of it. */
export interface FamilyCase {
  readonly family: Family;
  readonly network: string;
  readonly subnetLength: number;
  readonly dsts: readonly string[];
  readonly own: string;
  readonly gateways: readonly string[];
  readonly addresses: readonly [string, string];
  readonly addressLength: number;
}

export const families: readonly FamilyCase[] = [
  {
    family: 4,
    network: '172.20.0.0/16',
    subnetLength: 24,
    dsts: ['172.20.1.0/24', '172.20.2.0/24', '172.20.8.0/22', '192.168.50.0/24'],
    own: '172.20.100.0/24',
    gateways: ['10.211.55.101', '10.211.55.102', '10.211.55.103'],
    addresses: ['10.211.55.100', '10.211.55.99'],
    addressLength: 24,
  },
  {
    family: 6,
    network: 'fc00::/32',
    subnetLength: 64,
    dsts: ['fc00:0:1::/64', 'fc00:0:2::/64', 'fc00:0:8::/60', 'fd99::/64'],
    own: 'fc00:0:100::/64',
    gateways: ['fd00:55::101', 'fd00:55::102', 'fd00:55::103'],
    addresses: ['fd00:55::100', 'fd00:55::99'],
    addressLength: 64,
  },
];

export function worldOf(on: FamilyCase) {
  const { family, dsts, own, gateways, addresses } = on;
  const usual = metricOf(family);
  const operatorRoute = fc.record({
    dst: fc.constantFrom(...dsts, own),
    protocol: fc.constantFrom(protocol, protocol, 3, 3, 4, 2),
    shape: fc.constantFrom('plain', 'plain', 'plain', 'source', 'blackhole', 'direct', 'object', 'onlink'),
    gateway: fc.constantFrom(...gateways),
    metric: fc.constantFrom(usual, usual, usual, 100, blackholeMetricOf(family)),
    link: fc.constantFrom('eth0', 'eth0', 'eth1'),
  });
  return fc.record({
    on: fc.constant(on),
    routes: fc.array(operatorRoute, { maxLength: 10, size: 'max' }),
    desired: fc.dictionary(fc.constantFrom(...dsts), fc.constantFrom(...gateways, addresses[0])),
    removeLegacy: fc.boolean(),
    foreignAllowed: fc.subarray([...dsts]),
    held: fc.subarray([...dsts, own], { maxLength: 1 }),
    programmed: fc.subarray([...dsts]),
    blackhole: fc.boolean(),
  });
}
export type World = ReturnType<typeof worldOf> extends fc.Arbitrary<infer T> ? T : never;

/** Only others make routes with a source or onlink that look like plain ones to a removal. */
function nexthopOf(
  { shape, gateway, protocol: owner }: World['routes'][number],
  linkIndex: number,
  source: string,
): Partial<OperatorRoute> {
  if (shape === 'blackhole') return { type: 'blackhole' };
  if (shape === 'direct') return { linkIndex };
  if (shape === 'object') return { special: true };
  if (shape === 'source' && owner !== protocol) return { gateway, linkIndex, source };
  return { gateway, linkIndex, special: shape === 'onlink' && owner !== protocol };
}

/** The kernel a world begins with; what the kernel refuses of it is left out. */
export function kernelOf({ routes, on: { addresses, addressLength } }: World): SimKernel {
  const kernel = new SimKernel();
  for (const [i, address] of addresses.entries()) {
    kernel.createLink(`eth${i}`);
    kernel.addAddress(`eth${i}`, `${address}/${addressLength}`);
  }
  for (const route of routes) {
    const { dst, protocol: owner, metric } = route;
    const nexthop = nexthopOf(route, kernel.link(route.link).index, addresses[0]);
    try {
      kernel.addRoute({ dst, protocol: owner, metric, ...nexthop }, 'append');
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
    }
  }
  return kernel;
}

export function ownershipOf({ network, subnetLength }: FamilyCase): Ownership {
  return { protocol, network: subnet(network), subnetLength };
}

/** What is to be planned now. */
export function inputOf(kernel: SimKernel, given: World): PlanInput {
  const { on, blackhole } = given;
  const mirror = new Mirror('eth0', on.family);
  mirror.reset({ links: kernel.links(), addresses: kernel.addresses(), routes: kernel.routes(on.family) });
  const networks = new HostNetworks({
    ...mirror.side,
    etcdAddresses: [],
    isLeasable: () => true,
    linkIndex: mirror.link.index,
  });
  const desired = new Map(
    Object.entries(given.desired).map(([dst, gateway]) => [dst, { dst, gateway, key: dst }]),
  );
  return {
    dsts: new Set([on.own, ...desired.keys(), ...mirror.dsts]),
    desired,
    actual: mirror,
    ownership: ownershipOf(on),
    own: { dst: on.own, blackhole },
    link: mirror.link,
    ownAddresses: mirror.ownAddresses,
    refusal: (dst) => networks.refusal(dst),
    held: {
      put: (dst) => (given.held.includes(dst) ? ownFault('held') : undefined),
      removal: () => undefined,
    },
    programmed: new Set(given.programmed),
    removeLegacy: given.removeLegacy,
    mayReplaceForeign: (dst) => given.foreignAllowed.includes(dst),
  };
}
