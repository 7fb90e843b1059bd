import { describe, expect, it } from 'vitest';
import type { OldStore } from '../../src/subnet/registry/registry.ts';

export interface OldStoreWorld {
  /** The store of an etcd that serves v2. */
  readonly served: OldStore;
  /** Puts a key into it. */
  readonly set: (key: string) => Promise<void>;
  /** The store of an etcd that does not. */
  readonly absent: OldStore;
}

/** What {@link OldStore} promises, on any implementation. */
export function oldStoreContract(name: string, at: () => OldStoreWorld): void {
  const { signal } = new AbortController();
  describe(name, () => {
    it.each(['/coreos.com/network/config', '/a b/ü%2f?/config', 'no-slash/config'])(
      'tells whether it has %j',
      async (key) => {
        const { served, set } = at();
        await expect(served.has(key, signal)).resolves.toBe(false);
        await set(key);
        await expect(served.has(key, signal)).resolves.toBe(true);
        await expect(served.has(`${key}x`, signal)).resolves.toBe(false);
      },
    );

    it('does not know when it is not served', async () => {
      await expect(at().absent.has('/coreos.com/network/config', signal)).resolves.toBeUndefined();
    });
  });
}
