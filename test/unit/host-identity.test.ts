import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { hostIdentity } from '../../src/daemon/host/processes.ts';

const module = join(import.meta.dirname, '../../src/daemon/host/processes.ts');

/** The identity as another process sees it. */
function elsewhere(prefix: string): number {
  const code = `import { hostIdentity } from ${JSON.stringify(module)}; console.log(hostIdentity(${JSON.stringify(prefix)}))`;
  return Number(execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' }));
}

it('is the same in every process of a host, and another one for another prefix', () => {
  const identity = hostIdentity('/coreos.com/network');
  expect(elsewhere('/coreos.com/network')).toBe(identity);
  expect(hostIdentity('/atomic.io/network')).not.toBe(identity);
  expect(Number.isInteger(identity) && identity >= 0 && identity < 2 ** 31).toBe(true);
});
