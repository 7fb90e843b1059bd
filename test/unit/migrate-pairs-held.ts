import { VirtualClock } from '../../sim/clock.ts';
import type { Action, Known, PairPlan } from '../../src/migrate/pairs.ts';
import { planPairs } from '../../src/migrate/pairs.ts';
import { Stores } from '../../src/migrate/stores.ts';
import type { V2Node } from '../../src/subnet/etcd-v2/store.ts';
import type { KeyValue } from '../../src/subnet/registry/registry.ts';

// What both stores hold, as a test writes it down: v2 at /old, v3 at /net.

/** A lease as flannel 0.7.1 and a daemon of v3 write it; which of the two a value comes from is of no account. */
export const valueOf = (ip: string, backend = 'host-gw') =>
  `{"PublicIP":"${ip}","PublicIPv6":null,"BackendType":"${backend}"}`;

export function inV2(
  name: string,
  value: string,
  { ttl = 80_000, index = 10 }: { readonly ttl?: number | 'reservation'; readonly index?: number } = {},
): V2Node {
  const ttlSeconds = ttl === 'reservation' ? undefined : ttl;
  return { key: `/old/subnets/${name}`, value, createdIndex: index, modifiedIndex: index, ttlSeconds };
}

export function inV3(
  name: string,
  value: string,
  { lease = '77', revision = 20 }: { readonly lease?: string; readonly revision?: number } = {},
): KeyValue {
  return { key: `/net/subnets/${name}`, value, lease, createRevision: revision, modRevision: revision };
}

/** What was seen of one subnet before, given as `10.5.1.0-24`. */
export const known = (name: string, seen: Known): ReadonlyMap<string, Known> =>
  new Map([[name.replace('-', '/'), seen]]);

interface HeldText {
  readonly v2?: readonly V2Node[];
  readonly v3?: readonly KeyValue[];
  readonly known?: ReadonlyMap<string, Known>;
  /** Seconds by the id of the etcd lease. */
  readonly ages?: Readonly<Record<string, number>>;
  /** Whether copies in v3 are to be renewed. */
  readonly isDue?: boolean;
}

function storesOf({ v2 = [], v3 = [] }: HeldText): Stores {
  const sides = { from: { prefix: '/old' }, to: { prefix: '/net' } };
  // Only what asks etcd needs more of them.
  const stores = new Stores(sides as ConstructorParameters<typeof Stores>[0], new VirtualClock());
  for (const node of v2) stores.noteV2(node);
  for (const kv of v3) stores.noteV3(kv);
  return stores;
}

export function planOf(held: HeldText): PairPlan {
  const { prefixes, v2, v3 } = storesOf(held);
  return planPairs(prefixes, {
    v2,
    v3,
    known: held.known ?? new Map(),
    agesSeconds: new Map(Object.entries(held.ages ?? {})),
    isRenewalDue: () => held.isDue === true,
  });
}

export const actionsOf = (held: HeldText): readonly Action['what'][] =>
  planOf(held).actions.map(({ what }) => what);

/** What both stores hold after the plan for `held` was carried out; it may only create. */
export function both(held: HeldText): HeldText {
  const { actions, known: seen } = planOf(held);
  const v2 = [...(held.v2 ?? [])];
  const v3 = [...(held.v3 ?? [])];
  for (const action of actions) {
    if (action.what === 'create-v2') v2.push({ ...inV2('', action.value), key: action.key });
    if (action.what === 'create-v3')
      v3.push({ ...inV3('', action.value, { lease: action.leaseId }), key: action.key });
  }
  return { ...held, v2, v3, known: seen };
}

export const nameOf = (map: ReadonlyMap<string, unknown>): readonly string[] => [...map.keys()].toSorted();
