import { mkdirSync, rmdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import { HEALTH, useBench } from './bench.ts';
import { runProgram } from './program.ts';

// What /healthz and /readyz say through the life of one daemon: liveness is never withdrawn, readiness tells the truth.

const PEER = '172.20.1.0/24 via 10.211.55.101';

const bench = useBench({ flags: ['--iface=eth0', ...HEALTH] });

/** Waits for /readyz to answer so; /healthz says 200 all the while. */
async function readyz(status: 200 | 503, text: string | RegExp): Promise<void> {
  await bench.untilReadyz(status, text);
  expect(await bench.ask('healthz')).toEqual({ status: 200, body: 'flanneld is running' });
}

test('is served before etcd answers, and says that it waits for it', async () => {
  await bench.etcd.first.kill();
  bench.daemon.launch();
  await bench.daemon.waitForLog('health-listening');
  await readyz(503, /^flanneld is not ready\nwaiting for etcd: .*127\.0\.0\.1:2379/);
  await bench.etcd.first.start();
});

test('is ready once everything is done', async () => {
  await bench.daemon.ready();
  await readyz(200, /^flanneld is ready$/);
});

test('gives Prometheus its figures', async () => {
  const { status, body } = await bench.ask('metrics');
  expect(status).toBe(200);
  for (const sample of ['flannel_ready 1', 'flannel_lease_watch_up 1', 'flannel_own_lease{state="held"} 1'])
    expect(body.split('\n')).toContain(sample);
  // The boot's calls are in it, although nobody had asked for metrics then.
  expect(body).toMatch(/^flannel_etcd_request_duration_seconds_count\{call="txn"\} [1-9]/m);
  expect(body).toMatch(
    /^flannel_etcd_errors_total\{endpoint="http:\/\/127\.0\.0\.1:2379",call="txn",kind="UNAVAILABLE"\}/m,
  );
  expect(body).toMatch(/^flannel_own_lease_remaining_seconds 8\d{4}/m);
  expect(body).toMatch(/^flannel_build_info\{version="\d+\.\d+\.\d+"\} 1$/m);
  expect(body).toMatch(/^process_open_fds \d+$/m);
});

test('names a peer whose gateway is not on a connected network, and routes to it once one is', async () => {
  const far = '172.20.2.0/24 via 192.0.2.9';
  const noRoute =
    /^flanneld is ready\n172\.20\.2\.0\/24: no route: 192\.0\.2\.9 is not on eth0's network 10\.211\.55\.0\/24/;
  await bench.putRoutes([PEER, far]);
  await readyz(200, noRoute);
  await bench.removeLease('172.20.2.0/24');
  await readyz(200, /^flanneld is ready$/);
  await bench.putRoutes([far]);
  await readyz(200, noRoute);
  expect(await bench.ourRoutes()).toEqual([PEER]);
  await bench.host.ip('addr add 192.0.2.1/24 dev eth0');
  await bench.haveRoutes([PEER, far]);
  await readyz(200, /^flanneld is ready$/);
  await bench.removeLease('172.20.2.0/24');
  await bench.haveRoutes([PEER]);
  await bench.host.ip('addr del 192.0.2.1/24 dev eth0');
});

test('is not ready while etcd is away, and ready again', async () => {
  await bench.etcd.first.kill();
  await readyz(503, /cannot be watched/);
  await bench.etcd.first.start();
  await readyz(200, /^flanneld is ready$/);
  await bench.haveRoutes([PEER]);
});

test('stays ready while an edited configuration waits for a restart, and says so', async () => {
  const edited = { ...CONFIG, SubnetMax: '172.20.99.0' };
  await bench.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(edited));
  await readyz(200, /^flanneld is ready\n.*SubnetMax 172\.20\.254\.0 → 172\.20\.99\.0.*restart/);
  await bench.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify({ ...CONFIG, SubnetLen: 31 }));
  await readyz(200, /^flanneld is ready\n.*cannot be used: SubnetLen is 31/);
  await bench.etcd.ctl('del', `${PREFIX}/config`);
  await readyz(200, /^flanneld is ready\n.*was deleted/);
  await bench.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(CONFIG));
  await readyz(200, /^flanneld is ready$/);
  const lines = bench.daemon.logs.filter(({ msg }) => msg?.includes('the network configuration') ?? false);
  expect(lines.map(({ level }) => level)).toEqual(['warn', 'warn', 'warn']);
  expect(bench.daemon.logs.filter(({ event }) => event === 'file-written')).toHaveLength(2);
});

test('stays ready with a notice for the operator, and names it', async () => {
  const advised = bench.makeDaemon('advised', {
    prefix: '/advised',
    flags: [
      '--iface=eth0',
      '--healthz-ip=127.0.0.1',
      '--healthz-port=8473',
      '--etcd-username=flannel',
      '--etcd-password=hunter2',
    ],
  });
  const config = { ...CONFIG, Network: '172.22.0.0/16', SubnetMin: undefined, SubnetMax: undefined };
  await bench.etcd.ctl('put', '/advised/config', JSON.stringify(config));
  const socket = advised.subnetFile.replace('.env', '.sock');
  mkdirSync(socket, { recursive: true });
  await advised.start();
  const ask = () => bench.get('http://127.0.0.1:8473/readyz');
  const { status, body } = await ask();
  expect([status, body.split('\n').toSorted()]).toEqual([
    200,
    [
      expect.stringMatching(/^cannot serve flanneld-ts status at .*: the path is a file/),
      expect.stringMatching(/authentication disabled: user flannel/),
      'flanneld is ready',
    ],
  ]);
  rmdirSync(socket);
  await until(async () => !(await ask()).body.includes('cannot serve'), 30_000, 'the socket is not served');
  const { stdout } = await runProgram({ ...advised.options, argv: ['status'] });
  expect(stdout.join('\n')).toMatch(/: ready\n[^]*\nnotices:\n {2}.*authentication disabled/);
});
