import { expect, test } from 'vitest';
import { CONFIG } from '../testbed/cluster.ts';
import type { DaemonProcess, LogRecord } from '../testbed/daemon.ts';
import { until } from '../testbed/netns.ts';
import { useBench } from './bench.ts';

const network = '172.20.0.0/16';

/** What is wrong, and what the line has to say. Which configurations are wrong is for the unit tests. */
const WRONG: readonly (readonly [config: string, said: readonly string[]])[] = [
  ['', ['JSON object', 'empty']],
  ['\u001b[2J\u0007', ['JSON object', '\\u001b']],
  [`{"Network":"${network}","SubnetLen":31,"Backend":{"Type":"host-gw"}}`, ['SubnetLen', '31', 'at most 30']],
  [`{"Network":"${network}","Backend":{"Type":"vxlan"}}`, ['Backend.Type', 'vxlan', 'host-gw']],
];

const bench = useBench({ config: null, etcdArgs: ['--enable-v2'] });

const put = (prefix: string, text: string) => bench.etcd.ctl('put', '--', `${prefix}/config`, text);

/** A daemon with a prefix of its own, and its network with it. */
function daemonAt(prefix: string): DaemonProcess {
  return bench.makeDaemon(prefix.replaceAll('/', ''), { prefix });
}

const troubles = (daemon: DaemonProcess): readonly LogRecord[] =>
  daemon.logs.filter(({ event, what }) => event === 'trouble' && what === 'config');

async function expectServing(daemon: DaemonProcess, subnets: RegExp): Promise<void> {
  await daemon.ready();
  expect(daemon.logs.find(({ event }) => event === 'trouble-over')?.['what']).toBe('config');
  expect(daemon.subnetEnv()['FLANNEL_SUBNET']).toMatch(subnets);
  expect((await daemon.stop()).code).toBe(0);
}

/** It asks for the configuration every second, and says the same once: two more questions are enough to see that. */
async function askedAgain(): Promise<void> {
  const asked = async () => (await bench.etcdCalls()).get('Range') ?? 0;
  const before = await asked();
  await until(async () => (await asked()) >= before + 2, 20_000, 'it does not ask again');
}

test('a wrong configuration: one line for each fault; the daemon waits for a correct one', async () => {
  const daemon = daemonAt('/bad');
  for (const [index, [config, said]] of WRONG.entries()) {
    await put('/bad', config);
    if (index === 0) daemon.launch();
    await daemon.waitForLog(() => troubles(daemon).length > index, 10_000);
    const line = troubles(daemon).at(-1)?.msg;
    for (const text of ['/bad/config', ...said]) expect(line).toContain(text);
  }
  await askedAgain();
  expect(troubles(daemon)).toHaveLength(WRONG.length);
  expect(daemon.running).toBe(true);
  expect(await bench.etcd.ctl('get', '--prefix', '--keys-only', '/bad/subnets/')).toBe('');
  await put('/bad', JSON.stringify(CONFIG));
  await expectServing(daemon, /^172\.20\.\d+\.1\/24$/);
});

test('no configuration at all: one line with the key, the endpoint and the command to type; the daemon waits', async () => {
  const daemon = daemonAt('/none');
  daemon.launch();
  const line = await daemon.waitForLog('trouble');
  for (const text of ['/none/config', 'http://127.0.0.1:2379', 'etcdctl put /none/config']) {
    expect(line.msg).toContain(text);
  }
  await askedAgain();
  expect(troubles(daemon)).toHaveLength(1);
  await put('/none', JSON.stringify(CONFIG));
  await expectServing(daemon, /^172\.20\./);
});

test('a configuration in etcd’s v2 store: the daemon names the store and the command that reads it', async () => {
  await bench.etcd.first.ctlV2('set', '/old/network/config', JSON.stringify(CONFIG));
  const daemon = daemonAt('/old/network');
  daemon.launch();
  const line = await daemon.waitForLog('trouble');
  for (const text of ['/old/network/config', 'v3 API', 'The v2 store', 'ETCDCTL_API=2 etcdctl get']) {
    expect(line.msg).toContain(text);
  }
  expect((await daemon.stop()).code).toBe(0);
});

test('a wrong prefix: the daemon names it and the prefix that has a configuration', async () => {
  await bench.etcd.ctl('del', '--prefix', '/');
  await put('/right/network', JSON.stringify(CONFIG));
  const daemon = daemonAt('/wrong/network');
  daemon.launch();
  const line = await daemon.waitForLog('trouble');
  for (const text of ['/wrong/network/config', '/right/network', '--etcd-prefix']) {
    expect(line.msg).toContain(text);
  }
  expect((await daemon.stop()).code).toBe(0);
});
