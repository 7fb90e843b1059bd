import { rmSync } from 'node:fs';
import { afterAll, onTestFinished } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimLog } from '../../sim/log.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import type { Clock } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { EtcdMember } from '../../src/subnet/etcd/member.ts';
import { EtcdSecurity, type SecurityOptions } from '../../src/subnet/etcd/security.ts';
import type { Registry } from '../../src/subnet/registry/registry.ts';
import { PREFIX } from '../testbed/cluster.ts';
import { tempDir } from '../testbed/run.ts';

/** A folder for the test file that calls this, removed when the file is done. */
export function temporaryFolder(): string {
  const dir = tempDir('etcd-access');
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export interface Client {
  readonly registry: Registry;
  readonly security: EtcdSecurity;
  /** What it has logged. */
  readonly said: () => readonly string[];
}

/** A connection as the daemon makes one; lasts as long as the test. */
export function connectTo(
  endpoint: string,
  options: Pick<SecurityOptions, 'tls' | 'user' | 'systemCas'>,
  clock: Clock = systemClock,
): Client {
  const log = new SimLog(new VirtualClock());
  const notices = new TroubleLog(clock, log.of('host'));
  const security = new EtcdSecurity({
    ...options,
    etcdPrefix: PREFIX,
    files: nodeFiles,
    clock,
    log: log.of('host'),
    notices,
  });
  const registry = new EtcdMember(endpoint, { clock: systemClock, security });
  onTestFinished(() => registry.close());
  return { registry, security, said: () => log.lines.map(({ message }) => message) };
}
