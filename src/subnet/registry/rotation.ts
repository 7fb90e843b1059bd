import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Random } from '../../runtime/effects.ts';
import {
  type GrantedLease,
  type RangeRequest,
  type RangeResponse,
  type Registry,
  RegistryError,
  type RegistryErrorCode,
  type RemainingTtl,
  type ResponseHeader,
  type TxnRequest,
  type TxnResponse,
  type WatchBatch,
  type WatchRequest,
} from './registry.ts';
import { type Asked, Vetting } from './vetting.ts';

export interface RotationOptions {
  /** Called when calls move to another member, with the reason. */
  readonly onMove?: (from: string, to: string, reason: RegistryError) => void;
  /**
   * Told when a member turns out to be unfit to serve (a learner, of another cluster, too old, no etcd) or was left for
   * another one that serves, and when it serves again.
   */
  readonly onFitness?: (endpoint: string, unfit: RegistryError | undefined) => void;
  /** What the keys of all leases begin with. With it a member is vetted before it is used; absent: members are trusted. */
  readonly leasesPrefix?: string;
  /** So that a silent member does not delay the first call. */
  readonly clock?: Clock;
  /** Has hosts that start together ask after their members at different moments of the minute; absent: at its end. */
  readonly random?: Random;
}

/** Failures of the way to a member, or of this member alone: another one may do better. */
const ofMember: ReadonlySet<RegistryErrorCode> = new Set<RegistryErrorCode>([
  'UNAVAILABLE',
  'NOT_ETCD',
  'NOT_SERVING',
  'EXHAUSTED',
  'TLS',
  'UNEXPECTED',
]);

/** How often members are asked that are unfit, or that a watch is open at. */
const askAgainMs = 60_000;
/** How often while it is not certain which cluster is the right one. */
const askSoonMs = 5_000;
const loop = 'etcd-members';
/** Longer than all calls of a round together: each ends within seconds, but many members may be silent. */
const stuckMs = 600_000;

/**
 * Several members of one cluster as one {@link Registry}. Calls stick to one member and move on when it fails, or answers that
 * it cannot serve; it comes up again when the others fail.
 *
 * Every call is tried once on every member before it rejects, with the reason of each. A call that changes something is
 * tried on the next member only when it certainly did not take effect; otherwise it rejects with `outcomeUnknown`, and the
 * caller reads back. A watch is opened at the first member that takes it; its loss rejects, and moves the next call to another
 * one. Pauses between attempts are the callers' affair.
 */
export function rotate(members: readonly Registry[], options: RotationOptions = {}): Rotation {
  const [first] = members;
  if (first === undefined) throw new RangeError('rotation needs a member');
  return new Rotation([first, ...members.slice(1)], options);
}

/** Several members as one, with the loop that looks after those that are unfit. */
export class Rotation implements Registry {
  readonly #members: readonly [Registry, ...Registry[]];
  readonly #options: RotationOptions;
  readonly #vetting: Vetting | undefined;
  /** The watches that are open, by what cuts them off. */
  readonly #streams = new Map<AbortController, Registry>();
  /** etcd's revision as the minute's question last found it, since a watch was last opened there. */
  readonly #revisions = new Map<Registry, number>();
  #index = 0;

  constructor(members: readonly [Registry, ...Registry[]], options: RotationOptions) {
    this.#members = members;
    this.#options = options;
    const { leasesPrefix, onFitness, clock } = options;
    if (leasesPrefix !== undefined) this.#vetting = new Vetting(members, leasesPrefix, onFitness, clock);
  }

  get endpoint(): string {
    return this.#current.endpoint;
  }

