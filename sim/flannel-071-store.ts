import { parseAddress, parseSubnet, type Subnet, subnetAt } from '../src/ip/ip.ts';
import { NoAnswer } from '../src/subnet/etcd-v2/member.ts';

/** How long a lease of flannel 0.7.1 lives. */
const leaseTtlSeconds = 86_400;

/** One request to etcd, by way of whichever endpoint flannel is bound to. A poll is one too. */
export interface Flannel071Request {
  readonly method: 'GET' | 'PUT' | 'DELETE';
  /** As it stands in etcd. */
  readonly key: string;
  readonly query: Readonly<Record<string, string>>;
  readonly form?: Readonly<Record<string, string>>;
}

export interface Flannel071Answer {
  readonly status: number;
  /** `X-Etcd-Index`. */
  readonly index: number | undefined;
  readonly body: string;
}

/** What the model asks etcd through. */
export interface Flannel071Access {
  /** Resolves to the complete answer, however long that takes. Rejects with {@link NoAnswer}, or with `signal.reason`. */
  ask(request: Flannel071Request, signal: AbortSignal): Promise<Flannel071Answer>;
  /** The time that `expiration` in an answer stands for, ms since the epoch. */
  timeOf(expiration: string): number;
}

/** The address and length of a lease, as flannel reads them from a key; host bits stay. */
export interface Lease071 {
  readonly subnet: Subnet;
  readonly publicIp: string;
  readonly backendType: string;
  /** By etcd's clock, ms since the epoch; undefined: a reservation. */
  readonly expiresAtMs: number | undefined;
}

/** A change of one key. Of a removal flannel knows the subnet only. */
export type Event071 = { readonly added: Lease071 } | { readonly removed: Subnet };

/** Something that flannel logs and tries again after a while. */
export class Failure071 extends Error {
  /** etcd's number for a refusal. */
  readonly code: number | undefined;

  constructor(message: string, code?: number) {
    super(message);
    this.code = code;
  }
}

/** The process dies, as Go's runtime ends it at a nil pointer. */
export class Crash071 extends Error {}

/** A node as the keys API shows it. */
interface Node {
  readonly key: string;
  readonly value?: string;
  readonly expiration?: string;
  readonly modifiedIndex: number;
  readonly nodes?: readonly Node[];
}

/** What flannel 0.7.1 asks of etcd's v2 store, and how it reads the answers. */
export class Store071 {
  readonly #access: Flannel071Access;
  readonly #prefix: string;

  constructor(access: Flannel071Access, prefix: string) {
    this.#access = access;
    this.#prefix = prefix;
  }

  /** The configuration's text. Rejects with {@link Failure071}, as all methods do. */
  async config(signal: AbortSignal): Promise<string> {
    const key = `${this.#prefix}/config`;
    const { node } = await this.#ask({ method: 'GET', key, query: { quorum: 'true' } }, signal);
    return node.value ?? '';
  }

  /** All leases, and the index that they are of. Throws {@link Crash071} at a key that names no subnet. */
  async list(signal: AbortSignal): Promise<{ readonly leases: readonly Lease071[]; readonly index: number }> {
    const query = { quorum: 'true', recursive: 'true' };
    const answer = await this.#send({ method: 'GET', key: this.#subnets, query }, signal);
    if (codeOf(answer) === 100) return { leases: [], index: indexOf(answer) };
    const { nodes = [] } = resultOf(answer).node;
    return { leases: nodes.flatMap((node) => this.#leaseOf(node) ?? []), index: indexOf(answer) };
  }

  /** One lease, and the index that it is of. */
  async get(
    subnet: Subnet,
    signal: AbortSignal,
  ): Promise<{ readonly lease: Lease071; readonly index: number }> {
    const key = this.#keyOf(subnet);
    const answer = await this.#send({ method: 'GET', key, query: { quorum: 'true' } }, signal);
    const { node } = resultOf(answer);
    const lease = this.#leaseOf(node);
    if (lease === undefined) throw new Failure071(`${key}: the value is no lease`);
    return { lease, index: indexOf(answer) };
  }

  /** Makes a lease of 24 hours, unless there is one. Resolves to its expiry. */
  async create(subnet: Subnet, value: string, signal: AbortSignal): Promise<number | undefined> {
    return await this.#put(subnet, { prevExist: 'false' }, { value, ttl: String(leaseTtlSeconds) }, signal);
  }

  /** Writes a lease, whatever is in its key by now: there is no condition. Resolves to its expiry. */
  async overwrite(
    subnet: Subnet,
    value: string,
    kind: 'lease' | 'reservation',
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const ttl = kind === 'lease' ? { ttl: String(leaseTtlSeconds) } : {};
    return await this.#put(subnet, {}, { value, ...ttl }, signal);
  }

  async delete(subnet: Subnet, signal: AbortSignal): Promise<void> {
    await this.#ask({ method: 'DELETE', key: this.#keyOf(subnet), query: {} }, signal);
  }

  /**
   * Polls until something happens after `index`, to a key or, without one, to any lease. An event that flannel does not
   * understand is a {@link Failure071}, and will be one again: whoever asks does not move on.
   */
  async next(
    subnet: Subnet | undefined,
    index: number,
    signal: AbortSignal,
  ): Promise<{ readonly event: Event071; readonly index: number }> {
    const query = { recursive: String(subnet === undefined), wait: 'true', waitIndex: String(index + 1) };
    const key = subnet === undefined ? this.#subnets : this.#keyOf(subnet);
    for (;;) {
      const answer = await this.#send({ method: 'GET', key, query }, signal);
      // A poll that etcd ended with nothing is made again at once.
      if (answer.status === 200 && answer.body === '') continue;
      const { action, node } = resultOf(answer);
      return { event: this.#eventOf(action, node), index: node.modifiedIndex };
    }
  }

  get #subnets(): string {
    return `${this.#prefix}/subnets`;
  }

  #keyOf({ text }: Subnet): string {
    return `${this.#subnets}/${text.replace('/', '-')}`;
  }

  async #put(
    subnet: Subnet,
    query: Flannel071Request['query'],
    form: Flannel071Request['query'],
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const { node } = await this.#ask({ method: 'PUT', key: this.#keyOf(subnet), query, form }, signal);
    return this.#expiryOf(node);
  }

