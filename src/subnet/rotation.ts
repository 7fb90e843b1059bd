import {
  type RangeRequest,
  type RangeResponse,
  type Registry,
  RegistryError,
  type RegistryErrorCode,
  type TxnRequest,
  type TxnResponse,
  type WatchBatch,
  type WatchRequest,
} from './registry.ts';

export interface RotationOptions {
  /** Told when calls go to another member from now on, and why. */
  readonly onMove?: (from: string, to: string, reason: RegistryError) => void;
}

/** Failures of the way to a member, or of this member alone: another one may do better. */
const transport: ReadonlySet<RegistryErrorCode> = new Set<RegistryErrorCode>([
  'UNAVAILABLE',
  'NOT_ETCD',
  'TLS',
]);

/**
 * Several members of one cluster as one {@link Registry}. Calls stick to one member and move on when it fails.
 *
 * Calls that change nothing, or that may be repeated (keepalive), are tried once on every member before they reject. A
 * call that changes something is tried on the next member only when it certainly did not take effect; otherwise it
 * rejects with `outcomeUnknown`, and the caller reads back. A watch goes to the current member; its loss moves the next
 * call to another one.
 */
export function rotate(members: readonly Registry[], options: RotationOptions = {}): Registry {
  const [first] = members;
  if (first === undefined) throw new RangeError('rotation needs a member');
  return new Rotation([first, ...members.slice(1)], options);
}

class Rotation implements Registry {
  readonly #members: readonly [Registry, ...Registry[]];
  readonly #options: RotationOptions;
  #index = 0;

  constructor(members: readonly [Registry, ...Registry[]], options: RotationOptions) {
    this.#members = members;
    this.#options = options;
  }

  get endpoint(): string {
    return this.#current.endpoint;
  }

  range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    return this.#everywhere((member) => member.range(request, signal));
  }

  txn(request: TxnRequest, signal?: AbortSignal): Promise<TxnResponse> {
    return this.#everywhere((member) => member.txn(request, signal));
  }

  leaseGrant(
    ttlSeconds: number,
    signal?: AbortSignal,
    id?: string,
  ): Promise<{ readonly id: string; readonly ttlSeconds: number }> {
    return this.#everywhere((member) => member.leaseGrant(ttlSeconds, signal, id));
  }

  leaseKeepAlive(id: string, signal?: AbortSignal): Promise<{ readonly ttlSeconds: number }> {
    return this.#everywhere((member) => member.leaseKeepAlive(id, signal));
  }

  leaseTimeToLive(
    id: string,
    signal?: AbortSignal,
  ): Promise<{ readonly ttlSeconds: number; readonly grantedTtlSeconds: number }> {
    return this.#everywhere((member) => member.leaseTimeToLive(id, signal));
  }

  leaseRevoke(id: string, signal?: AbortSignal): Promise<void> {
    return this.#everywhere((member) => member.leaseRevoke(id, signal));
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const member = this.#current;
    try {
      yield* member.watch(request, signal);
    } catch (error) {
      if (isTransport(error)) this.#leave(member, error);
      throw error;
    }
  }

  close(): void {
    for (const member of this.#members) member.close();
  }

  get #current(): Registry {
    return this.#members[this.#index] ?? this.#members[0];
  }

  /** Whether a failed call may be repeated is in its error: calls that change nothing never say `outcomeUnknown`. */
  async #everywhere<T>(call: (member: Registry) => Promise<T>): Promise<T> {
    const failures = new Map<Registry, RegistryError>();
    for (;;) {
      const member = this.#untried(failures);
      if (member === undefined) throw summary([...failures.values()]);
      try {
        return await call(member);
      } catch (error) {
        if (!isTransport(error)) throw error;
        this.#leave(member, error);
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

  /** Moves on, unless another call that failed on the same member has done so. */
  #leave(member: Registry, reason: RegistryError): void {
    if (this.#current !== member || this.#members.length === 1) return;
    this.#index = (this.#index + 1) % this.#members.length;
    this.#options.onMove?.(member.endpoint, this.endpoint, reason);
  }
}

function isTransport(error: unknown): error is RegistryError {
  return error instanceof RegistryError && transport.has(error.kind);
}

/** One error for a call that failed on every member; names each with its reason. */
function summary(failures: readonly RegistryError[]): RegistryError {
  const [first] = failures;
  if (first === undefined) throw new RangeError('nothing failed');
  if (failures.length === 1) return first;
  const kind = failures.every((failure) => failure.kind === first.kind) ? first.kind : 'UNAVAILABLE';
  const remedy = failures.find((failure) => failure.remedy !== undefined)?.remedy;
  return new RegistryError(
    kind,
    failures.map((failure) => failure.endpoint).join(','),
    `no etcd endpoint answers: ${failures.map((failure) => failure.message).join('; ')}`,
    { cause: first, ...(remedy === undefined ? {} : { remedy }) },
  );
}
