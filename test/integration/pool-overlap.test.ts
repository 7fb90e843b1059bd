import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { startDocker } from '../testbed/docker.ts';
import { until } from '../testbed/netns.ts';
import { HEALTH, useBench } from './bench.ts';

const PEERS = ['172.20.1.0/24 via 10.211.55.101'];

const bench = useBench({ flags: ['--iface=eth0', ...HEALTH] });

beforeAll(async () => {
  await bench.putRoutes(PEERS);
  await bench.host.ip('link add office type bridge');
  await bench.host.ip('addr add 172.20.77.5/24 dev office');
  await bench.host.ip('link set office up');
});

const readyz = async () => (await bench.ask('readyz')).body;

test('R6: a start is refused while a network of the host lies in the pool, both are named, and nothing is touched', async () => {
  const routes = await bench.allRoutes();
  const revision = await bench.revision();
  bench.daemon.launch();
  const { msg } = await bench.daemon.waitForLog((line) => line['what'] === 'pool');
  expect(msg).toMatch(/172\.20\.77\.0\/24 of office .* 172\.20\.10\.0\/24 to 172\.20\.254\.0\/24/);
  expect(await readyz()).toContain('172.20.77.0/24 of office');
  expect(await bench.allRoutes()).toEqual(routes);
  expect(await bench.revision()).toBe(revision);
  await bench.host.ip('link del office');
  await bench.daemon.ready(5_000);
  await bench.haveRoutes(PEERS);
});

test('F7: a docker0 with another subnet is noticed, does not hold up a restart, and Docker’s own restart mends it', async () => {
  const { dockerOptsFile } = bench.daemon;
  const wanted = readFileSync(dockerOptsFile, 'utf8');
  const own = bench.daemon.subnetEnv()['FLANNEL_SUBNET'] ?? '';
  const oldFile = `${dockerOptsFile}.old`;
  mkdirSync(dirname(oldFile), { recursive: true });
  writeFileSync(oldFile, wanted.replace(/--bip=\S+/, '--bip=172.20.9.1/24').replace(own, '172.20.9.1/24'));
  const place = { dir: bench.daemon.options.dir, namespace: bench.host.namespace };
  const before = await startDocker({ ...place, optionsFile: oldFile });
  await before.close();
  const command = 'Run: systemctl restart docker';
  expect(await bench.untilReadyz(200, command, 20_000)).toContain(
    `docker0 has 172.20.9.1/24, and this host's subnet is`,
  );

  await bench.daemon.restart();

  // What the command does: dockerd reads its options again.
  const docker = await startDocker({ ...place, optionsFile: dockerOptsFile });
  bench.onClose(() => docker.close());
  const held = await bench.host.ip('-4 -o addr show dev docker0');
  expect(held).toContain(`inet ${own} `);
  expect(held).not.toContain('172.20.9.1');
  await until(
    async () => !(await readyz()).includes(command),
    15_000,
    () => bench.daemon.process.tail(),
  );
}, 120_000);
