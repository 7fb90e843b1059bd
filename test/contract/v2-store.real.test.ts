import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { tempDir } from '../testbed/run.ts';
import { v2StoreContract } from './v2-store.ts';
import { realV2World } from './v2-store-real.ts';

const dir = tempDir('v2-store');
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let clusters = 0;
v2StoreContract('etcd', (members) => realV2World({ dir: join(dir, `etcd-${clusters++}`), members }));
