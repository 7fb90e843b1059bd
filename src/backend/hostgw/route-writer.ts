import type { ChangeResult } from '../../kernel/kernel.ts';
import type { DesiredRoutes } from './desired.ts';
import { HostNetworks, type HostSide } from './host-networks.ts';
import type { Mirror } from './mirror.ts';
import { isLeasable, ownerOf } from './ownership.ts';
import { ForeignLimit, Holds } from './pace.ts';
import { type OwnSubnet, type PlannedChange, plan } from './plan.ts';
import type { ReconcilerOptions } from './reconciler.ts';
import type { Reason, RouteStates } from './status.ts';

interface RouteWriterOptions extends Pick<ReconcilerOptions, 'kernel' | 'clock' | 'random' | 'ownership'> {
  readonly own: OwnSubnet;
  readonly desired: DesiredRoutes;
  readonly mirror: Mirror;
  readonly states: RouteStates;
}

/** Nothing tells when a gateway beyond our view becomes reachable, so it is tried again now and then. */
const slowRetryMs = 60_000;
/** Lack of memory and the like pass quickly; they wait longer each time. */
const quickRetryMs = 100;

/**
 * Plans and sends changes, and remembers what became of them: what the kernel refused, what does not stay, what was
 * accepted and not seen, what another program keeps putting there. Whether the mirror is up to date is the caller's care.
 */
export class RouteWriter {
  readonly #options: RouteWriterOptions;
  readonly #foreign: ForeignLimit;
  readonly #puts: Holds;
  readonly #removals: Holds;
  /** Destinations this process has programmed, or found as wanted: its routes there are its own wherever they lie. */
  readonly #programmed = new Set<string>();
  /** Destinations whose route was accepted and not seen since. */
  readonly #unseen = new Set<string>();
  #legacyRemoved = false;
  /** The removal of one of flanneld's is put off. */
  #legacyHeld = false;
  #etcdAddresses: readonly string[] = [];
  #guarded:
    | { readonly side: HostSide; readonly linkIndex: number | undefined; readonly networks: HostNetworks }
    | undefined;

  constructor(options: RouteWriterOptions) {
    this.#options = options;
    this.#foreign = new ForeignLimit(options.clock);
    this.#puts = new Holds(options.clock, options.random);
    this.#removals = new Holds(options.clock, options.random);
  }

  /** Takes over the addresses of etcd: no lease may take the way to them. */
  protect(etcdAddresses: readonly string[]): void {
    this.#etcdAddresses = etcdAddresses;
    this.#guarded = undefined;
  }

  /** Lets one destination be tried again. */
  release(dst: string): void {
    this.#puts.release(dst);
    this.#removals.release(dst);
  }

  /** Lets everything be tried again. */
  releaseAll(): void {
    this.#puts.releaseAll();
    this.#removals.releaseAll();
  }

