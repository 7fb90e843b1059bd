import { beforeAll, expect, test } from 'vitest';
import { until } from '../testbed/netns.ts';
import { HEALTH, useBench } from './bench.ts';

// Whether this host passes packets on, by the kernel's own settings, while the daemon runs.

const FORWARD = 'net.ipv4.ip_forward';

const bench = useBench({ flags: ['--iface=eth0', ...HEALTH] });

beforeAll(async () => {
  await bench.daemon.start();
});

const set = (name: string, value: 0 | 1) => bench.host.exec('sysctl', '-qw', `${name}=${value}`);
test.each([FORWARD, 'net.ipv4.conf.eth0.forwarding'])(
  'a host is not ready while %s is off, and says what to run',
  async (name) => {
    await bench.untilReadyz(200);
    await set(name, 0);
    expect(await bench.untilReadyz(503)).toMatch(
      new RegExp(
        `^flanneld is not ready\\nIPv4 forwarding is off \\(${name} = 0\\).*Run: sysctl -w ${name}=1$`,
      ),
    );
    await set(name, 1);
    await bench.untilReadyz(200);
  },
);

test('forwarding is switched on again, logged and counted when the daemon is asked to', async () => {
  await bench.daemon.stop();
  const flags = ['--iface=eth0', '--set-ip-forward', '--healthz-ip=127.0.0.1', '--healthz-port=8472'];
  const daemon = bench.makeDaemon('setting', { flags });
  await set(FORWARD, 0);
  await daemon.start();
  const value = async () => (await bench.host.exec('cat', '/proc/sys/net/ipv4/ip_forward')).trim();
  expect(await value()).toBe('1');
  await set(FORWARD, 0);
  await until(async () => (await value()) === '1', 30_000, 'it stays off');
  // The value is there a moment before the line that says so.
  const lines = () => daemon.logs.filter(({ event }) => event === 'forwarding-set').length;
  await until(
    () => lines() === 2,
    10_000,
    () => `${lines()} lines say that forwarding was set`,
  );
  const { body } = await bench.get('http://127.0.0.1:8472/metrics');
  expect(body).toMatch(/^flannel_forwarding_set_total\{family="ipv4"\} 2$/m);
});
