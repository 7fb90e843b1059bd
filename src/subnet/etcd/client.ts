import {
  type CallOptions,
  type ChannelCredentials,
  type Client,
  InterceptingCall,
  Metadata,
  type NextCall,
  status,
} from '@grpc/grpc-js';
import {
  AuthClient,
  type ICallable,
  KVClient,
  LeaseClient,
  MaintenanceClient,
  type Services,
  WatchClient,
} from 'etcd3';
import { Host } from 'etcd3/lib/connection-pool.js';

type Service = keyof typeof Services;
type Unary = (
  request: unknown,
  metadata: Metadata,
  options: CallOptions,
  done: (error: Error | null, response: unknown) => void,
) => void;

const channelOptions = {
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
};

/** etcd's services, called as the user a token stands for. */
export interface EtcdServices {
  readonly kv: KVClient;
  readonly lease: LeaseClient;
  readonly watch: WatchClient;
  readonly auth: AuthClient;
  readonly maintenance: MaintenanceClient;
}

/**
 * Makes etcd3's calls at one member, once each, on one connection. The package's own pool picks members at random, repeats calls
 * whose outcome is unknown (a transaction could be applied twice), closes every channel of a member when one stream fails,
 * and has no place for certificates that change. Failures arrive as grpc-js has them.
 */
export class MemberClient {
  readonly #endpoint: string;
  #host: Host;

  /** `endpoint`: `http://host:port` or `https://host:port`. */
  constructor(endpoint: string, channelCredentials: ChannelCredentials) {
    this.#endpoint = endpoint;
    this.#host = new Host(endpoint, channelCredentials, channelOptions);
  }

  services(token?: string): EtcdServices {
    const calls = new Calls(this.#host, token);
    return {
      kv: new KVClient(calls),
      lease: new LeaseClient(calls),
      watch: new WatchClient(calls),
      auth: new AuthClient(calls),
      maintenance: new MaintenanceClient(calls),
    };
  }

  /** Calls from now on use a connection of their own; streams that are open live on where they are. */
  reconnect(channelCredentials: ChannelCredentials): void {
    this.#host.close();
    this.#host = new Host(this.#endpoint, channelCredentials, channelOptions);
  }

  close(): void {
    this.#host.close();
  }
}

class Calls implements ICallable<Host> {
  readonly callOptionsFactory = undefined;
  readonly #host: Host;
  readonly #token: string | undefined;

  constructor(host: Host, token: string | undefined) {
    this.#host = host;
    this.#token = token;
  }

  async exec<T>(service: Service, method: string, request: unknown, options: CallOptions = {}): Promise<T> {
    const client = this.#host.getServiceClient(service) as Client & Readonly<Record<string, Unary>>;
    return await new Promise<T>((resolve, reject) => {
      client[method]?.(request, this.#metadata(), options, (error, response) => {
        if (error === null) resolve(response as T);
        else reject(error);
      });
    });
  }

  async withConnection<R>(
    service: Service,
    open: (at: { resource: Host; client: Client; metadata: Metadata }) => Promise<R> | R,
  ): Promise<R> {
    const resource = this.#host;
    return await open({ resource, client: resource.getServiceClient(service), metadata: this.#metadata() });
  }

  /** What follows from a failure is for the callers to decide. */
  markFailed(): void {}

  #metadata(): Metadata {
    const metadata = new Metadata();
    if (this.#token !== undefined) metadata.set('token', this.#token);
    return metadata;
  }
}

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
