import { Etcd3 } from 'etcd3';

/**
 * A client of one member. The package picks hosts at random and its default policy repeats calls whose outcome is unknown
 * (a transaction could be applied twice): so one client per endpoint, no policy, and the rotation is ours.
 */
export function createClient(endpoint: string): Etcd3 {
  const policy = new PassThrough();
  return new Etcd3({
    hosts: [endpoint],
    faultHandling: { global: policy, host: () => policy },
    grpcOptions: {
      // Finds a frozen peer or a dead path below an open stream within 14 s. etcd allows one ping in 5 s.
      'grpc.keepalive_time_ms': 10_000,
      'grpc.keepalive_timeout_ms': 4_000,
      // 12,000 leases are 5.2 MB, over the default of 4.
      'grpc.max_receive_message_length': 64 << 20,
      // grpc-js would wait up to two minutes before it looks again for a member that was away; our callers back off themselves.
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1_000,
      // etcd is on the hosts' own network: neither http_proxy nor a service config from DNS apply to it.
      'grpc.enable_http_proxy': 0,
      'grpc.service_config_disable_resolution': 1,
    },
  });
}

/**
 * Wraps what a call was rejected with, so that the package does not know it for one of its recoverable errors: it would
 * close all channels of the host, and with them calls that are doing well.
 */
export class CallRejected extends Error {
  constructor(cause: unknown) {
    super('the call was rejected', { cause });
  }
}

/** cockatiel's IPolicy, doing nothing. `execute` must be async: a synchronous throw would end the process. */
class PassThrough {
  declare readonly _altReturn: never;
  readonly onSuccess = () => ({ dispose() {} });
  readonly onFailure = () => ({ dispose() {} });

  async execute<T>(run: (context: { signal: AbortSignal }) => PromiseLike<T> | T): Promise<T> {
    try {
      return await run({ signal: never });
    } catch (error) {
      throw error instanceof CallRejected ? error : new CallRejected(error);
    }
  }
}

const never = new AbortController().signal;
