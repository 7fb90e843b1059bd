import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CONFIG } from '../testbed/cluster.ts';
import type { DaemonProcess, LogRecord } from '../testbed/daemon.ts';
import { type Bench, startBench } from './bench.ts';

const backend = { Type: 'host-gw' };
const network = '172.20.0.0/16';

/** What is wrong, as text or as an object, and what the line has to say: the key, the value, the rule. */
type Wrong = readonly [config: string | object, said: readonly string[]];

/** Up to five to a daemon, one after the other: so many new things about one trouble are said at once. */
const RULES: Readonly<Record<string, readonly Wrong[]>> = {
  'no JSON object': [
    ['', ['JSON object', 'empty']],
    ['Network: 172.20.0.0/16', ['JSON object', 'Network: 172.20.0.0/16']],
    [`{"Network":"${network}"`, ['JSON object', network]],
    [`[{"Network":"${network}"}]`, ['JSON object']],
    ['\u001b[2J\u0007', ['JSON object', '\\u001b']],
  ],
  Network: [
    [{ Backend: backend }, ['Network is missing', 'required']],
    [{ Netwrok: network, Backend: backend }, ['Network is missing', 'Netwrok']],
    [{ Network: '172.20.0.0', Backend: backend }, ['Network', '172.20.0.0', 'address/length']],
    [{ Network: '172.020.0.0/16', Backend: backend }, ['Network', '172.020.0.0/16', 'address/length']],
    [{ Network: '172.20.0.0/29', Backend: backend }, ['Network', '172.20.0.0/29', '/28']],
  ],
  'more of Network': [
    [{ Network: '0.0.0.0/0', Backend: backend }, ['Network', '0.0.0.0/0']],
    [{ Network: 'fc00::/48', Backend: backend }, ['Network', 'fc00::/48', 'IPv4']],
    [{ Network: 16, Backend: backend }, ['Network', '16', 'in quotes']],
  ],
  SubnetLen: [
    [{ Network: network, SubnetLen: '24', Backend: backend }, ['SubnetLen', '"24"', 'whole number']],
    [{ Network: network, SubnetLen: 24.5, Backend: backend }, ['SubnetLen', '24.5', 'whole number']],
    [{ Network: network, SubnetLen: -24, Backend: backend }, ['SubnetLen', '-24', 'whole number']],
    [{ Network: network, SubnetLen: 31, Backend: backend }, ['SubnetLen', '31', 'at most 30']],
    [{ Network: network, SubnetLen: 17, Backend: backend }, ['SubnetLen', '17', 'at least 18']],
  ],
  'SubnetMin and SubnetMax': [
    [{ Network: network, SubnetMin: '10.0.0.0', Backend: backend }, ['SubnetMin', '10.0.0.0', network]],
    [{ Network: network, SubnetMax: '172.21.0.0', Backend: backend }, ['SubnetMax', '172.21.0.0', network]],
    [{ Network: network, SubnetMin: '172.20.10.5', Backend: backend }, ['SubnetMin', '172.20.10.5', 'first']],
    [{ Network: network, SubnetMin: '172.20.10.0/24', Backend: backend }, ['SubnetMin', '172.20.10.0/24']],
    [
      { Network: network, SubnetMin: '172.20.9.0', SubnetMax: '172.20.8.0', Backend: backend },
      ['SubnetMin 172.20.9.0', 'above', 'SubnetMax 172.20.8.0'],
    ],
  ],
  Backend: [
    [{ Network: network }, ['Backend is missing', 'host-gw']],
    [{ Network: network, Backend: 'host-gw' }, ['Backend', '"host-gw"', 'object']],
    [{ Network: network, Backend: {} }, ['Backend.Type is missing', 'host-gw']],
    [{ Network: network, Backend: { Type: 'vxlan' } }, ['Backend.Type', 'vxlan', 'host-gw']],
    [{ Network: network, Backend: { Type: 7 } }, ['Backend.Type', '7', 'host-gw']],
  ],
  families: [
    [{ Network: network, EnableIPv4: 'yes', Backend: backend }, ['EnableIPv4', 'yes', 'true or false']],
    [{ Network: network, EnableIPv6: 1, Backend: backend }, ['EnableIPv6', '1', 'true or false']],
    [{ Network: network, EnableIPv4: false, Backend: backend }, ['EnableIPv4', 'at least one family']],
    [{ Network: network, EnableIPv6: true, Backend: backend }, ['IPv6Network is missing', 'required']],
  ],
};

let bench: Bench;

beforeAll(async () => {
  bench = await startBench({ config: null, etcdArgs: ['--enable-v2'] });
});

afterAll(() => bench?.close());

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

// Each waits most of the time.
test.concurrent.each(Object.entries(RULES))(
  'a configuration wrong in %s is waited out',
  async (name, rules) => {
    const prefix = `/bad/${name.replaceAll(' ', '-')}`;
    const daemon = daemonAt(prefix);
    for (const [index, [config, said]] of rules.entries()) {
      await put(prefix, typeof config === 'string' ? config : JSON.stringify(config));
      if (index === 0) daemon.launch();
      await daemon.waitForLog(() => troubles(daemon).length > index, 10_000);
      const line = troubles(daemon).at(-1)?.msg;
      for (const text of [`${prefix}/config`, ...said]) expect(line).toContain(text);
    }
    // Asked for again every second, told once.
    await sleep(2_500);
    expect(troubles(daemon)).toHaveLength(rules.length);
    expect(daemon.running).toBe(true);
    expect(await bench.etcd.ctl('get', '--prefix', '--keys-only', `${prefix}/subnets/`)).toBe('');
    await put(prefix, JSON.stringify(CONFIG));
    await expectServing(daemon, /^172\.20\.\d+\.1\/24$/);
  },
);

test('no configuration at all is waited out: one line with the key, the place and what to do', async () => {
  const daemon = daemonAt('/none');
  daemon.launch();
  const line = await daemon.waitForLog('trouble');
  for (const text of ['/none/config', 'http://127.0.0.1:2379', 'etcdctl put /none/config']) {
    expect(line.msg).toContain(text);
  }
  await sleep(2_500);
  expect(troubles(daemon)).toHaveLength(1);
  await put('/none', JSON.stringify(CONFIG));
  await expectServing(daemon, /^172\.20\./);
});

test('a configuration in the v2 store is told of', async () => {
  await bench.etcd.first.ctlV2('set', '/old/network/config', JSON.stringify(CONFIG));
  const daemon = daemonAt('/old/network');
  daemon.launch();
  const line = await daemon.waitForLog('trouble');
  for (const text of ['/old/network/config', 'v3 API', 'The v2 store', 'ETCDCTL_API=2 etcdctl get']) {
    expect(line.msg).toContain(text);
  }
  expect((await daemon.stop()).code).toBe(0);
});

test('a wrong prefix is told together with the one that lies near', async () => {
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
