import type { OldStore } from '../src/subnet/registry/registry.ts';

/** An etcd's v2 store in memory. */
export class SimOldStore implements OldStore {
  /** Undefined: it is not served, as by an etcd of today. */
  keys: Set<string> | undefined;

  has(key: string): Promise<boolean | undefined> {
    return Promise.resolve(this.keys?.has(key));
  }
}
