import type { LateWrites } from './etcd-late.ts';
import type { ClusterAccess } from './etcd-member.ts';
import { EtcdNetwork } from './etcd-network.ts';
import { UnfitMembers, type Unfitness } from './etcd-unfit.ts';
import type { SimStream } from './etcd-watch.ts';

/** What becomes of a write whose answer is lost: it takes effect at once, never, or after a while. */
export type LostReply = boolean | { readonly afterMs: number };

/** Another cluster in the place of a member. */
interface Stranger {
  readonly access: ClusterAccess;
  close(): void;
}

/** What can go wrong with the members of a simulated cluster, the ways to them, and their streams. */
export abstract class EtcdFaults {
  readonly network: EtcdNetwork;
  readonly late: LateWrites | undefined;
  readonly unfit = new UnfitMembers();
  readonly #strangers = new Map<string, Stranger>();
  /** The watch streams that are open. */
  protected readonly streams = new Set<SimStream>();
  /** Told whenever a host gets an answer or a watch message; of a list twice. */
  onHeard: (host: string, what: 'answer' | 'list' | 'watch') => void = () => {};
  readonly #streamDelaysMs = new Map<string, number>();
  readonly #streamCuts: number[] = [];
  readonly #lostReplies: { readonly applied: LostReply; readonly host: string | undefined }[] = [];
  #hadQuorum = true;

  constructor(members: readonly string[], late: LateWrites | undefined) {
    this.network = new EtcdNetwork(members);
    this.late = late;
  }

  get members(): readonly string[] {
    return this.network.members;
  }

  /** Connections are refused and streams end at once. */
  stop(member: string): void {
    this.network.setState(member, 'stopped');
    this.#cutMember(member);
    this.#changed();
  }

  /** Calls time out; streams end when keepalive notices. */
  freeze(member: string): void {
    this.network.setState(member, 'frozen');
    this.#changed();
  }

  /** The member loses the others: it answers `no leader` and ends its streams soon. */
  isolate(member: string): void {
    this.network.setState(member, 'isolated');
    this.#changed();
  }

  /** Ends whatever was done to the member. */
  start(member: string): void {
    this.network.setState(member, 'running');
    this.#changed();
  }

  /** The member is made anew, and answers without serving; undefined: it serves again. */
  spoil(member: string, unfit: Unfitness | undefined): void {
    this.unfit.set(member, unfit);
    if (unfit === 'learner') this.#cutMember(member);
  }

  /** The database is full, or no longer: writes are refused everywhere. */
  fill(full: boolean): void {
    this.unfit.full = full;
  }

  /** At the member's address is a member of another, empty cluster now. */
  replace(member: string): void {
    this.#strangers.set(member, this.makeStranger(member));
    this.#cutMember(member);
  }

  putBack(member: string): void {
    this.#strangers.get(member)?.close();
    this.#strangers.delete(member);
  }

  /** Nothing that one member sends arrives at the other. */
  cutMembers(from: string, to: string): void {
    this.network.cutBetween(from, to);
    this.#changed();
  }

  healMembers(from: string, to: string): void {
    this.network.healBetween(from, to);
    this.#changed();
  }

  /** Another member than the leader falls behind: it tells of no change from now on, and has nothing confirmed. */
  lag(member: string): void {
    this.network.lag(member, this.revision);
  }

  /** The member knows of all again. */
  catchUp(member: string): void {
    this.network.catchUp(member);
    this.#changed();
  }

  abstract get revision(): number;

  /** Drops every packet between a host and a member (by default every member). */
  cut(host: string, member?: string): void {
    this.#cut(host, member, 'both');
  }

  /** One way: requests arrive and take effect, answers and watch messages do not. */
  cutAnswers(host: string, member?: string): void {
    this.#cut(host, member, 'answers');
  }

  /** The other way: requests are lost, while watches that are open go on until keepalive notices. */
  cutRequests(host: string, member?: string): void {
    this.#cut(host, member, 'requests');
  }

  /** Ends all cuts between a host and a member (by default every member). */
  heal(host: string, member?: string): void {
    for (const name of this.#named(member)) this.network.heal(host, name);
    this.#changed();
  }

  /** Every watch message to this host takes so long; 0 ends it. */
  slowWatches(host: string, ms: number): void {
    this.#streamDelaysMs.set(host, ms);
  }

  /** A host has got or lost addresses: connections from those that it has again live on. */
  readdressed(host: string): void {
    for (const stream of this.streams) if (stream.host === host) stream.nudge();
  }

  /** Ends the open watch streams of a host (by default of all), with what is on its way. */
  cutWatches(host?: string): void {
    for (const stream of this.streams) if (host === undefined || stream.host === host) stream.cut();
  }

  /** The open watch streams of a host send their last `count` batches once more. */
  repeatWatches(host: string, count: number): void {
    for (const stream of this.streams) if (stream.host === host) stream.repeat(count);
  }

  /** The next stream to be opened is cut after this many messages, `created` included; further calls are for those after it. */
  cutNextWatchAfter(messages: number): void {
    this.#streamCuts.push(messages);
  }

  /** No more streams are cut. */
  keepWatches(): void {
    this.#streamCuts.length = 0;
  }

  /** The answer to the next write (of `host`, if given) is lost. */
  loseNextReply(options: { readonly applied: LostReply; readonly host?: string }): void {
    this.#lostReplies.push({ applied: options.applied, host: options.host });
  }

  /** No more answers to a host's writes are lost. */
  keepReplies(host: string): void {
    for (let index = this.#lostReplies.length - 1; index >= 0; index--) {
      if (this.#lostReplies[index]?.host === host) this.#lostReplies.splice(index, 1);
    }
  }

  // What members ask for.

  streamDelayMs(host: string): number {
    return this.#streamDelaysMs.get(host) ?? 0;
  }

  takeCut(): number {
    return this.#streamCuts.shift() ?? Number.POSITIVE_INFINITY;
  }

  takeLostReply(host: string): { readonly applied: LostReply } | undefined {
    const index = this.#lostReplies.findIndex((lost) => lost.host === undefined || lost.host === host);
    return index < 0 ? undefined : this.#lostReplies.splice(index, 1)[0];
  }

  strangerAt(member: string): ClusterAccess | undefined {
    return this.#strangers.get(member)?.access;
  }

  protected abstract makeStranger(member: string): Stranger;

  /** Ends the clusters in the place of members. */
  protected dismissStrangers(): void {
    for (const member of this.#strangers.keys()) this.putBack(member);
  }

  #cutMember(member: string): void {
    for (const stream of this.streams) if (stream.member === member) stream.cut();
  }

  /** The members have got, or lost, a leader. */
  protected abstract onQuorum(there: boolean): void;

  #cut(host: string, member: string | undefined, way: 'both' | 'answers' | 'requests'): void {
    for (const name of this.#named(member)) this.network.cut(host, name, way);
    this.#changed();
  }

  #named(member: string | undefined): readonly string[] {
    return member === undefined ? this.members : [member];
  }

  #changed(): void {
    const quorum = this.network.leader !== undefined;
    if (quorum !== this.#hadQuorum) {
      this.#hadQuorum = quorum;
      this.onQuorum(quorum);
    }
    this.late?.nudge();
    for (const stream of this.streams) stream.nudge();
  }
}
