import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { SimLog } from '../../sim/log.ts';
import { SeededRandom } from '../../sim/random.ts';
import { Reconciler } from '../../src/backend/hostgw/reconciler.ts';
import { type Family, parseSubnet, type Subnet } from '../../src/ip/ip.ts';
import type { Kernel, Route } from '../../src/kernel/kernel.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { type Lease, parseLease } from '../../src/subnet/lease/lease.ts';
import { inFamily } from './family-texts.ts';

export const protocol = 102;
const prefix = '/net/subnets/';

/** A subnet that the test knows to be one. */
export function subnet(text: string): Subnet {
  const parsed = parseSubnet(text);
  if (parsed === undefined) throw new Error(`not a subnet: ${text}`);
  return parsed;
}

/** The lease of `dst` as etcd would hold it. */
export function lease(dst: string, publicIP: string, over: Partial<Lease> = {}): Lease {
  const value = { PublicIP: publicIP, PublicIPv6: null, BackendType: 'host-gw' };
  return { ...leaseAt(dst.replace('/', '-'), value), ...over };
}

/** The lease of a dual-stack host; `0.0.0.0/0` and PublicIP 0.0.0.0 for one with IPv6 alone. */
export function dualLease(dst4: string, dst6: string, publicIP: string, publicIPv6: string): Lease {
  const value = { PublicIP: publicIP, PublicIPv6: publicIPv6 || null, BackendType: 'host-gw' };
  return leaseAt(`${dst4.replace('/', '-')}&${dst6.replace('/', '-')}`, value);
}

function leaseAt(name: string, value: object): Lease {
  const found = parseLease(prefix, {
    key: prefix + name,
    value: JSON.stringify(value),
    createRevision: 1,
    modRevision: 1,
    lease: '7',
  });
  if (!('lease' in found)) throw new Error(found.problem);
  return found.lease;
}

export interface HostOptions {
  /** Default 4; what is written for IPv4 is then put into that family by {@link inFamily}. */
  readonly family?: Family;
  readonly seed?: number;
  /** How long a batch or a dump takes in the kernel. Default 1: a loop that never waits shows in the counters. */
  readonly latencyMs?: number;
  /** What stands between reconciler and kernel. */
  readonly wrap?: (kernel: Kernel) => Kernel;
}

/**
 * One host, 10.211.55.100/24 on eth0 with the subnet 172.20.100.0/24 (or the counterparts of another family), its kernel,
 * and the reconciler at work on it.
 */
export class ReconcilerHost {
  readonly family: Family;
  readonly clock = new VirtualClock();
  readonly kernel: SimKernel;
  readonly log = new SimLog(this.clock);
  readonly trouble = new TroubleLog(this.clock, this.log.of('host'));
  readonly reconciler: Reconciler;
  readonly #connection: Kernel;
  readonly #controller = new AbortController();
  #ended: Promise<unknown> = Promise.resolve();
  #leases = new Map<string, Lease>();

  constructor({ family = 4, seed = 1, latencyMs = 1, wrap = (kernel) => kernel }: HostOptions = {}) {
    this.family = family;
    const own = (text: string) => inFamily(family, text);
    this.kernel = new SimKernel({ clock: this.clock, latencyMs });
    this.kernel.createLink('eth0');
    this.kernel.addAddress('eth0', own('10.211.55.100/24'));
    this.kernel.addRoute({ dst: own('0.0.0.0/0'), gateway: own('10.211.55.1'), linkIndex: this.eth0 });
    this.#connection = wrap(this.kernel.open());
    this.reconciler = new Reconciler({
      kernel: this.#connection,
      clock: this.clock,
      random: new SeededRandom(seed),
      log: this.log.of('host'),
      trouble: this.trouble,
      self: { subnet: subnet(own('172.20.100.0/24')), address: own('10.211.55.100') },
      ownership: { protocol, network: subnet(own('172.20.0.0/16')), subnetLength: family === 4 ? 24 : 64 },
      linkName: 'eth0',
      blackhole: false,
    });
  }

  get eth0(): number {
    return this.kernel.link('eth0').index;
  }

  start(): void {
    this.#ended = this.reconciler.run(this.#controller.signal).catch((error: unknown) => error);
  }

  /** Stops the reconciler as a signal does; throws when it does not end or leaves something behind. */
  async stop(): Promise<void> {
    this.#controller.abort(new Error('stopped'));
    await this.#ended;
    this.#connection.close();
    await this.clock.settle();
    if (this.clock.pending > 0) throw new Error(`${this.clock.pending} timers are left`);
  }

  /** All leases at once, as after a list: destination → PublicIP. */
  snapshot(leases: Readonly<Record<string, string>>): void {
    this.#leases = new Map(Object.entries(leases).map(([dst, ip]) => [this.in(dst), this.#lease(dst, ip)]));
    this.reconciler.update({ type: 'snapshot', leases: [...this.#leases.values()], revision: 1 });
  }

  put(dst: string, publicIP: string): void {
    const changed = this.#lease(dst, publicIP);
    this.#leases.set(this.in(dst), changed);
    this.reconciler.update({ type: 'delta', put: [changed], removed: [], revision: 2 });
  }

  remove(dst: string): void {
    const gone = this.#leases.get(this.in(dst)) ?? this.#lease(dst, '10.211.55.1');
    this.#leases.delete(this.in(dst));
    this.reconciler.update({ type: 'delta', put: [], removed: [gone.key], revision: 2 });
  }

  /** What the leases ask for: destination → gateway. */
  get wanted(): ReadonlyMap<string, string> {
    const gateway = ({ publicIP, publicIPv6 }: Lease['value']) => (this.family === 4 ? publicIP : publicIPv6);
    return new Map([...this.#leases].map(([dst, { value }]) => [dst, gateway(value) ?? '']));
  }

  /** The counterpart in this host's family. */
  in(text: string): string {
    return inFamily(this.family, text);
  }

  #lease(dst: string, publicIP: string): Lease {
    if (this.family === 4) return lease(dst, publicIP);
    return dualLease('0.0.0.0/0', this.in(dst), '0.0.0.0', this.in(publicIP));
  }

  /** Our routes, as `dst via gateway`, sorted. */
  get own(): readonly string[] {
    return this.routes((route) => route.protocol === protocol);
  }

  /** The matching routes of the kernel, as `dst via gateway`, sorted. */
  routes(matches: (route: Route) => boolean): readonly string[] {
    return this.kernel
      .routes(this.family)
      .filter(matches)
      .map(({ dst, gateway }) => `${dst} via ${gateway}`)
      .toSorted();
  }

  /** Installs the first routes and comes to rest. */
  async settled(leases: Readonly<Record<string, string>>): Promise<void> {
    this.start();
    this.snapshot(leases);
    await this.clock.advance(200);
  }

  state(dst: string): string {
    const peer = this.reconciler.status().peers.find((candidate) => candidate.dst === dst);
    if (peer === undefined) return 'absent';
    return peer.reason === undefined ? peer.state : `${peer.state}: ${peer.reason.text}`;
  }
}

export const peers = {
  '172.20.1.0/24': '10.211.55.101',
  '172.20.2.0/24': '10.211.55.102',
  '172.20.3.0/24': '10.211.55.103',
} as const;

/** What the kernel holds when all is well. */
export const meshed: readonly string[] = Object.entries(peers).map(([dst, ip]) => `${dst} via ${ip}`);
