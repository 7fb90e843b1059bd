import { addressBits, containsSubnet, type Subnet, subnetAt } from '../../ip/ip.ts';

export interface DesiredRoute {
  readonly dst: string;
  readonly gateway: string;
  /** The etcd key of the lease. */
  readonly key: string;
}

/** A request of a lease that this host could fulfil. */
export interface Claim {
  readonly route: DesiredRoute;
  readonly subnet: Subnet;
  readonly createRevision: number;
}

/** Keys whose claims were judged again, and destinations that may have another route now. */
export interface Changed {
  readonly judged: Set<string>;
  readonly touched: Set<string>;
}

/** All claims to one destination, oldest first: mostly one. */
type Contest = readonly [Claim, ...Claim[]];

/**
 * Decides between leases that overlap. From the oldest to the youngest, each claim is granted that overlaps
 * no granted one. So no lease takes a part of an older one's subnet, and a refused claim blocks nobody.
 *
 * A change costs one look-up per prefix length in use, and more only where leases overlap.
 */
export class Claims {
  readonly #byKey = new Map<string, Claim>();
  /** By prefix length, then destination. */
  readonly #contests = new Map<number, Map<string, Contest>>();
  /** By destination. */
  readonly #granted = new Map<string, Claim>();

  /** By destination. */
  get granted(): ReadonlyMap<string, Claim> {
    return this.#granted;
  }

  /** By etcd key, granted or not. */
  get all(): ReadonlyMap<string, Claim> {
    return this.#byKey;
  }

  /** The oldest claim that blocks the one of this etcd key; undefined when that is granted. */
  rivalOf(key: string): Claim | undefined {
    const claim = this.#byKey.get(key);
    return claim === undefined || this.#isGranted(claim)
      ? undefined
      : [...this.#rivals(claim)].toSorted(byAge)[0];
  }

  clear(): void {
    this.#byKey.clear();
    this.#contests.clear();
    this.#granted.clear();
  }

  /** Replaces the claim of its key and notes the effects. */
  put(claim: Claim, changed: Changed): void {
    const { key, dst } = claim.route;
    const before = this.#byKey.get(key);
    if (before?.route.dst === dst && before.createRevision === claim.createRevision) {
      const contest = this.#contestOf(claim.subnet).map((one) => (one === before ? claim : one));
      this.#setContest(claim.subnet, contest);
      if (this.#isGranted(before)) this.#granted.set(dst, claim);
      this.#byKey.set(key, claim);
      changed.touched.add(dst);
      for (const { route } of contest) changed.judged.add(route.key);
      return;
    }
    if (before !== undefined) this.remove(key, changed);
    this.#byKey.set(key, claim);
    // Nearly every one: nothing has to be judged anew.
    if (this.#overlapping(claim.subnet)[Symbol.iterator]().next().done === true) {
      this.#setContest(claim.subnet, [claim]);
      this.#granted.set(dst, claim);
      changed.judged.add(key);
      changed.touched.add(dst);
      return;
    }
    this.#setContest(claim.subnet, [...this.#contestOf(claim.subnet), claim].toSorted(byAge));
    this.#settle([claim], changed);
  }

  remove(key: string, changed: Changed): void {
    const claim = this.#byKey.get(key);
    if (claim === undefined) return;
    this.#byKey.delete(key);
    this.#setContest(
      claim.subnet,
      this.#contestOf(claim.subnet).filter((one) => one !== claim),
    );
    const wasGranted = this.#revoke(claim);
    changed.touched.add(claim.route.dst);
    if (wasGranted) this.#settle(this.#younger(claim), changed);
  }

  /** Judges these claims, oldest first, and all that depend on them. */
  #settle(claims: readonly Claim[], changed: Changed): void {
    let queue = [...claims].toSorted(byAge);
    const queued = new Set(queue);
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      queued.delete(next);
      changed.judged.add(next.route.key);
      const may = this.#rivals(next).next().done === true;
      if (may === this.#isGranted(next)) continue;
      changed.touched.add(next.route.dst);
      if (may) this.#granted.set(next.route.dst, next);
      else this.#revoke(next);
      // Only younger claims depend on it, so none is judged twice for one change.
      const more = this.#younger(next).filter((claim) => !queued.has(claim));
      for (const claim of more) queued.add(claim);
      if (more.length > 0) queue = [...queue, ...more].toSorted(byAge);
    }
  }

  #isGranted(claim: Claim): boolean {
    return this.#granted.get(claim.route.dst) === claim;
  }

  #revoke(claim: Claim): boolean {
    return this.#isGranted(claim) && this.#granted.delete(claim.route.dst);
  }

  /** Granted claims that are older and overlap it. */
  *#rivals(claim: Claim): Generator<Claim, void> {
    for (const [{ route }] of this.#overlapping(claim.subnet)) {
      const granted = this.#granted.get(route.dst);
      if (granted !== undefined && byAge(granted, claim) < 0) yield granted;
    }
  }

  #younger(claim: Claim): Claim[] {
    return [...this.#overlapping(claim.subnet)].flatMap((claims) =>
      claims.filter((other) => byAge(other, claim) > 0),
    );
  }

  #contestOf({ length, text }: Subnet): readonly Claim[] {
    return this.#contests.get(length)?.get(text) ?? [];
  }

  #setContest({ length, text }: Subnet, claims: readonly Claim[]): void {
    const contests = this.#contests.get(length) ?? new Map<string, Contest>();
    const [oldest, ...younger] = claims;
    if (oldest === undefined) contests.delete(text);
    else contests.set(text, [oldest, ...younger]);
    if (contests.size > 0) this.#contests.set(length, contests);
    else this.#contests.delete(length);
  }

  /** Two blocks either contain one another or share nothing. */
  *#overlapping(subnet: Subnet): Iterable<Contest> {
    for (const [length, contests] of this.#contests) {
      if (length > subnet.length) {
        yield* inside(subnet, length, contests);
        continue;
      }
      const { text } = length === subnet.length ? subnet : subnetAt(subnet.family, subnet.first, length);
      const contest = contests.get(text);
      if (contest !== undefined) yield contest;
    }
  }
}

/** The contests of one length inside `outer`: found by name, or one by one when these are fewer. */
function* inside(outer: Subnet, length: number, contests: ReadonlyMap<string, Contest>): Iterable<Contest> {
  const count = 2 ** (length - outer.length);
  if (count > contests.size) {
    for (const contest of contests.values()) if (containsSubnet(outer, contest[0].subnet)) yield contest;
    return;
  }
  const step = 1n << BigInt(addressBits(outer.family) - length);
  for (let first = outer.first; first <= outer.last; first += step) {
    const contest = contests.get(subnetAt(outer.family, first, length).text);
    if (contest !== undefined) yield contest;
  }
}

/** By create_revision, then by key. */
function byAge(a: Claim, b: Claim): number {
  const [keyA, keyB] = [a.route.key, b.route.key];
  return a.createRevision - b.createRevision || (keyA < keyB ? -1 : keyA > keyB ? 1 : 0);
}
