import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeRealFirewall } from '../contract/firewall-real.ts';
import { CheckedFirewall, type FirewallWorld, ipv4, Operator } from '../contract/firewall-world.ts';
import { RunningProcess } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';

const dir = tempDir('firewall-lock');
const lockFile = join(dir, 'xtables.lock');
let world: FirewallWorld;

beforeAll(async () => {
  // Not the machine's own, which all namespaces share.
  process.env['XTABLES_LOCKFILE'] = lockFile;
  writeFileSync(lockFile, '');
  world = await makeRealFirewall('legacy');
});
afterAll(async () => {
  delete process.env['XTABLES_LOCKFILE'];
  await world?.close();
  rmSync(dir, { recursive: true, force: true });
});

test('another program holds the lock: the check waits for a limited time, names the remedy, and the next one sets the rules', async () => {
  const holder = new RunningProcess([
    'flock',
    '--no-fork',
    lockFile,
    'sh',
    '-c',
    'echo held; exec sleep 1000',
  ]);
  await holder.waitFor((lines) => lines.find((line) => line === 'held'), 10_000, 'holding the lock');
  const firewall = new CheckedFirewall(world, { networks: { ipv4 }, masquerade: false });
  try {
    await firewall.check();
    expect(firewall.messages('trouble')).toEqual([
      expect.stringMatching(/xtables lock.*fuser \/run\/xtables\.lock/),
    ]);
    expect(await new Operator(world).rules('filter')).toEqual([]);
  } finally {
    await holder.stop('SIGKILL');
  }
  await firewall.check();
  expect(firewall.trouble.current).toEqual([]);
  expect(await new Operator(world).rules('filter')).toHaveLength(3);
});
