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
  txn = this.#told('txn');
  leaseGrant = this.#told('leaseGrant');
  leaseKeepAlive = this.#told('leaseKeepAlive');
  leaseTimeToLive = this.#told('leaseTimeToLive');
  leaseRevoke = this.#told('leaseRevoke');

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

  #told<Call extends Unary>(call: Call): Registry[Call] {
    const told = (...args: Parameters<Registry[Call]>): unknown => {
      this.onCall(call, args[0]);
      return Reflect.apply(this.#inner[call], this.#inner, args);
    };
    return told as Registry[Call];
  }
}
