import type { ChangeResult, Kernel } from '../../kernel/kernel.ts';
import type { Clock, Random } from '../../runtime/effects.ts';
import type { DesiredRoutes } from './desired.ts';
import { HostNetworks, type HostSide } from './host-networks.ts';
import type { Mirror } from './mirror.ts';
import { isLeasable, type Ownership, ownerOf } from './ownership.ts';
import { ForeignLimit, type Holds } from './pace.ts';
import { type OwnSubnet, type Plan, type PlannedChange, plan } from './plan.ts';
import type { RouteStates } from './route-states.ts';
import type { Reason } from './status.ts';

/** What a writer of routes needs from outside. */
export interface RouteSurroundings {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly random: Random;
  readonly ownership: Ownership;
}

interface RouteWriterOptions extends RouteSurroundings {
  readonly own: OwnSubnet;
  readonly desired: DesiredRoutes;
  readonly mirror: Mirror;
  readonly states: RouteStates;
  readonly holds: Holds;
}

/** The kernel does not report when a gateway becomes reachable, so the daemon tries again now and then. */
const slowRetryMs = 60_000;
/** Lack of memory and the like pass quickly; each further try waits longer. */
const quickRetryMs = 100;

/**
 * Plans and sends changes, and remembers the outcome: routes that the kernel refused, that do not stay, that
 * it accepted and did not show, or that another program keeps replacing. The caller keeps the mirror up to
 * date.
 */
export class RouteWriter {
  readonly #options: RouteWriterOptions;
  readonly #foreign: ForeignLimit;
  /**
   * Destinations that this process programmed or found as wanted. Routes there are ours wherever they lie.
   */
  readonly #programmed = new Set<string>();
  /** The kernel accepted their route and has not shown it since. */
  readonly #unseen = new Set<string>();
  #legacyRemoved = false;
  #legacyHeld = false;
  #etcdAddresses: readonly string[] = [];
  #guarded: { readonly side: HostSide; readonly networks: HostNetworks } | undefined;

  constructor(options: RouteWriterOptions) {
    this.#options = options;
    this.#foreign = new ForeignLimit(options.clock);
  }

  /** Whether all has been done that only a look at all routes does. */
  get hasSynced(): boolean {
    return this.#legacyRemoved;
  }

  /** Destinations that this process programmed. */
  get programmed(): Iterable<string> {
    return this.#programmed;
  }

  /** No lease may take the way to these addresses of etcd. */
  protect(etcdAddresses: readonly string[]): void {
    this.#etcdAddresses = etcdAddresses;
    this.#guarded = undefined;
  }

  /** The changes that `dsts` need, in the order to send. */
  plan(dsts: Iterable<string>): readonly PlannedChange[] {
    return this.#plan(dsts, false).changes;
  }

  /**
   * The first look: what flanneld left is judged, too. The parts hold all that is desired or there; leases may change
   * between them.
   */
  async planFirst(parts: AsyncIterable<Iterable<string>>): Promise<readonly PlannedChange[]> {
    const changes: PlannedChange[] = [];
    let legacyHeld = false;
    for await (const dsts of parts) {
      const planned = this.#plan(dsts, true);
      changes.push(...planned.changes);
      legacyHeld ||= planned.legacyHeld;
    }
    // A removal of one of flanneld's routes has to wait.
    this.#legacyHeld = legacyHeld;
    this.#legacyRemoved = !legacyHeld && !changes.some(({ cause }) => cause === 'stale-legacy');
    return changes;
  }

  #plan(dsts: Iterable<string>, removeLegacy: boolean): Plan {
    const { desired, mirror, ownership, own, states, holds } = this.#options;
    const networks = this.#hostNetworks();
    const planned = plan({
      dsts,
      desired,
      actual: mirror,
      ownership,
      own,
      link: mirror.link,
      ownAddresses: mirror.ownAddresses,
      refusal: (dst) => networks.refusal(dst),
      held: { put: (dst) => holds.reason('put', dst), removal: (dst) => holds.reason('removal', dst) },
      programmed: this.#programmed,
      removeLegacy,
      mayReplaceForeign: (dst) => this.#foreign.allows(dst),
    });
    for (const [dst, { state, shadowed }] of planned.states) {
      if (state !== 'installed' && !shadowed) continue;
      // Also when nothing had to be sent: the route is ours and goes with its lease.
      this.#programmed.add(dst);
      holds.settled(dst);
      this.#unseen.delete(dst);
    }
    for (const dst of dsts) this.#forgetGone(dst);
    states.notePlan(dsts, planned, (dst) => this.#isWanted(dst));
    return planned;
  }

