import type {
  RangeRequest,
  RangeResponse,
  Registry,
  ResponseHeader,
  WatchBatch,
  WatchRequest,
} from '../src/subnet/registry/registry.ts';

type Unary = 'txn' | 'leaseGrant' | 'leaseKeepAlive' | 'leaseTimeToLive' | 'leaseRevoke';

/** A registry whose calls, headers and watches are seen through a lens; the answers are those of `inner`. */
export class LensRegistry implements Registry {
  readonly #inner: Registry;
  header: (header: ResponseHeader, kind: WatchBatch['kind'] | 'range') => ResponseHeader = (header) => header;
  beforeWatch: (request: WatchRequest) => void = () => {};
  onRange: (request: RangeRequest) => void = () => {};
  /** Told of every other unary call and its first argument, before it is made. */
  onCall: (call: string, argument: unknown) => void = () => {};
  txn: Registry['txn'] = this.#told('txn', (...args) => this.#inner.txn(...args));
  leaseGrant: Registry['leaseGrant'] = this.#told('leaseGrant', (...args) => this.#inner.leaseGrant(...args));
  leaseKeepAlive: Registry['leaseKeepAlive'] = this.#told('leaseKeepAlive', (...args) =>
    this.#inner.leaseKeepAlive(...args),
  );
  leaseTimeToLive: Registry['leaseTimeToLive'] = this.#told('leaseTimeToLive', (...args) =>
    this.#inner.leaseTimeToLive(...args),
  );
  leaseRevoke: Registry['leaseRevoke'] = this.#told('leaseRevoke', (...args) =>
    this.#inner.leaseRevoke(...args),
  );

  constructor(inner: Registry) {
    this.#inner = inner;
  }

  get endpoint(): string {
    return this.#inner.endpoint;
  }

  async range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    this.onRange(request);
    const response = await this.#inner.range(request, signal);
    return { ...response, header: this.header(response.header, 'range') };
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    this.beforeWatch(request);
    for await (const batch of this.#inner.watch(request, signal))
      yield { ...batch, header: this.header(batch.header, batch.kind) };
  }

  close = (): void => this.#inner.close();

  #told<Args extends unknown[], T>(call: Unary, make: (...args: Args) => Promise<T>) {
    return (...args: Args): Promise<T> => {
      this.onCall(call, args[0]);
      return make(...args);
    };
  }
}
