import { expect, it } from 'vitest';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';
import { collect, put, type Suite } from './registry-suite.ts';

export function leaseContract({ subject, registry, freshPrefix }: Suite): void {
  it('grants leases with ids of their own, that do not fit a double', async () => {
    const first = await registry().leaseGrant(86_400);
    const second = await registry().leaseGrant(86_400);
    expect(first.ttlSeconds).toBe(86_400);
    expect(first.id).toMatch(/^\d{17,19}$/);
    expect(second.id).not.toBe(first.id);
    const left = await registry().leaseTimeToLive(first.id);
    expect(left.grantedTtlSeconds).toBe(86_400);
    expect(left.ttlSeconds).toBeGreaterThan(86_300);
    expect(left.ttlSeconds).toBeLessThanOrEqual(86_400);
    await registry().leaseRevoke(first.id);
    await registry().leaseRevoke(second.id);
  });

  it('grants a lease under an id of the caller, once', async () => {
    const id = String(2n ** 62n + BigInt(Math.floor(Math.random() * 2 ** 50)));
    expect(await registry().leaseGrant(60, undefined, id)).toEqual({ id, ttlSeconds: 60 });
    expect(await registry().leaseKeepAlive(id)).toEqual({ ttlSeconds: 60 });
    await expect(registry().leaseGrant(60, undefined, id)).rejects.toMatchObject({ outcomeUnknown: false });
    await registry().leaseRevoke(id);
    expect(await registry().leaseKeepAlive(id)).toEqual({ ttlSeconds: 0 });
  });

  it('raises a TTL that is too short to what the server can keep, and says so', async () => {
    const { id, ttlSeconds } = await registry().leaseGrant(1);
    expect(ttlSeconds).toBe(2);
    await registry().leaseRevoke(id);
  });

  it('shows the lease of a key, and drops it when the key is put without', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(60);
    await registry().txn({ compare: [], success: [put(key, '1', id)] });
    expect((await registry().range({ key })).kvs).toMatchObject([{ lease: id }]);
    await registry().txn({ compare: [], success: [put(key, '2')] });
    expect((await registry().range({ key })).kvs).toMatchObject([{ lease: '0' }]);
    await registry().leaseRevoke(id);
    expect((await registry().range({ key })).kvs).toMatchObject([{ value: '2' }]);
  });

  it('renews a lease by its id alone', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(3);
    await registry().txn({ compare: [], success: [put(key, '1', id)] });
    const { modRevision } = (await registry().range({ key })).kvs[0] ?? {};
    // Renewed whenever less than its whole TTL is left, over more than twice its life.
    for (let renewals = 0; renewals < 4; renewals++) {
      await subject().until('some of the TTL is used', async () => {
        const { ttlSeconds } = await registry().leaseTimeToLive(id);
        expect(ttlSeconds).toBeGreaterThanOrEqual(0);
        return ttlSeconds < 2;
      });
      expect(await registry().leaseKeepAlive(id)).toEqual({ ttlSeconds: 3 });
    }
    // No write: nobody's watch fires.
    expect((await registry().range({ key })).kvs).toMatchObject([{ modRevision }]);
    await registry().leaseRevoke(id);
  });

  it('lets a lease expire, with all its keys at one revision', async () => {
    const prefix = freshPrefix();
    const { id } = await registry().leaseGrant(2);
    const { header } = await registry().txn({
      compare: [],
      success: [put(`${prefix}b`, '1', id), put(`${prefix}a`, '1', id), put(`${prefix}stays`, '1')],
    });
    const watch = collect(
      registry(),
      prefix,
      header.revision + 1,
      (batches) => batches.at(-1)?.kind === 'events',
    );
    await subject().until(
      'the keys are gone',
      async () => (await registry().range({ key: `${prefix}a` })).kvs.length === 0,
    );
    const events = (await watch).flatMap((batch) => batch.events);
    const modRevision = events[0]?.type === 'delete' ? events[0].modRevision : 0;
    expect(modRevision).toBeGreaterThan(header.revision);
    expect(events).toEqual([
      { type: 'delete', key: `${prefix}a`, modRevision },
      { type: 'delete', key: `${prefix}b`, modRevision },
    ]);
    const left = await registry().range({ key: prefix, rangeEnd: prefixEnd(prefix) });
    expect(left.kvs.map(({ key }) => key)).toEqual([`${prefix}stays`]);
    await expectGone(id);
  });

  it('revokes a lease with its keys; a lease that is gone is no error', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(60);
    await registry().txn({ compare: [], success: [put(key, '1', id)] });
    await registry().leaseRevoke(id);
    expect((await registry().range({ key })).kvs).toEqual([]);
    await registry().leaseRevoke(id);
    await expectGone(id);
  });

  async function expectGone(id: string): Promise<void> {
    expect(await registry().leaseKeepAlive(id)).toEqual({ ttlSeconds: 0 });
    expect(await registry().leaseTimeToLive(id)).toEqual({ ttlSeconds: -1, grantedTtlSeconds: 0 });
  }
}