  /**
   * Sends the changes as one batch. Rejects when the outcome of all is unknown. See plan.ts for why a
   * replacement is two messages in IPv4.
   */
  async send(changes: readonly PlannedChange[], signal: AbortSignal): Promise<readonly ChangeResult[]> {
    const { kernel, holds } = this.#options;
    const dstsOf = (some: readonly PlannedChange[]) => new Set(some.map(({ route }) => route.dst));
    for (const dst of dstsOf(changes.filter(({ op }) => op === 'remove'))) holds.sent('removal', dst);
    for (const dst of dstsOf(changes.filter(({ op }) => op !== 'remove'))) {
      holds.sent('put', dst);
      this.#programmed.add(dst);
    }
    const results = await kernel.apply(
      changes.map(({ op, route, seen }) => ({ op: seen === undefined ? op : 'prepend', route })),
      signal,
    );
    const replaced = changes.flatMap(({ seen }, i) =>
      seen !== undefined && results[i]?.outcome === 'done' ? [{ i, route: seen }] : [],
    );
    if (replaced.length === 0) return results;
    const outOfPlace = replaced.map(({ route }) => ({ op: 'remove' as const, route }));
    const removed = await kernel.apply(outOfPlace, signal);
    // An old route that may still be there, behind ours, would carry the packets once ours goes: look again.
    const left = new Set(replaced.filter((_, at) => !isGone(removed[at])).map(({ i }) => i));
    return results.map((result, i) => (left.has(i) ? { outcome: 'unknown' } : result));
  }

  /** Judges the kernel's answers; returns whether they show that the mirror may be wrong. */
  judge(changes: readonly PlannedChange[], results: readonly ChangeResult[]): boolean {
    this.#options.states.logChanges(changes, results);
    const verdicts = changes.map((change, i) => this.#judge(change, results[i] ?? { outcome: 'unknown' }));
    const legacy = results.filter((_, i) => changes[i]?.cause === 'stale-legacy');
    if (legacy.length > 0)
      this.#legacyRemoved = !this.#legacyHeld && legacy.every(({ outcome }) => outcome === 'done');
    return verdicts.includes(true);
  }

  #judge(change: PlannedChange, result: ChangeResult): boolean {
    if (result.outcome === 'failed') return this.#judgeFailure(change, result);
    const { dst } = change.route;
    // A change that the kernel refused took nobody's route away.
    if (change.cause === 'foreign') this.#foreign.note(dst);
    if (result.outcome === 'unknown') return true;
    if (change.op === 'remove') return false;
    if (this.#unseen.has(dst)) return true;
    this.#unseen.add(dst);
    return false;
  }

  #judgeFailure(
    { op, route }: PlannedChange,
    { errno, message }: Extract<ChangeResult, { outcome: 'failed' }>,
  ): boolean {
    const { dst, gateway } = route;
    const { desired, mirror, holds } = this.#options;
    // The kernel's table differs from the mirror.
    const contradicts = errno === 'EEXIST' || errno === 'ESRCH';
    const text = `the kernel refused it: ${errno}${message ? ` (${message})` : ''}`;
    // EINVAL: the gateway that the lease names cannot be one, for example a broadcast address.
    const refusal: Reason = { text, fault: op !== 'remove' && errno === 'EINVAL' ? 'peer' : 'own' };
    const wanted = desired.get(dst);
    if (op === 'remove') {
      holds.refused('removal', dst, refusal, contradicts ? 0 : quickRetryMs);
    } else if (gateway === undefined || wanted?.gateway === gateway) {
      const offLink = errno === 'ENETUNREACH' || errno === 'EHOSTUNREACH' || errno === 'ENODEV';
      const reason = offLink && wanted ? mirror.whyOffLink(wanted, desired.address) : refusal;
      const slow = offLink || errno === 'EINVAL';
      holds.refused('put', dst, reason, slow ? slowRetryMs : contradicts ? 0 : quickRetryMs);
    }
    return contradicts;
  }

  #isWanted(dst: string): boolean {
    const { desired, own } = this.#options;
    return desired.get(dst) !== undefined || (own.blackhole && dst === own.dst);
  }

  /** Keeps its judgements until something that they depend on changes. */
  #hostNetworks(): HostNetworks {
    const { mirror, ownership } = this.#options;
    const { side } = mirror;
    if (this.#guarded?.side !== side) {
      const etcdAddresses = this.#etcdAddresses;
      const networks = new HostNetworks({
        ...side,
        etcdAddresses,
        isLeasable: (subnet) => isLeasable(ownership, subnet),
      });
      this.#guarded = { side, networks };
    }
    return this.#guarded.networks;
  }

  /** Once no lease and no route of ours is left there, another daemon with our protocol may use the place. */
  #forgetGone(dst: string): void {
    const { mirror, ownership } = this.#options;
    if (this.#isWanted(dst)) return;
    this.#unseen.delete(dst);
    if (!this.#programmed.has(dst)) return;
    const isOurs = mirror.get(dst)?.some((route) => ownerOf(route, ownership, mirror.link.index) === 'own');
    if (!isOurs) this.#programmed.delete(dst);
  }
}

function isGone(result: ChangeResult | undefined): boolean {
  return result?.outcome === 'done' || (result?.outcome === 'failed' && result.errno === 'ESRCH');
}
