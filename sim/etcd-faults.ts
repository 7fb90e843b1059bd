import type { LateWrites } from './etcd-late.ts';
import type { ClusterAccess } from './etcd-member.ts';
import { EtcdNetwork } from './etcd-network.ts';
import { UnfitMembers, type Unfitness } from './etcd-unfit.ts';
import type { KeyRevision, SimStream } from './etcd-watch.ts';

/** What becomes of a write whose answer is lost: it takes effect at once, never, or after a while. */
export type LostReply = boolean | { readonly afterMs: number };

/** Another cluster in the place of a member. */
interface Stranger {
  readonly access: ClusterAccess;
  close(): void;
}

/** What can go wrong with the members of a simulated cluster, the ways to them, and their streams. */
export abstract class EtcdFaults extends EtcdNetwork {
  readonly late: LateWrites | undefined;
  readonly unfit = new UnfitMembers();
  readonly #strangers = new Map<string, Stranger>();
  /** The watch streams that are open. */
  protected readonly streams = new Set<SimStream>();
  /** Told whenever a host gets an answer or a watch message, with the keys in lists and events; of a list twice. */
  onHeard: (host: string, what: 'answer' | 'list' | 'watch', keys?: readonly KeyRevision[]) => void =
    () => {};
  readonly #streamDelaysMs = new Map<string, number>();
  readonly #streamCuts: number[] = [];
  readonly #lostReplies: { readonly applied: LostReply; readonly host: string | undefined }[] = [];
  #hadQuorum = true;

  constructor(members: readonly string[], late: LateWrites | undefined) {
    super(members);
    this.late = late;
  }

  override stop(member: string): void {
    this.#cutMember(member);
    super.stop(member);
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

  /** No more streams are cut, neither those to be opened nor open ones after their last messages. */
  keepWatches(): void {
    this.#streamCuts.length = 0;
    for (const stream of this.streams) stream.spare();
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

  protected changed(): void {
    const quorum = this.leader !== undefined;
    if (quorum !== this.#hadQuorum) {
      this.#hadQuorum = quorum;
      this.onQuorum(quorum);
    }
    this.late?.nudge();
    for (const stream of this.streams) stream.nudge();
  }
}
