import { SimOldStore } from '../../sim/old-store.ts';
import { oldStoreContract } from './old-store.ts';

const served = new SimOldStore();
served.keys = new Set();

oldStoreContract('in memory', () => ({
  served,
  set: async (key) => void served.keys?.add(key),
  absent: new SimOldStore(),
}));