  range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    return this.#everywhere('read', signal, async (member) =>
      this.#ofOurCluster(member, await member.range(request, signal)),
    );
  }

  txn(request: TxnRequest, signal?: AbortSignal): Promise<TxnResponse> {
    const changes = [...request.success, ...(request.failure ?? [])].some(({ op }) => op !== 'range');
    return this.#everywhere(changes ? 'write' : 'read', signal, async (member) => {
      const answer = await member.txn(request, signal);
      // Too late to take it elsewhere; the next call finds out.
      this.#vetting?.doubt(member, answer.header);
      return answer;
    });
  }

  leaseGrant(ttlSeconds: number, signal?: AbortSignal, id?: string): Promise<GrantedLease> {
    return this.#everywhere('write', signal, (member) => member.leaseGrant(ttlSeconds, signal, id));
  }

  leaseKeepAlive(id: string, signal?: AbortSignal): Promise<{ readonly ttlSeconds: number }> {
    return this.#everywhere('read', signal, (member) => member.leaseKeepAlive(id, signal));
  }

  leaseTimeToLive(id: string, signal?: AbortSignal): Promise<RemainingTtl> {
    return this.#everywhere('read', signal, (member) => member.leaseTimeToLive(id, signal));
  }

  leaseRevoke(id: string, signal?: AbortSignal): Promise<void> {
    return this.#everywhere('write', signal, (member) => member.leaseRevoke(id, signal));
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const cut = new AbortController();
    const onAbort = () => cut.abort(signal.reason);
    signal.throwIfAborted();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      yield* this.#follow(request, cut);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async *#follow(request: WatchRequest, cut: AbortController): AsyncGenerator<WatchBatch> {
    const { signal } = cut;
    const opened = await this.#everywhere('read', signal, async (member) => {
      const batches = member.watch(request, signal)[Symbol.asyncIterator]();
      const first = await batches.next();
      try {
        if (first.done !== true) this.#ofOurCluster(member, first.value);
      } catch (error) {
        await batches.return?.();
        throw error;
      }
      return { member, batches, first };
    });
    const { member, batches } = opened;
    this.#streams.set(cut, member);
    this.#revisions.delete(member);
    try {
      for (let step = opened.first; step.done !== true; step = await batches.next())
        yield this.#ofOurCluster(member, step.value);
    } catch (error) {
      if (isOfMember(error)) this.#leave(member, error, 'read');
      throw error;
    } finally {
      this.#streams.delete(cut);
      await batches.return?.();
    }
  }

  /**
   * Asks each minute whether members that were left serve by now, and whether those still do that a watch is open at. Works until
   * `signal` aborts, then rejects with its reason. Reports each round to `activity`.
   */
  async run(clock: Clock, signal: AbortSignal, activity?: Activity): Promise<never> {
    try {
      for (let part = this.#options.random?.next() ?? 1; ; part = 1) {
        activity?.round(loop, askAgainMs + stuckMs);
        await clock.sleep(askSoonMs, signal);
        if (this.#vetting?.provisional !== true) await clock.sleep((askAgainMs - askSoonMs) * part, signal);
        await this.#vetting?.reconsider(signal);
        await this.#vetting?.askUnfit(signal);
        for (const member of new Set(this.#streams.values())) await this.#checkStreams(member, signal);
      }
    } finally {
      activity?.end(loop);
    }
  }

  /** A proxy keeps its streams open, and answers keepalive, when the etcd behind it is gone or restored. A call tells. */
  async #checkStreams(member: Registry, signal: AbortSignal): Promise<void> {
    const { leasesPrefix: key } = this.#options;
    if (key === undefined) return;
    try {
      const { header } = this.#ofOurCluster(member, await member.range({ key, keysOnly: true }, signal));
      this.#checkRevision(member, header.revision);
    } catch (error) {
      signal.throwIfAborted();
      if (!isOfMember(error)) return;
      this.#leave(member, error, 'read');
      for (const [cut, at] of this.#streams) if (at === member) cut.abort(error);
    }
  }

  /** Throws when etcd has gone back: a watch that was opened before waits for what is long over. */
  #checkRevision(member: Registry, revision: number): void {
    const before = this.#revisions.get(member) ?? 0;
    this.#revisions.set(member, revision);
    if (revision >= before) return;
    const reason = `it went back from revision ${before} to ${revision}, as after a restore from a backup`;
    throw new RegistryError('UNAVAILABLE', member.endpoint, `etcd at ${member.endpoint}: ${reason}`);
  }

  close(): void {
    for (const member of this.#members) member.close();
  }

  get #current(): Registry {
    return this.#members[this.#index] ?? this.#members[0];
  }

  /** Whether a failed call may be repeated is in its error: calls that change nothing never say `outcomeUnknown`. */
  async #everywhere<T>(
    asked: Asked,
    signal: AbortSignal | undefined,
    call: (member: Registry) => Promise<T>,
  ): Promise<T> {
    const vetting = this.#vetting;
    let failures = (await vetting?.begin(signal)) ?? new Map<Registry, RegistryError>();
    for (const [member, reason] of failures) this.#leave(member, reason, 'read');
    for (let again = false; ; ) {
      const member = this.#untried(failures);
      if (member === undefined) {
        // A cluster that was restored has another identity.
        if (again || (await vetting?.chooseAgain(failures, signal)) !== true) {
          vetting?.nobodyServed(failures);
          throw failedAll(this.#members, failures);
        }
        again = true;
        failures = new Map();
        continue;
      }
      const refusal = await vetting?.vet(member, signal);
      if (refusal !== undefined) {
        this.#leave(member, refusal, 'read');
        failures.set(member, refusal);
        continue;
      }
      try {
        const answer = await call(member);
        vetting?.served(member, asked);
        return answer;
      } catch (error) {
        if (!isOfMember(error)) throw error;
        this.#leave(member, error, asked);
        if (error.outcomeUnknown) throw error;
        failures.set(member, error);
      }
    }
  }

  /** The next member in turn, from the current one on, that has not failed this call. */
  #untried(failures: ReadonlyMap<Registry, RegistryError>): Registry | undefined {
    const turn = [...this.#members.slice(this.#index), ...this.#members.slice(0, this.#index)];
    return turn.find((member) => !failures.has(member));
  }

  #ofOurCluster<T extends { readonly header: ResponseHeader }>(member: Registry, answer: T): T {
    this.#vetting?.check(member, answer.header);
    return answer;
  }

  /** Moves on, unless another call that failed on the same member has done so. */
  #leave(member: Registry, reason: RegistryError, asked: Asked): void {
    this.#vetting?.note(member, reason, asked);
    if (this.#current !== member || this.#members.length === 1) return;
    this.#index = (this.#index + 1) % this.#members.length;
    this.#options.onMove?.(member.endpoint, this.endpoint, reason);
  }
}

