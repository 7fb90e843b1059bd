import type { Link } from './etcd-watch.ts';

type MemberState = 'running' | 'stopped' | 'frozen' | 'isolated';

/** How a host's requests fare with a member, and its streams. */
export interface Way {
  /** Of a request. */
  readonly requests: Link;
  /** Of the answer to a request, which has been carried out. */
  readonly answers: Link;
  /** Of the messages of a watch that is open. */
  readonly streams: Link;
  /** The host's packets do not arrive: an open stream brings what there is until keepalive notices. */
  readonly muted: boolean;
}

const good: Way = { requests: 'ok', answers: 'ok', streams: 'ok', muted: false };
const all = (link: Link): Way => ({ requests: link, answers: link, streams: link, muted: false });
/** Nothing gets through in either direction. */
export const silence: Way = all('silent');

/**
 * The members, the ways between them and those between them and the hosts, each way in one direction. The leader stays as long
 * as it exchanges messages with a majority; else the first member that does is elected.
 */
export abstract class EtcdNetwork {
  readonly #members = new Map<string, MemberState>();
  readonly #cutBetween = new Set<string>();
  readonly #cutLinks = { both: new Set<string>(), answers: new Set<string>(), requests: new Set<string>() };
  /** What members that lag have applied. */
  readonly #applied = new Map<string, number>();
  #leader: string | undefined;

  constructor(members: readonly string[]) {
    for (const name of members) this.#members.set(name, 'running');
    [this.#leader] = members;
  }

  /** Ways have become free, or are cut. */
  protected abstract changed(): void;
  abstract get revision(): number;

  get members(): readonly string[] {
    return [...this.#members.keys()];
  }

  /** The member that all writes go through; undefined: there is no majority. */
  get leader(): string | undefined {
    return this.#leader;
  }

  /** Connections are refused and streams end at once. */
  stop(member: string): void {
    this.#setState(member, 'stopped');
  }

  /** Calls time out; streams end when keepalive notices. */
  freeze(member: string): void {
    this.#setState(member, 'frozen');
  }

  /** The member loses the others: it answers `no leader` and ends its streams soon. */
  isolate(member: string): void {
    this.#setState(member, 'isolated');
  }

  /** Ends whatever was done to the member. */
  start(member: string): void {
    this.#applied.delete(member);
    this.#setState(member, 'running');
  }

  /** Nothing that one member sends arrives at the other. */
  cutMembers(from: string, to: string): void {
    this.#cutBetween.add(`${from} ${to}`);
    this.#elect();
  }

  healMembers(from: string, to: string): void {
    this.#cutBetween.delete(`${from} ${to}`);
    this.#elect();
  }

  /** Another member than the leader falls behind: it tells of no change from now on, and has nothing confirmed. */
  lag(member: string): void {
    if (member !== this.#leader && !this.#applied.has(member)) this.#applied.set(member, this.revision);
  }

  /** The member knows of all again. */
  catchUp(member: string): void {
    this.#applied.delete(member);
    this.changed();
  }

  /** The newest revision the member knows of; Infinity: it keeps up. */
  applied(member: string): number {
    return this.#applied.get(member) ?? Number.POSITIVE_INFINITY;
  }

  /**
   * Drops every packet between a host and a member (by default every member). `answers`: requests arrive and take effect, answers
   * and watch messages do not; `requests`: the other way, while watches that are open go on until keepalive notices.
   */
  cut(host: string, member?: string, way: 'both' | 'answers' | 'requests' = 'both'): void {
    for (const name of this.#named(member)) this.#cutLinks[way].add(`${host} ${name}`);
    this.changed();
  }

  cutAnswers(host: string, member?: string): void {
    this.cut(host, member, 'answers');
  }

  cutRequests(host: string, member?: string): void {
    this.cut(host, member, 'requests');
  }

  /** Ends all cuts between a host and a member (by default every member). */
  heal(host: string, member?: string): void {
    for (const name of this.#named(member))
      for (const links of Object.values(this.#cutLinks)) links.delete(`${host} ${name}`);
    this.changed();
  }

  way(host: string, member: string): Way {
    const name = `${host} ${member}`;
    const state = this.#members.get(member);
    if (this.#cutLinks.both.has(name) || state === 'frozen') return silence;
    if (state === 'stopped') return all('refused');
    const leader = this.#leader;
    if (leader === undefined || !this.#reaches(leader, member)) return all('no-leader');
    // It hears the leader, and the leader does not hear it: it learns of all that is written, and can have nothing confirmed.
    const heard = this.#reaches(member, leader);
    const muted = this.#cutLinks.requests.has(name);
    const deaf = this.#cutLinks.answers.has(name);
    if (heard && !muted && !deaf && !this.#applied.has(member)) return good;
    return {
      requests: muted || !heard ? 'silent' : 'ok',
      answers: deaf || muted || !heard || this.#applied.has(member) ? 'silent' : 'ok',
      streams: deaf ? 'silent' : 'ok',
      muted,
    };
  }

  /** Throws RangeError when there is no such member. */
  #setState(member: string, state: MemberState): void {
    if (!this.#members.has(member)) throw new RangeError(`no member ${member}`);
    this.#members.set(member, state);
    this.#elect();
  }

  #named(member: string | undefined): readonly string[] {
    return member === undefined ? this.members : [member];
  }

  #elect(): void {
    const names = this.members;
    const leads = (one: string) => {
      const followers = names.filter((other) => this.#reaches(one, other) && this.#reaches(other, one));
      return followers.length * 2 > names.length;
    };
    if (this.#leader === undefined || !leads(this.#leader)) this.#leader = names.find(leads);
    if (this.#leader !== undefined) this.#applied.delete(this.#leader);
    this.changed();
  }

  /** Whether the messages of a member arrive at another. */
  #reaches(from: string, to: string): boolean {
    const running = [from, to].every((name) => this.#members.get(name) === 'running');
    return running && !this.#cutBetween.has(`${from} ${to}`);
  }
}
