import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { prefixEnd, type Registry } from '../../src/subnet/registry/registry.ts';
import { leaseContract } from './registry-leases.ts';
import { rangeContract } from './registry-range.ts';
import { collect, put, type RegistryUnderTest, rejectionOf, type Suite, write } from './registry-suite.ts';
import { txnContract } from './registry-txn.ts';
import { watchContract } from './registry-watch.ts';

const parts = {
  range: rangeContract,
  txn: txnContract,
  leases: leaseContract,
  watch: watchContract,
  'aborting and failing': failureContract,
};

type Part = keyof typeof parts;

/** The rules of {@link Registry}, for anything that claims to be one; all of them, or those parts that are of interest. */
export function registryContract(
  name: string,
  setup: () => Promise<RegistryUnderTest>,
  chosen: readonly Part[] = Object.keys(parts) as Part[],
): void {
  describe(`registry: ${name}`, () => {
    let subject: RegistryUnderTest | undefined;
    let prefixes = 0;
    const current = () => {
      if (subject === undefined) throw new Error('the suite is not set up');
      return subject;
    };
    const suite: Suite = {
      subject: current,
      registry: () => current().registry,
      freshPrefix: () => `/test/${prefixes++}/subnets/`,
      write: (...success) => write(current().registry, ...success),
      read: async (key) => {
        const range = key.endsWith('/') ? { key, rangeEnd: prefixEnd(key) } : { key };
        return (await current().registry.range(range)).kvs;
      },
    };
    beforeAll(async () => {
      subject = await setup();
    });
    afterAll(() => subject?.close());
    for (const part of chosen) describe(part, () => parts[part](suite));
  });
}

function failureContract({ subject, registry, freshPrefix }: Suite): void {
  const calls = (
    at: () => Registry,
  ): readonly (readonly [string, (signal?: AbortSignal) => Promise<unknown>])[] => [
    ['range', (signal) => at().range({ key: 'a' }, signal)],
    ['txn', (signal) => at().txn({ compare: [], success: [put(`${freshPrefix()}a`, '1')] }, signal)],
    ['leaseGrant', (signal) => at().leaseGrant(60, signal)],
    ['leaseKeepAlive', (signal) => at().leaseKeepAlive('1', signal)],
    ['leaseTimeToLive', (signal) => at().leaseTimeToLive('1', signal)],
    ['leaseRevoke', (signal) => at().leaseRevoke('1', signal)],
    ['watch', (signal = AbortSignal.timeout(30_000)) => collect(at(), freshPrefix(), 1, () => false, signal)],
  ];
  const reason = new Error('no longer wanted');

  it.each(calls(registry))(
    '%s rejects with the reason of its signal: aborted before, and while the member is silent',
    async (_, call) => {
      await expect(call(AbortSignal.abort(reason))).rejects.toBe(reason);
      subject().freeze();
      try {
        const controller = new AbortController();
        const pending = call(controller.signal);
        const rejection = expect(pending).rejects.toBe(reason);
        await new Promise((resolve) => setImmediate(resolve));
        controller.abort(reason);
        await rejection;
      } finally {
        subject().thaw();
      }
    },
  );

  it.each(calls(registry).slice(0, -1))('%s gives a silent member up at its deadline', async (name, call) => {
    await call();
    subject().freeze();
    try {
      const error = await rejectionOf(subject().settled(call()));
      expect(error.kind).toBe('UNAVAILABLE');
      expect(error.code).toBe('ETCD_UNAVAILABLE');
      expect(error.message).toBe(`etcd at ${registry().endpoint}: no answer within the deadline`);
      expect(error.outcomeUnknown).toBe(['txn', 'leaseGrant', 'leaseRevoke'].includes(name));
    } finally {
      subject().thaw();
    }
    await subject().until('the member answers again', () => answers(registry()));
  });

  it('rejects every call once it is closed, those under way too', async () => {
    const closed = subject().connect();
    const watch = rejectionOf(collect(closed, freshPrefix(), 1, () => false));
    subject().freeze();
    const range = rejectionOf(closed.range({ key: 'a' }));
    await new Promise((resolve) => setImmediate(resolve));
    closed.close();
    subject().thaw();
    expect((await range).message).toBe(`etcd at ${closed.endpoint}: closed`);
    expect((await watch).message).toBe(`etcd at ${closed.endpoint}: closed`);
    for (const [, call] of calls(() => closed)) {
      expect(await rejectionOf(call())).toMatchObject({ kind: 'UNAVAILABLE', outcomeUnknown: false });
    }
  });
}

async function answers(registry: Registry): Promise<boolean> {
  return registry.range({ key: 'a' }).then(
    () => true,
    () => false,
  );
}
