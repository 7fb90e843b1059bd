import { describe, expect, it } from 'vitest';
import { prefixEnd, type Registry, RegistryError } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { Vetting } from '../../src/subnet/registry/vetting.ts';
import { collect, put, rejectionOf } from './registry-suite.ts';

/** A cluster, real or simulated, with a member that answers and cannot serve, or not all. */
export interface UnfitCluster {
  /** The member that is unfit. */
  readonly unfit: Registry;
  /** Two members that serve. */
  readonly fit: readonly [Registry, Registry];
  /** Lets time pass until the promise settles. */
  readonly settled: <T>(promise: Promise<T>) => Promise<T>;
  close(): Promise<void>;
}

/** How a member becomes unfit. */
export const unfitKinds = ['a learner', 'of another cluster', 'cut off', 'full'] as const;
export type UnfitKind = (typeof unfitKinds)[number];

/** What each call fails with at the member; absent: it is served. A full database is read and renewed from as ever. */
const refused: Readonly<Record<UnfitKind, Partial<RegistryError>>> = {
  'a learner': { kind: 'NOT_SERVING', outcomeUnknown: false },
  'of another cluster': {},
  'cut off': { kind: 'UNAVAILABLE', outcomeUnknown: false },
  full: { kind: 'EXHAUSTED', outcomeUnknown: false },
};
const says: Readonly<Record<UnfitKind, string>> = {
  'a learner': 'this member is a learner, which serves no clients',
  'of another cluster': 'this member belongs to another cluster',
  'cut off': 'no leader: this member is cut off from the majority of its cluster',
  full: 'the etcd database is full (alarm NOSPACE), it accepts no writes',
};

const key = '/net/subnets/10.1.0.0-24';

/** What members that answer and do not serve fail with, and that a rotation goes on to one that does. */
export function unfitContract(name: string, setup: (kind: UnfitKind) => Promise<UnfitCluster>): void {
  describe(`unfit members: ${name}`, () => {
    it.each(unfitKinds)('%s: says so itself, and another one serves', async (kind) => {
      const cluster = await setup(kind);
      try {
        await check(kind, cluster);
      } finally {
        await cluster.close();
      }
    });
  });
}

async function check(kind: UnfitKind, { unfit, fit, settled }: UnfitCluster): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  const calls: readonly (readonly [string, (at: Registry) => Promise<unknown>])[] = [
    ['txn', (at) => at.txn({ compare: [], success: [put(key, 'ours')] })],
    ['grant', (at) => at.leaseGrant(60)],
    ['range', (at) => at.range({ key })],
    ['keepalive', (at) => at.leaseKeepAlive('7')],
    ['watch', (at) => collect(at, '/net/', undefined, () => true, signal)],
  ];
  const writes = ['txn', 'grant'];
  for (const [call, make] of calls) {
    if (kind === 'of another cluster' || (kind === 'full' && !writes.includes(call))) continue;
    const error = await settled(rejectionOf(make(unfit)));
    expect({ call, ...pick(error) }).toMatchObject({ call, ...refused[kind] });
    expect(error.message).toBe(`etcd at ${unfit.endpoint}: ${says[kind]}`);
  }
  await asksToWrite(kind === 'full' ? says.full : 'fit', { fit, settled }, signal);
  if (kind === 'full') return;
  const [one, other] = fit;
  for (const members of [
    [unfit, one, other],
    [one, unfit, other],
    [one, other, unfit],
  ]) {
    const told: string[] = [];
    const registry = rotate(members, {
      leasesPrefix: '/net/subnets/',
      onFitness: (_, reason) => told.push(reason?.message ?? 'fit'),
    });
    await settled(registry.txn({ compare: [], success: [put('/net/config', '{}'), put(key, 'ours')] }));
    for (const [, make] of calls) await settled(make(registry));
    const { kvs } = await settled(one.range({ key: '/net/', rangeEnd: prefixEnd('/net/') }));
    expect(kvs).toHaveLength(2);
    // Nobody waits for what the others say once two of three serve.
    if (kind === 'cut off' || members[0] !== unfit) continue;
    expect(told.at(-1)).toContain(says[kind]);
  }
}

/** A member that refused to write is asked for a write that changes nothing; it is refused as every other one is. */
async function asksToWrite(
  answer: string,
  { fit: [asked, other], settled }: Pick<UnfitCluster, 'fit' | 'settled'>,
  signal: AbortSignal,
): Promise<void> {
  const told: string[] = [];
  const vetting = new Vetting([asked], '/net/subnets/', (_, reason) => told.push(reason?.message ?? 'fit'));
  vetting.note(asked, new RegistryError('EXHAUSTED', asked.endpoint, 'no writes'), 'write');
  vetting.served(other, 'write');
  const { header } = await settled(asked.range({ key }));
  await settled(vetting.askUnfit(signal));
  expect(told).toEqual(['no writes', expect.stringContaining(answer)]);
  expect((await settled(asked.range({ key }))).header.revision).toBe(header.revision);
}

const pick = ({ kind, outcomeUnknown }: RegistryError) => ({ kind, outcomeUnknown });
