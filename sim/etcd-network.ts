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
export class EtcdNetwork {
  readonly #members = new Map<string, MemberState>();
  readonly #cutBetween = new Set<string>();
  readonly #cutLinks = new Set<string>();
  readonly #deafLinks = new Set<string>();
  readonly #muteLinks = new Set<string>();
  /** What members that lag have applied. */
  readonly #applied = new Map<string, number>();
  #leader: string | undefined;

  constructor(members: readonly string[]) {
    for (const name of members) this.#members.set(name, 'running');
    [this.#leader] = members;
  }

  get members(): readonly string[] {
    return [...this.#members.keys()];
  }

  /** The member that all writes go through; undefined: there is no majority. */
  get leader(): string | undefined {
    return this.#leader;
  }

  /** Throws RangeError when there is no such member. */
  setState(member: string, state: MemberState): void {
    if (!this.#members.has(member)) throw new RangeError(`no member ${member}`);
    this.#members.set(member, state);
    if (state === 'running') this.#applied.delete(member);
    this.#elect();
  }

  /** Nothing that `from` sends arrives at `to`. */
  cutBetween(from: string, to: string): void {
    this.#cutBetween.add(`${from} ${to}`);
    this.#elect();
  }

  healBetween(from: string, to: string): void {
    this.#cutBetween.delete(`${from} ${to}`);
    this.#elect();
  }

  /** From now on the member applies nothing, until {@link EtcdNetwork.catchUp}; it must not be the leader. */
  lag(member: string, revision: number): void {
    if (member !== this.#leader && !this.#applied.has(member)) this.#applied.set(member, revision);
  }

  catchUp(member: string): void {
    this.#applied.delete(member);
  }

  /** The newest revision the member knows of; Infinity: it keeps up. */
  applied(member: string): number {
    return this.#applied.get(member) ?? Number.POSITIVE_INFINITY;
  }

  /** Nothing gets through between a host and a member; `answers`: from the member; `requests`: to it. */
  cut(host: string, member: string, way: 'both' | 'answers' | 'requests'): void {
    const links = { both: this.#cutLinks, answers: this.#deafLinks, requests: this.#muteLinks }[way];
    links.add(`${host} ${member}`);
  }

  heal(host: string, member: string): void {
    for (const links of [this.#cutLinks, this.#deafLinks, this.#muteLinks]) links.delete(`${host} ${member}`);
  }

  way(host: string, member: string): Way {
    const name = `${host} ${member}`;
    const state = this.#members.get(member);
    if (this.#cutLinks.has(name) || state === 'frozen') return silence;
    if (state === 'stopped') return all('refused');
    const leader = this.#leader;
    if (leader === undefined || !this.#reaches(leader, member)) return all('no-leader');
    // It hears the leader, and the leader does not hear it: it learns of all that is written, and can have nothing confirmed.
    const heard = this.#reaches(member, leader);
    const muted = this.#muteLinks.has(name);
    const deaf = this.#deafLinks.has(name);
    if (heard && !muted && !deaf && !this.#applied.has(member)) return good;
    return {
      requests: muted || !heard ? 'silent' : 'ok',
      answers: deaf || muted || !heard || this.#applied.has(member) ? 'silent' : 'ok',
      streams: deaf ? 'silent' : 'ok',
      muted,
    };
  }

  #elect(): void {
    const names = this.members;
    const leads = (one: string) => {
      const followers = names.filter((other) => this.#reaches(one, other) && this.#reaches(other, one));
      return followers.length * 2 > names.length;
    };
    if (this.#leader === undefined || !leads(this.#leader)) this.#leader = names.find(leads);
    if (this.#leader !== undefined) this.#applied.delete(this.#leader);
  }

  /** Whether the messages of a member arrive at another. */
  #reaches(from: string, to: string): boolean {
    const running = [from, to].every((name) => this.#members.get(name) === 'running');
    return running && !this.#cutBetween.has(`${from} ${to}`);
  }
}
