import { afterEach, beforeEach, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { type MeasuredCall, MeasuredMember } from '../../src/subnet/registry/measured.ts';
import { prefixEnd, type Registry, RegistryError } from '../../src/subnet/registry/registry.ts';

let clock: VirtualClock;
let etcd: SimEtcd;
let calls: MeasuredCall[];
let member: Registry;

beforeEach(() => {
  clock = new VirtualClock();
  etcd = new SimEtcd({ clock, latencyMs: 7 });
  calls = [];
  const [first] = etcd.connect('host');
  if (first === undefined) throw new Error('no member');
  member = new MeasuredMember(first, clock, (call) => calls.push(call));
});

afterEach(() => {
  member.close();
  etcd.close();
});

/** Resolves to what came of it, while virtual time passes. */
const outcome = (call: Promise<unknown>) => clock.complete(call.catch((error: unknown) => error));

it('reports how long each call took, and gives its answer', async () => {
  const granted = await outcome(member.leaseGrant(3_600, undefined, '9'));
  expect(granted).toEqual({ id: '9', ttlSeconds: 3_600 });
  const put = { op: 'put', key: '/k', value: 'v', lease: '9' } as const;
  expect(await outcome(member.txn({ compare: [], success: [put] }))).toMatchObject({ succeeded: true });
  expect(await outcome(member.range({ key: '/k' }))).toMatchObject({ kvs: [{ value: 'v' }] });
  expect(await outcome(member.leaseKeepAlive('9'))).toEqual({ ttlSeconds: 3_600 });
  expect(await outcome(member.leaseTimeToLive('9'))).toMatchObject({ grantedTtlSeconds: 3_600 });
  await outcome(member.leaseRevoke('9'));
  expect(calls.map(({ call }) => call).join()).toBe('grant,txn,range,keepalive,timetolive,revoke');
  for (const { durationMs, error, endpoint } of calls) {
    expect(durationMs).toBeGreaterThanOrEqual(7);
    expect([error, endpoint]).toEqual([undefined, member.endpoint]);
  }
});

it('reports the error of a call and of a watch', async () => {
  const pending = outcome(consume(new AbortController().signal));
  await clock.advance(1_000);
  etcd.stop('etcd-0');
  expect(await outcome(pending)).toBeInstanceOf(RegistryError);
  expect(await outcome(member.range({ key: '/k' }))).toBeInstanceOf(RegistryError);
  expect(calls).toMatchObject([
    { call: 'watch', error: 'UNAVAILABLE' },
    { call: 'range', error: 'UNAVAILABLE' },
  ]);
});

it('reports nothing that its caller has cancelled', async () => {
  const controller = new AbortController();
  const pending = outcome(consume(controller.signal));
  const range = outcome(member.range({ key: '/k' }, controller.signal));
  controller.abort(new Error('no longer wanted'));
  expect(await outcome(pending)).toEqual(new Error('no longer wanted'));
  expect(await outcome(range)).toEqual(new Error('no longer wanted'));
  expect(calls).toEqual([]);
});

async function consume(signal: AbortSignal): Promise<never> {
  for await (const batch of member.watch({ key: '/', rangeEnd: prefixEnd('/') }, signal))
    expect(batch.events).toEqual([]);
  throw new Error('a watch ends only by throwing');
}
