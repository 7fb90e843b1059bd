import { expect, it } from 'vitest';
import { collect, put, type Suite } from './registry-suite.ts';

export function leaseContract({ subject, registry, freshPrefix, write, read }: Suite): void {
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
    await write(put(key, '1', id));
    expect(await read(key)).toMatchObject([{ lease: id }]);
    await write(put(key, '2'));
    expect(await read(key)).toMatchObject([{ lease: '0' }]);
    await registry().leaseRevoke(id);
    expect(await read(key)).toMatchObject([{ value: '2' }]);
  });

  it('renews a lease by its id alone', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(3);
    await write(put(key, '1', id));
    const { modRevision } = (await read(key))[0] ?? {};
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
    expect(await read(key)).toMatchObject([{ modRevision }]);
    await registry().leaseRevoke(id);
  });

  it('lets a lease expire, with all its keys at one revision', async () => {
    const prefix = freshPrefix();
    const { id } = await registry().leaseGrant(2);
    const [a, b, stays] = ['a', 'b', 'stays'].map((name) => prefix + name) as [string, string, string];
    const revision = await write(put(b, '1', id), put(a, '1', id), put(stays, '1'));
    const watch = collect(registry(), prefix, revision + 1, (seen) => seen.at(-1)?.kind === 'events');
    await subject().until('the keys are gone', async () => (await read(a)).length === 0);
    const events = (await watch).flatMap((batch) => batch.events);
    const modRevision = events[0]?.type === 'delete' ? events[0].modRevision : 0;
    expect(modRevision).toBeGreaterThan(revision);
    expect(events).toEqual([
      { type: 'delete', key: a, modRevision },
      { type: 'delete', key: b, modRevision },
    ]);
    expect((await read(prefix)).map(({ key }) => key)).toEqual([stays]);
    await expectGone(id);
  });

  it('revokes a lease with its keys; a lease that is gone is no error', async () => {
    const key = `${freshPrefix()}a`;
    const { id } = await registry().leaseGrant(60);
    await write(put(key, '1', id));
    await registry().leaseRevoke(id);
    expect(await read(key)).toEqual([]);
    await registry().leaseRevoke(id);
    await expectGone(id);
  });

  async function expectGone(id: string): Promise<void> {
    expect(await registry().leaseKeepAlive(id)).toEqual({ ttlSeconds: 0 });
    expect(await registry().leaseTimeToLive(id)).toEqual({ ttlSeconds: -1, grantedTtlSeconds: 0 });
  }
}
