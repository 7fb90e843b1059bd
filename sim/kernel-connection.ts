import type { Family } from '../src/ip/ip.ts';
import {
  type ChangeResult,
  type Kernel,
  KernelError,
  type KernelEvents,
  type Link,
  type LinkAddress,
  type PolicyRule,
  type Route,
  type RouteChange,
  type RouteFinder,
  type RouteLookup,
  type RouteSpec,
  type UsedRoute,
} from '../src/kernel/kernel.ts';
import type { SimKernel } from './kernel.ts';
import type { SimEventStream } from './kernel-events.ts';
import { type RouteMatch, routeOfSpec } from './kernel-table.ts';

const MAX_DUMP_ATTEMPTS = 10;

const defaultRules: readonly PolicyRule[] = [
  { priority: 0, table: 255, conditional: false },
  { priority: 32_766, table: 254, conditional: false },
  { priority: 32_767, table: 253, conditional: false },
];

/** A daemon's connection to a simulated kernel. A batch or a dump happens in one instant, `latencyMs` after the call. */
export class SimKernelConnection implements Kernel, RouteFinder {
  readonly #kernel: SimKernel;
  readonly #streams = new Set<SimEventStream>();
  #closed = false;

  constructor(kernel: SimKernel) {
    this.#kernel = kernel;
  }

  async missingCapabilities(): Promise<readonly string[]> {
    return [];
  }

  async subscribe(): Promise<KernelEvents> {
    this.#throwIfClosed();
    const stream = this.#kernel.subscribe();
    this.#streams.add(stream);
    return stream;
  }

  links(signal?: AbortSignal): Promise<readonly Link[]> {
    return this.#dump(() => this.#kernel.links(), signal);
  }

  addresses(signal?: AbortSignal): Promise<readonly LinkAddress[]> {
    return this.#dump(() => this.#kernel.addresses(), signal);
  }

  routes(family: Family, signal?: AbortSignal): Promise<readonly Route[]> {
    return this.#dump(() => this.#kernel.routes(family), signal);
  }

  async routesDigest(family: Family, signal?: AbortSignal): Promise<string> {
    return JSON.stringify(await this.#dump(() => this.#kernel.routes(family), signal, 'digests'));
  }

  async routeTo(address: string, signal?: AbortSignal): Promise<RouteLookup | undefined> {
    await this.#reach(signal);
    return this.#kernel.lookUp(address);
  }

  async routeFor(address: string, signal?: AbortSignal): Promise<UsedRoute | undefined> {
    await this.#reach(signal);
    return this.#kernel.findRoute(address);
  }

  /** Those that every host begins with; an operator of the simulation makes none. */
  async rules(_family: Family, signal?: AbortSignal): Promise<readonly PolicyRule[]> {
    await this.#reach(signal);
    return defaultRules;
  }

  async apply(changes: readonly RouteChange[], signal?: AbortSignal): Promise<readonly ChangeResult[]> {
    await this.#reach(signal);
    const { faults, counters } = this.#kernel;
    counters.batches++;
    counters.messages += changes.length;
    const errno = faults.take('apply');
    if (errno !== undefined) return changes.map(() => ({ outcome: 'failed', errno }));
    const results = changes.map((change) => this.#applyOne(change));
    const kept = faults.take('replies') ?? results.length;
    return results.map((result, i) => (i < kept ? result : { outcome: 'unknown' }));
  }

  close(): void {
    this.#closed = true;
    for (const stream of this.#streams) stream.close();
    this.#streams.clear();
  }

  #applyOne(change: RouteChange): ChangeResult {
    const { op, route } = change;
    const errno =
      op === 'remove'
        ? this.#kernel.remove(route.family, matchOf(route), this)
        : this.#kernel.insert(routeOfSpec(route), op, this);
    return errno === undefined ? { outcome: 'done' } : { outcome: 'failed', errno };
  }

  async #dump<T>(
    read: () => readonly T[],
    signal: AbortSignal | undefined,
    counter: 'dumps' | 'digests' = 'dumps',
  ): Promise<readonly T[]> {
    const { faults, counters, clock } = this.#kernel;
    for (let attempt = 0; attempt < MAX_DUMP_ATTEMPTS; attempt++) {
      await this.#reach(signal);
      counters[counter]++;
      const errno = faults.take('dump');
      if (errno !== undefined) throw new KernelError(errno, `dump failed: ${errno}`);
      const entries = read();
      const slowMs = faults.take('slow dump');
      if (slowMs !== undefined && clock !== undefined) {
        this.#kernel.slowDumpUntilMs = clock.monotonic() + slowMs;
        await clock.sleep(slowMs, signal);
      }
      if (!faults.takeInterruption()) return entries;
    }
    throw new KernelError('EINTR', `the table changed during each of ${MAX_DUMP_ATTEMPTS} dumps`);
  }

  async #reach(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    this.#throwIfClosed();
    const { clock, latencyMs } = this.#kernel;
    if (clock !== undefined && latencyMs > 0) await clock.sleep(latencyMs, signal);
    // A process is gone only when the kernel is done with its message: none takes effect beside the next process.
    this.#throwIfClosed();
  }

  #throwIfClosed(): void {
    if (this.#closed) throw new KernelError('CLOSED', 'the kernel connection is closed');
  }
}

/** All that a removal names: a blackhole has neither gateway nor link. */
function matchOf({ dst, metric, protocol, gateway, linkIndex, type = 'unicast' }: RouteSpec): RouteMatch {
  const nexthop = gateway === undefined || linkIndex === undefined ? {} : { gateway, linkIndex };
  return { dst, metric, protocol, type, ...nexthop };
}
