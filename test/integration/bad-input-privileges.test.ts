import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { ENDPOINT, useBench } from './bench.ts';
import { filesInRun, runProgram } from './program.ts';

/** Other users than root could not reach the program where a developer keeps it; reading any file is no help with routes. */
const MAY_READ = ['--inh-caps=+dac_override', '--ambient-caps=+dac_override'];

const bench = useBench();

beforeAll(async () => {
  await bench.putLease('172.20.1.0/24', '10.211.55.101');
});

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

const withoutNetlink = [process.execPath, join(import.meta.dirname, '../testbed/without-netlink.ts')];

test.each([
  ['the daemon', [`--etcd-prefix=${PREFIX}`, '--iface=eth0', '--log-format=json']],
  ['cleanup', ['cleanup', '--routes']],
  ['doctor', ['doctor', `--etcd-prefix=${PREFIX}`, '--iface=eth0']],
  ['lease release', ['lease', 'release', `--etcd-prefix=${PREFIX}`, '--iface=eth0']],
])(
  '%s without netlink sockets: one line that says what to allow, exit code 1, nothing touched',
  async (_, argv) => {
    const place = { namespace: bench.host.namespace, dir: join(bench.dir, 'no-netlink') };
    const before = [await bench.allRoutes(), await bench.revision()];
    const env = { FLANNELD_ETCD_ENDPOINTS: ENDPOINT };
    const { code, stdout, stderr } = await runProgram({ ...place, argv, through: withoutNetlink, env });
    expect(code, stderr.join('\n')).toBe(1);
    expect([...stdout, ...stderr]).toHaveLength(1);
    expect(stderr[0]).toMatch(
      /cannot open a netlink socket: socket: EAFNOSUPPORT\. .*RestrictAddressFamilies=/,
    );
    expect(filesInRun(place)).toEqual([]);
    expect([await bench.allRoutes(), await bench.revision()]).toEqual(before);
  },
);

test('cleanup and lease release do without netlink sockets what needs none', async () => {
  const place = { namespace: bench.host.namespace, dir: join(bench.dir, 'no-netlink') };
  const run = (...argv: string[]) =>
    runProgram({ ...place, argv, through: withoutNetlink, env: { FLANNELD_ETCD_ENDPOINTS: ENDPOINT } });
  const released = await run('lease', 'release', '172.20.1.0/24', `--etcd-prefix=${PREFIX}`, '--force');
  expect(released.code, released.stderr.join('\n')).toBe(0);
  expect((await run('cleanup')).stderr.join('\n')).not.toContain('cannot open a netlink socket');
});
