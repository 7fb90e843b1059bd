import { type CallOptions, InterceptingCall, type NextCall, status } from '@grpc/grpc-js';

/**
 * One gRPC call: the options it is made with, whether it has been handed to a connection, and the means to cancel it
 * (etcd3's unary methods return a promise and no handle).
 */
export class Call {
  readonly options: CallOptions;
  #inner: ReturnType<NextCall> | undefined;
  #cancelled = false;

  /** `deadline`: when the call fails by itself, ms since the epoch as grpc-js wants it; undefined for a long stream. */
  constructor(deadline?: number) {
    this.options = {
      ...(deadline === undefined ? {} : { deadline }),
      interceptors: [
        (options, next) => {
          const inner = next(options);
          this.#inner = inner;
          return new InterceptingCall(inner, {
            start: (metadata, listener, proceed) => {
              // A member cut off from the quorum then refuses calls and ends watches instead of going silent.
              metadata.set('hasleader', 'true');
              proceed(metadata, listener);
              if (this.#cancelled) this.cancel();
            },
          });
        },
      ],
    };
  }

  /**
   * Whether a connection took the request. Until one does the peer is the target itself (`dns:host:port`), afterwards an
   * address.
   */
  get sent(): boolean {
    return this.#inner !== undefined && !this.#inner.getPeer().startsWith('dns:');
  }

  cancel(): void {
    this.#cancelled = true;
    this.#inner?.cancelWithStatus(status.CANCELLED, 'no longer wanted');
  }
}
