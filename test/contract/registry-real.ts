import { rmSync } from 'node:fs';
import { afterAll, onTestFinished } from 'vitest';
import { systemClock } from '../../src/daemon/system-clock.ts';
import { connectMember } from '../../src/subnet/etcd/member.ts';
import type { Registry } from '../../src/subnet/registry.ts';
import { tempDir } from '../testbed/run.ts';

/** A folder for the test file that calls this, removed when the file is done. */
export function temporaryFolder(): string {
  const dir = tempDir('registry');
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** A connection that lasts as long as the test. Deadline: 1 s. */
export function connect(endpoint: string): Registry {
  const registry = connectMember(endpoint, { clock: systemClock, deadlineMs: 1_000 });
  onTestFinished(() => registry.close());
  return registry;
}
