import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { iptablesFolder } from '../testbed/iptables.ts';
import { tempDir } from '../testbed/run.ts';
import { HEALTH, useBench } from './bench.ts';

const PEERS = ['172.20.1.0/24 via 10.211.55.101', '172.20.2.0/24 via 10.211.55.102'];
/** As iptables ends where it has not the right to look. */
const REFUSED = "#!/bin/sh\necho 'iptables: Permission denied (you must be root)' >&2\nexit 4\n";
const PROGRAMS = ['iptables', 'iptables-save', 'iptables-restore'];

const bench = useBench();
/** This machine's iptables. */
let iptables: string;
/** What stands in front of it in the daemon's PATH. */
let inFront: string;

beforeAll(async () => {
  iptables = iptablesFolder('legacy');
  inFront = tempDir('iptables-refused');
  await bench.putRoutes(PEERS);
});
afterAll(async () => {
  for (const folder of [iptables, inFront]) if (folder !== undefined) rmSync(folder, { recursive: true });
});

test('F3: an iptables that fails keeps the daemon from no other work, and is used once it works', async () => {
  for (const program of PROGRAMS) writeFileSync(join(inFront, program), REFUSED, { mode: 0o755 });
  const daemon = bench.makeDaemon('host', {
    flags: ['--iface=eth0', '--ip-masq', '--iptables-resync=1', ...HEALTH],
    env: { PATH: [inFront, iptables, process.env['PATH']].join(':') },
  });
  const nat = () => bench.host.exec(join(iptables, 'iptables-save'), '-t', 'nat');
  const aboutFirewall = (event: string) =>
    daemon.logs.filter((line) => line.event === event && line.msg?.includes('firewall'));
  await daemon.start();
  await bench.haveRoutes(PEERS);
  expect(existsSync(daemon.subnetFile) && existsSync(daemon.dockerOptsFile)).toBe(true);
  await daemon.waitForLog(({ event, msg }) => event === 'trouble' && /^firewall: .*be root/.test(msg ?? ''));
  expect(await nat()).not.toContain('FLANNEL');
  // It follows its peers as ever.
  await bench.putLease('172.20.3.0/24', '10.211.55.103');
  await bench.haveRoutes([...PEERS, '172.20.3.0/24 via 10.211.55.103']);

  for (const program of PROGRAMS) rmSync(join(inFront, program));
  await daemon.waitForLog(({ event, msg }) => event === 'trouble-over' && /firewall/.test(msg ?? ''));
  expect(await nat()).toContain('-A FLANNEL-POSTRTG');
  expect((await bench.ask('readyz')).status).toBe(200);
  // Tried every second, told once.
  expect(aboutFirewall('trouble')).toHaveLength(1);
  expect(aboutFirewall('trouble-over')).toHaveLength(1);
});
