import type { Clock } from '../runtime/effects.ts';
import type { V2Event, V2Node, V2Position } from '../subnet/etcd-v2/store.ts';
import { joinKey, occupiedSubnets, parseSubnetKey, subnetsPrefix } from '../subnet/keys.ts';
import { parseLeaseValue } from '../subnet/lease/lease.ts';
import {
  type KeyValue,
  listRange,
  type ResponseHeader,
  type WatchBatch,
} from '../subnet/registry/registry.ts';
import { isCopy, isCopyInV2 } from './copies.ts';
import type { InV2, InV3, Known } from './pairs.ts';
import { readNode } from './plan.ts';
import type { Sides } from './snapshot.ts';

/** A copy in v3 is renewed when its original is, and this often besides: nobody else renews it. */
const renewEveryMs = 6 * 60 * 60_000;

/** A key of v2 that is no lease of IPv4. */
export interface Skipped {
  readonly key: string;
  readonly why: string;
}

/**
 * The leases of both stores as far as they are known, and what was seen of them before. A list replaces what is known, events and own writes
 * change it; what is older than what is known of a key is left out.
 */
export class Stores {
  readonly prefixes: { readonly v2: string; readonly v3: string };
  readonly #sides: Sides;
  readonly #clock: Clock;
  #v2 = new Map<string, InV2>();
  #v3 = new Map<string, InV3>();
  #skipped = new Map<string, Skipped>();
  #position: V2Position | undefined;
  #header: ResponseHeader | undefined;
  known: ReadonlyMap<string, Known> = new Map();
  readonly #renewed = new Map<string, { readonly atMs: number; readonly index: number }>();

  constructor(sides: Sides, clock: Clock) {
    this.#sides = sides;
    this.#clock = clock;
    this.prefixes = {
      v2: subnetsPrefix(joinKey('/', sides.from.prefix)),
      v3: subnetsPrefix(sides.to.prefix),
    };
  }

  get v2(): readonly InV2[] {
    return [...this.#v2.values()];
  }

  get v3(): readonly InV3[] {
    return [...this.#v3.values()];
  }

  get skipped(): readonly Skipped[] {
    return [...this.#skipped.values()];
  }

  /**
   * Lists the leases of v2. When another store answers than before (of another cluster, or a restored one), what it lacks has not ended:
   * resolves to false then, and all that was seen is forgotten. A store that was restored under its id, and written to until it was past what
   * was read from it, shows in a key alone that is older than before. Rejects with V2Error.
   */
  async listV2(signal: AbortSignal): Promise<{ readonly position: V2Position; readonly isSame: boolean }> {
    const { nodes, ...position } = await this.#sides.from.store.list(this.prefixes.v2.slice(0, -1), signal);
    const before = this.#position;
    const wasAt = (key: string) => this.#v2.get(key)?.node.modifiedIndex ?? 0;
    const isSame =
      before === undefined ||
      (position.clusterId === before.clusterId &&
        position.index >= before.index &&
        nodes.every(({ key, modifiedIndex }) => modifiedIndex >= wasAt(key)));
    if (!isSame) this.#forget();
    this.#position = position;
    this.#v2 = new Map();
    this.#skipped = new Map();
    for (const node of nodes) this.noteV2(node);
    return { position, isSame };
  }

  /** The same for v3; resolves to the revision of the list. Rejects with RegistryError. */
  async listV3(signal: AbortSignal): Promise<{ readonly revision: number; readonly isSame: boolean }> {
    const { kvs, header } = await listRange(this.#sides.to.registry, this.prefixes.v3, signal);
    const before = this.#header;
    const wasAt = (key: string) => this.#v3.get(key)?.kv.modRevision ?? 0;
    const isSame =
      before === undefined ||
      (header.clusterId === before.clusterId &&
        header.revision >= before.revision &&
        kvs.every(({ key, modRevision }) => modRevision >= wasAt(key)));
    if (!isSame) this.#forget();
    this.#header = header;
    this.#v3 = new Map();
    for (const kv of kvs) this.noteV3(kv);
    return { revision: header.revision, isSame };
  }

  tellV2(event: V2Event): void {
    if (event.type === 'put') this.noteV2(event.node);
    else if (event.type === 'removed') this.#removeV2(event.key, event.index);
    // flannel 0.7.1 does not understand that its directory was removed: its host lives on, and puts its key again when it renews.
    else if (event.why === 'directory') {
      this.#forget();
      this.#v2 = new Map();
    }
  }

  tellV3({ events, header, kind }: WatchBatch): void {
    for (const event of events) {
      if (event.type === 'put') this.noteV3(event.kv);
      else this.dropV3(event.key, event.modRevision);
    }
    // Restores are told by the revisions of a cluster, and these go up to what a watch has told.
    if (kind === 'events' && this.#header !== undefined && header.revision > this.#header.revision)
      this.#header = header;
  }

  noteV2(node: V2Node): void {
    const { key, modifiedIndex } = node;
    this.#passV2(modifiedIndex);
    if ((this.#v2.get(key)?.node.modifiedIndex ?? 0) > modifiedIndex) return;
    const read = readNode(this.prefixes.v2, node);
    this.#v2.delete(key);
    this.#skipped.delete(key);
    if ('subnet' in read) this.#v2.set(key, { ...read, isCopy: isCopyInV2(node.value) });
    else if (node.ttlSeconds !== 0) this.#skipped.set(key, { key, why: read.problem });
  }

  #removeV2(key: string, index: number): void {
    this.#passV2(index);
    this.#skipped.delete(key);
    this.expiredV2(key, index);
  }

  /** The key of v2 is gone, or due to go. */
  expiredV2(key: string, index: number): void {
    if ((this.#v2.get(key)?.node.modifiedIndex ?? 0) <= index) this.#v2.delete(key);
  }

  #passV2(index: number): void {
    if (this.#position !== undefined && index > this.#position.index)
      this.#position = { ...this.#position, index };
  }

  noteV3(kv: KeyValue): void {
    if ((this.#v3.get(kv.key)?.kv.modRevision ?? 0) > kv.modRevision) return;
    this.#v3.delete(kv.key);
    const exact = parseSubnetKey(this.prefixes.v3, kv.key);
    const subnet =
      exact?.ipv4 ?? occupiedSubnets(this.prefixes.v3, kv.key).find(({ family }) => family === 4);
    if (subnet === undefined) return;
    const value = exact && parseLeaseValue(kv.value);
    const host = value?.publicIP;
    const lease = value && host !== undefined ? { ...value, publicIP: host } : undefined;
    this.#v3.set(kv.key, { kv, subnet, value: lease, isCopy: lease !== undefined && isCopy(kv) });
  }

  dropV3(key: string, revision: number): void {
    if ((this.#v3.get(key)?.kv.modRevision ?? 0) <= revision) this.#v3.delete(key);
  }

  noteRenewal(leaseId: string, index: number): void {
    this.#renewed.set(leaseId, { atMs: this.#clock.monotonic(), index });
  }

  isRenewalDue(leaseId: string, index: number): boolean {
    const last = this.#renewed.get(leaseId);
    if (last === undefined || last.index < index) return true;
    return this.#clock.monotonic() - last.atMs >= renewEveryMs;
  }

  /** From now on nothing was seen of any subnet: what a store lacks has not ended, and nobody knows what a host wrote last. */
  #forget(): void {
    this.known = new Map();
  }
}
