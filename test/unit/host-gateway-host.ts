import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { SimLog } from '../../sim/log.ts';
import { SeededRandom } from '../../sim/random.ts';
import { HostGateway } from '../../src/backend/hostgw/host-gateway.ts';
import type { PerFamily, Subnet } from '../../src/ip/ip.ts';
import type { Kernel, KernelEvent, KernelEvents, Route } from '../../src/kernel/kernel.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import type { Lease } from '../../src/subnet/lease/lease.ts';
import { protocol, subnet } from './reconciler-host.ts';

export const own4 = '172.20.100.0/24';
export const own6 = 'fc00:0:100::/64';
export const address4 = '10.211.55.100';
export const address6 = 'fd00:55::100';

export interface GatewayOptions {
  /** Which families the network has. Default both. */
  readonly families?: 'ipv4' | 'ipv6' | 'both';
  readonly blackhole?: boolean;
  /** What is done to the kernel before the start. */
  readonly before?: (kernel: SimKernel, eth0: number) => void;
}

/** One host with an address of each family on eth0, its kernel, and the backend at work on it. */
export class GatewayHost {
  readonly clock = new VirtualClock();
  readonly kernel = new SimKernel({ clock: this.clock, latencyMs: 1 });
  readonly log = new SimLog(this.clock);
  readonly trouble = new TroubleLog(this.clock, this.log.of('host'));
  readonly backend: HostGateway;
  /** All that the kernel told since the start. */
  events: KernelEvents | undefined;
  readonly #connection: Kernel;
  readonly #controller = new AbortController();
  #ended: Promise<unknown> = Promise.resolve();

  constructor({ families = 'both', blackhole = false, before }: GatewayOptions = {}) {
    this.kernel.createLink('eth0');
    this.kernel.addAddress('eth0', `${address4}/24`);
    this.kernel.addAddress('eth0', `${address6}/64`);
    before?.(this.kernel, this.eth0);
    this.#connection = this.kernel.open();
    const on = <T>(ipv4: T, ipv6: T): PerFamily<T> => ({
      ...(families === 'ipv6' ? {} : { ipv4 }),
      ...(families === 'ipv4' ? {} : { ipv6 }),
    });
    this.backend = new HostGateway({
      kernel: this.#connection,
      clock: this.clock,
      random: new SeededRandom(1),
      log: this.log.of('host'),
      trouble: this.trouble,
      subnets: on<Subnet>(subnet(own4), subnet(own6)),
      addresses: on(address4, address6),
      networks: on(
        { network: subnet('172.20.0.0/16'), subnetLength: 24 },
        { network: subnet('fc00::/32'), subnetLength: 64 },
      ),
      protocol,
      linkName: 'eth0',
      blackhole,
    });
  }

  get eth0(): number {
    return this.kernel.link('eth0').index;
  }

  /** Starts with these leases and comes to rest. */
  async settled(...leases: Lease[]): Promise<void> {
    this.events = await this.kernel.open().subscribe();
    this.#ended = this.backend.run(this.#controller.signal).catch((error: unknown) => error);
    this.backend.update({ type: 'snapshot', leases, revision: 1 });
    await this.rest();
    await this.backend.synced(AbortSignal.abort(new Error('not synced')));
  }

  async rest(): Promise<void> {
    await this.clock.advance(200);
  }

  async change(put: readonly Lease[], removed: readonly string[] = []): Promise<void> {
    this.backend.update({ type: 'delta', put, removed, revision: 2 });
    await this.rest();
  }

  /** Stops the backend as a signal does; throws when it does not end or leaves something behind. */
  async stop(): Promise<void> {
    this.events?.close();
    this.#controller.abort(new Error('stopped'));
    await this.#ended;
    this.#connection.close();
    await this.clock.settle();
    if (this.clock.pending > 0) throw new Error(`${this.clock.pending} timers are left`);
  }

  /** Our routes of both families, `dst via gateway` or `blackhole dst`, sorted. */
  get own(): readonly string[] {
    const routes = [...this.kernel.routes(4), ...this.kernel.routes(6)];
    return routes
      .filter((route) => route.protocol === protocol)
      .map(brief)
      .toSorted();
  }

  /** What the kernel told about routes to `dst` since the last time. */
  async told(dst: string): Promise<readonly string[]> {
    const events = (await this.events?.drain()) ?? [];
    return events.flatMap((event) => routeNews(event, dst));
  }
}

function routeNews(event: KernelEvent, dst: string): string[] {
  if (event.type === 'route-removed') return event.route.dst === dst ? [`- ${brief(event.route)}`] : [];
  if (event.type !== 'route-added' || event.route.dst !== dst) return [];
  return [`${event.replaced ? '=' : '+'} ${brief(event.route)}`];
}

function brief({ dst, gateway, type }: Route): string {
  return type === 'blackhole' ? `blackhole ${dst}` : `${dst} via ${gateway}`;
}