function isOfMember(error: unknown): error is RegistryError {
  return error instanceof RegistryError && ofMember.has(error.kind);
}

/** One error for a call that failed on every member: names each with its reason, and a reason that several have once. */
function failedAll(
  members: readonly Registry[],
  failures: ReadonlyMap<Registry, RegistryError>,
): RegistryError {
  const inOrder = members.flatMap((member) => failures.get(member) ?? []);
  const [first] = inOrder;
  if (first === undefined) throw new RangeError('nothing failed');
  if (inOrder.length === 1) return first;
  const places = new Map<string, string[]>();
  for (const { endpoint, message } of inOrder) {
    const reason = message.replace(`etcd at ${endpoint}`, '');
    places.set(reason, [...(places.get(reason) ?? []), endpoint]);
  }
  const reasons = [...places].map(([reason, endpoints]) => `etcd at ${endpoints.join(', ')}${reason}`);
  const kind = inOrder.every((failure) => failure.kind === first.kind) ? first.kind : 'UNAVAILABLE';
  // Remedies for what waiting does not fix come first.
  const lasting = inOrder.filter((failure) => failure.kind !== 'UNAVAILABLE');
  const [remedy] = [...lasting, ...inOrder].flatMap((failure) => failure.remedy ?? []);
  const endpoints = inOrder.map(({ endpoint }) => endpoint).join(',');
  const message = `no etcd endpoint can be used: ${reasons.join('; ')}`;
  return new RegistryError(kind, endpoints, message, { cause: first, remedy });
}