  /** Monotonic ms at which the next hold ends; Infinity when there is none. */
  get nextMs(): number {
    return Math.min(this.#puts.nextMs, this.#removals.nextMs);
  }

  /** Destinations whose hold has ended. */
  takeDue(): readonly string[] {
    return [...this.#puts.takeDue(), ...this.#removals.takeDue()];
  }

  /** The changes that `dsts` need, in the order to be sent. `all`: they are all there are, desired and actual. */
  plan(dsts: ReadonlySet<string>, all: boolean): readonly PlannedChange[] {
    const { desired, mirror, ownership, own, states } = this.#options;
    const removeLegacy = all && !this.#legacyRemoved;
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
      held: { put: (dst) => this.#puts.reason(dst), removal: (dst) => this.#removals.reason(dst) },
      programmed: this.#programmed,
      removeLegacy,
      mayReplaceForeign: (dst) => this.#foreign.allows(dst),
    });
    for (const dst of [...planned.installed, ...planned.shadowed]) {
      // Found as wanted, by a run that sent nothing: it is ours all the same, and goes with its lease.
      this.#programmed.add(dst);
      this.#puts.settled(dst);
      this.#unseen.delete(dst);
    }
    for (const dst of dsts) this.#forgetGone(dst);
    states.notePlan(dsts, planned, (dst) => this.#isWanted(dst));
    if (removeLegacy) {
      this.#legacyHeld = planned.legacyHeld;
      this.#legacyRemoved =
        !planned.legacyHeld && !planned.changes.some(({ cause }) => cause === 'stale-legacy');
    }
    return planned.changes;
  }

  /**
   * Sends the changes as one batch. Rejects when nothing is known about what became of them.
   *
   * REPLACE hits the first route of a key whoever owns it, and that may be another one by the time it arrives: a connected
   * network's, if an operator has just exchanged the one for the other. So ours goes before the route that was seen, where that can
   * be named, and then that one goes: no packet finds none, and nothing is lost that was not seen.
   */
  async send(changes: readonly PlannedChange[], signal: AbortSignal): Promise<readonly ChangeResult[]> {
    const puts = new Set<string>();
    const removals = new Set<string>();
    for (const { op, route } of changes) (op === 'remove' ? removals : puts).add(route.dst);
    for (const dst of removals) this.#removals.sent(dst);
    for (const dst of puts) {
      this.#puts.sent(dst);
      this.#programmed.add(dst);
    }
    const { kernel } = this.#options;
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
    // One that may still be there, behind ours, is looked for again: it would carry the packets when ours goes.
    const left = new Set(replaced.filter((_, at) => !isGone(removed[at])).map(({ i }) => i));
    return results.map((result, i) => (left.has(i) ? { outcome: 'unknown' } : result));
  }

  /** Takes in the kernel's answers; returns whether they show that the mirror may be wrong. */
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
    // What the kernel refused took nobody's route away.
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
    const { desired, mirror } = this.#options;
    // What is there is not what the mirror shows.
    const contradicts = errno === 'EEXIST' || errno === 'ESRCH';
    const text = `the kernel refused it: ${errno}${message ? ` (${message})` : ''}`;
    // What it takes for no gateway at all, a broadcast address for example, is what the lease names.
    const refusal: Reason = { text, fault: op !== 'remove' && errno === 'EINVAL' ? 'peer' : 'own' };
    const wanted = desired.get(dst);
    if (op === 'remove') {
      this.#removals.refused(dst, refusal, contradicts ? 0 : quickRetryMs);
    } else if (gateway === undefined || wanted?.gateway === gateway) {
      const offLink = errno === 'ENETUNREACH' || errno === 'EHOSTUNREACH' || errno === 'ENODEV';
      const reason = offLink && wanted ? mirror.whyOffLink(wanted, desired.address) : refusal;
      const slow = offLink || errno === 'EINVAL';
      this.#puts.refused(dst, reason, slow ? slowRetryMs : contradicts ? 0 : quickRetryMs);
    }
    return contradicts;
  }

  #isWanted(dst: string): boolean {
    const { desired, own } = this.#options;
    return desired.get(dst) !== undefined || (own.blackhole && dst === own.dst);
  }

  /** With what it has judged already, as long as it looks the same from here. */
  #hostNetworks(): HostNetworks {
    const { mirror, ownership } = this.#options;
    const { side, link } = mirror;
    const linkIndex = link.index;
    if (this.#guarded?.side !== side || this.#guarded.linkIndex !== linkIndex) {
      const etcdAddresses = this.#etcdAddresses;
      this.#guarded = {
        side,
        linkIndex,
        networks: new HostNetworks({
          ...side,
          etcdAddresses,
          isLeasable: (subnet) => isLeasable(ownership, subnet),
          linkIndex,
        }),
      };
    }
    return this.#guarded.networks;
  }

  /** Where neither a lease nor a route of ours is left, another daemon with our protocol may settle. */
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
