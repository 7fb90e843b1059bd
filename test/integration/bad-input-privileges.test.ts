import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { type Bench, ENDPOINT, startBench } from './bench.ts';
import { filesInRun, runProgram } from './program.ts';

/** Other users than root could not reach the program where a developer keeps it; reading any file is no help with routes. */
const MAY_READ = ['--inh-caps=+dac_override', '--ambient-caps=+dac_override'];

let bench: Bench;

beforeAll(async () => {
  bench = await startBench();
  await bench.putLease('172.20.1.0/24', '10.211.55.101');
});

afterAll(() => bench?.close());

test.each([
  ['root without CAP_NET_ADMIN', ['setpriv', '--bounding-set=-net_admin', '--']],
  ['nobody', ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', ...MAY_READ, '--']],
])('%s: one line that names the capability, exit code 1, nothing touched', async (_who, through) => {
  const place = { namespace: bench.host.namespace, dir: join(bench.dir, 'unprivileged') };
  const routes = await bench.allRoutes();
  const calls = await bench.etcdCalls();
  const argv = [
    `--etcd-endpoints=${ENDPOINT}`,
    `--etcd-prefix=${PREFIX}`,
    '--iface=eth0',
    '--log-format=json',
  ];
  const { code, stdout, stderr } = await runProgram({ ...place, argv, through });
  expect(code, stderr.join('\n')).toBe(1);
  expect(stdout).toEqual([]);
  expect(stderr).toHaveLength(1);
  expect(stderr[0]).toContain('CAP_NET_ADMIN');
  expect(JSON.parse(stderr[0] ?? '')).toMatchObject({ level: 'error', event: 'fatal' });
  expect(filesInRun(place)).toEqual([]);
  expect(await bench.allRoutes()).toEqual(routes);
  expect(await bench.etcdCalls()).toEqual(calls);
});