  async #ask(request: Flannel071Request, signal: AbortSignal) {
    return resultOf(await this.#send(request, signal));
  }

  async #send(request: Flannel071Request, signal: AbortSignal): Promise<Flannel071Answer> {
    try {
      return await this.#access.ask(request, signal);
    } catch (error) {
      if (error instanceof NoAnswer) throw new Failure071(error.message);
      throw error;
    }
  }

  /** Undefined for a value that is no lease, which a list skips. */
  #leaseOf(node: Node): Lease071 | undefined {
    const subnet = subnetOfKey(node.key);
    // Its message for such a key reads the subnet that there is none of.
    if (subnet === undefined)
      throw new Crash071(`invalid memory address or nil pointer dereference, at the key ${node.key}`);
    const attributes = attributesOf(node.value ?? '');
    return attributes && { subnet, ...attributes, expiresAtMs: this.#expiryOf(node) };
  }

  #eventOf(action: string, node: Node): Event071 {
    const subnet = subnetOfKey(node.key);
    if (subnet === undefined) throw new Failure071(`${action} "${node.key}": not a subnet, skipping`);
    // The only removals that it knows: of a compareAndDelete it reads the value, which is empty.
    if (action === 'delete' || action === 'expire') return { removed: subnet };
    const attributes = attributesOf(node.value ?? '');
    if (attributes === undefined)
      throw new Failure071(`${action} "${node.key}": unexpected end of JSON input`);
    return { added: { subnet, ...attributes, expiresAtMs: this.#expiryOf(node) } };
  }

  #expiryOf({ expiration }: Node): number | undefined {
    return expiration === undefined ? undefined : this.#access.timeOf(expiration);
  }
}

/** The value that flannel writes. */
export function valueOf(publicIp: string): string {
  return JSON.stringify({ PublicIP: publicIp, BackendType: 'host-gw' });
}

/**
 * The subnet in a key: flannel looks for one anywhere in it, with dots that match anything, and reads the length as a number of
 * five bits. So a key of both families is its IPv4 half, and a length of 32 is none.
 */
export function subnetOfKey(key: string): Subnet | undefined {
  const [, address = '', length = ''] = /(\d+\.\d+.\d+.\d+)-(\d+)/.exec(key) ?? [];
  const parsed = parseAddress(address);
  if (parsed?.family !== 4 || !(Number(length) < 32)) return undefined;
  return parseSubnet(`${address}/${Number(length)}`) ?? subnetAt(4, parsed.value, Number(length));
}

function attributesOf(value: string): Pick<Lease071, 'publicIp' | 'backendType'> | undefined {
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch {
    return undefined;
  }
  if (typeof parsed !== 'object' || Array.isArray(parsed)) return undefined;
  const { PublicIP: publicIp = '0.0.0.0', BackendType: backendType = '' }: Record<string, unknown> = {
    ...parsed,
  };
  if (typeof publicIp !== 'string' || parseAddress(publicIp)?.family !== 4) return undefined;
  return typeof backendType === 'string' ? { publicIp, backendType } : undefined;
}

/** etcd's number for a refusal; undefined for any other answer. */
function codeOf({ status, body }: Flannel071Answer): number | undefined {
  if (status < 400 || status >= 500) return undefined;
  try {
    return (JSON.parse(body) as { readonly errorCode?: number }).errorCode;
  } catch {
    return undefined;
  }
}

function resultOf(answer: Flannel071Answer): { readonly action: string; readonly node: Node } {
  if (answer.status === 200 || answer.status === 201)
    return JSON.parse(answer.body) as { readonly action: string; readonly node: Node };
  throw new Failure071(`HTTP status ${answer.status}: ${answer.body.trim()}`, codeOf(answer));
}

function indexOf({ index }: Flannel071Answer): number {
  if (index === undefined) throw new Failure071('an answer without X-Etcd-Index');
  return index;
}
