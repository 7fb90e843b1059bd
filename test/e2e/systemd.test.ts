import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { parseEnvironmentFile, splitWords } from '../../src/daemon/options/service-settings.ts';
import { PREFIX } from '../testbed/cluster.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { CONFIG_JSON, DEADLINE_MS, UNIT, useSystemdContainer } from './use-systemd.ts';

const BRIDGE = 'flanneld-migrate.service';
const SUBNET_FILE = '/run/flannel/subnet.env';
/** A Debian server with etcd and Docker as its packages set them up; the tests are an operator's steps, in this order. */
describe('the units on a host with systemd', () => {
  const host = useSystemdContainer();
  let filesBefore: string;

  beforeAll(async () => void (filesBefore = await listFiles()));

  const listFiles = () => host.sh('find /etc /usr /opt -xdev | sort');
  const flannelRoutes = () => host.exec('ip', 'route', 'show', 'proto', 'flannel');
  const setOptions = (flags: string) =>
    host.sh(`sed -i 's/^FLANNEL_OPTIONS=.*/FLANNEL_OPTIONS="${flags}"/' /etc/sysconfig/flanneld`);
  const state = async () => ({
    address: await host.gateway(),
    routes: await flannelRoutes(),
    docker: await host.mainPid('docker.service'),
  });

  test('script/install puts the units in place and starts nothing', async () => {
    const said = await host.exec('/src/script/install');
    expect(said).toContain('systemctl enable --now flanneld');
    // Debian's own unit for Docker is what the drop-in is made for.
    expect(said).not.toContain('note:');
    expect(await host.property(UNIT, 'ActiveState')).toBe('inactive');
    expect(await host.property(UNIT, 'FragmentPath')).toBe('/usr/local/lib/systemd/system/flanneld.service');
    expect(await host.property('docker.service', 'DropInPaths')).toContain('docker.service.d/flannel.conf');
    expect(await host.property(BRIDGE, 'ActiveState')).toBe('inactive');
    expect(await host.property(BRIDGE, 'UnitFileState')).toBe('disabled');
    await host.exec('systemd-analyze', 'verify', UNIT, BRIDGE, 'docker.service');
    const networkd = await host.exec('systemd-analyze', 'cat-config', 'systemd/networkd.conf');
    expect(networkd).toMatch(/^ManageForeignRoutes=no$/m);
  });

  test('systemd-analyze finds the service locked up', async () => {
    const verdict = await host.exec('systemd-analyze', 'security', '--no-pager', UNIT);
    const score = /exposure level for flanneld\.service: ([\d.]+)/.exec(verdict)?.[1];
    expect(Number(score)).toBeGreaterThan(0);
    // 0.1 of it is the packet socket that ARP needs.
    expect(Number(score)).toBeLessThanOrEqual(2.1);
  });

  test('Docker waits as long as flanneld waits for the network configuration, then gets its subnet', async () => {
    await host.systemctl('stop', 'docker.service', 'docker.socket');
    await host.systemctl('enable', '--quiet', UNIT);
    await host.systemctl('start', '--no-block', 'docker.service');
    await host.reach(UNIT, 'ActiveState', 'activating');
    const waiting = async () => (await host.property(UNIT, 'StatusText')).includes('waiting for');
    await until(waiting, DEADLINE_MS, 'the status does not say that it waits');
    expect(await host.property('docker.service', 'ActiveState')).toBe('inactive');
    expect(await host.systemctl('list-jobs')).toMatch(/docker\.service\s+start\s+waiting/);
    expect(await host.read(SUBNET_FILE)).toBeUndefined();

    await host.exec('etcdctl', 'put', `${PREFIX}/config`, CONFIG_JSON);
    // Waits for both jobs: it merges with the one that is under way.
    await host.systemctl('start', 'docker.service');
    expect(await host.property(UNIT, 'ActiveState')).toBe('active');
    const address = await host.gateway();
    expect(address).toMatch(/^172\.20\.\d+\.1\/24$/);
    expect(await host.exec('ip', '-4', '-o', 'address', 'show', 'docker0')).toContain(`inet ${address} `);
  });

  test('active means ready: the files are there when systemctl start returns', async () => {
    await host.systemctl('stop', UNIT);
    await host.sh(`rm -r /run/flannel /run/docker_opts.env`);
    const files = await host.sh(
      `systemctl start ${UNIT}; stat -c '%a %n' ${SUBNET_FILE} /run/docker_opts.env`,
    );
    expect(files).toBe(`644 ${SUBNET_FILE}\n644 /run/docker_opts.env`);
    expect(await host.property(UNIT, 'StatusText')).toContain(
      `subnet ${(await host.gateway())?.replace('.1/', '.0/')}`,
    );
  });

  test('the process has two capabilities, no way to new ones, and a system call filter', async () => {
    const status = await host.exec('cat', `/proc/${await host.mainPid(UNIT)}/status`);
    expect(status).toMatch(/^CapEff:\s0000000000003000$/m);
    expect(status).toMatch(/^CapBnd:\s0000000000003000$/m);
    expect(status).toMatch(/^NoNewPrivs:\s1$/m);
    expect(status).toMatch(/^Seccomp:\s2$/m);
  });

  test('the firewall rules can be set from within the service', async () => {
    await setOptions('--ip-masq');
    await host.systemctl('restart', UNIT);
    let rules = '';
    const jumps = [
      '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
      '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
    ];
    const set = async () => {
      rules = await host.exec('iptables-save');
      return jumps.every((jump) => rules.includes(jump));
    };
    await until(set, DEADLINE_MS, () => rules);
  });

  test('forwarding can be switched on, and nothing else of the kernel is open to it', async () => {
    const forwarding = '/proc/sys/net/ipv4/ip_forward';
    await host.sh(`mount -o remount,rw /proc/sys; echo 0 >${forwarding}`);
    await setOptions('--set-ip-forward');
    await host.systemctl('restart', UNIT);
    const on = async () => (await host.read(forwarding)) === '1';
    await until(on, DEADLINE_MS, 'ip_forward is still 0');
    const mounts = (await host.exec('cat', `/proc/${await host.mainPid(UNIT)}/mountinfo`)).split('\n');
    const settings = mounts
      .map((line) => line.split(' '))
      .filter(([, , , , at = '']) => at.startsWith('/proc/sys'));
    expect(settings.map(([, , , , at, flags = '']) => `${at} ${flags.slice(0, 2)}`).toSorted()).toEqual([
      '/proc/sys ro',
      '/proc/sys/net/ipv4/ip_forward rw',
      '/proc/sys/net/ipv6/conf/all/forwarding rw',
    ]);
    await setOptions('');
    await host.systemctl('restart', UNIT);
  });

  test('a peer gets a route whose protocol iproute2 calls flannel', async () => {
    await host.exec('etcdctl', 'put', leaseKey('172.20.9.0/24'), leaseValue('10.211.55.101'));
    const routed = async () => (await flannelRoutes()) !== '';
    await until(routed, DEADLINE_MS, 'no route');
    expect(await flannelRoutes()).toMatch(/^172\.20\.9\.0\/24 via 10\.211\.55\.101 dev eth0\s*$/);
  });

  test('a stop leaves routes, files and Docker as they are; the next start has the same subnet', async () => {
    const before = await state();
    await host.systemctl('stop', UNIT);
    expect(await host.property(UNIT, 'Result')).toBe('success');
    expect(await state()).toEqual(before);
    await host.systemctl('start', UNIT);
    expect(await state()).toEqual(before);
    await host.systemctl('restart', UNIT);
    expect(await state()).toEqual(before);
  });

  test('a killed daemon is started again, with the same subnet', async () => {
    const before = await state();
    const killed = await host.mainPid(UNIT);
    await host.systemctl('kill', '--signal=KILL', '--kill-who=main', UNIT);
    await host.reach(UNIT, 'NRestarts', '1');
    await host.reach(UNIT, 'ActiveState', 'active');
    expect(await host.mainPid(UNIT)).not.toBe(killed);
    expect(await state()).toEqual(before);
  });

  test('a daemon that hangs is started again by the watchdog, with the same subnet', async () => {
    expect(await host.property(UNIT, 'WatchdogUSec')).toBe('1min');
    const dropIn = `/run/systemd/system/${UNIT}.d`;
    await host.sh(`mkdir -p ${dropIn}; printf '[Service]\nWatchdogSec=4\n' >${dropIn}/watchdog.conf`);
    await host.systemctl('daemon-reload');
    await host.systemctl('restart', UNIT);
    const before = await state();
    const pid = await host.mainPid(UNIT);
    const fedAt = new Set<string>();
    const fedAgain = async () => fedAt.add(await host.property(UNIT, 'WatchdogTimestampMonotonic')).size > 3;
    await until(fedAgain, DEADLINE_MS, 'the watchdog is not fed');
    expect(await host.mainPid(UNIT)).toBe(pid);

    await host.systemctl('kill', '--signal=STOP', '--kill-who=main', UNIT);
    await host.reach(UNIT, 'NRestarts', '1');
    await host.reach(UNIT, 'ActiveState', 'active');
    expect(await host.journal(UNIT)).toMatch(/Watchdog timeout \(limit 4s\)/);
    expect(await host.mainPid(UNIT)).not.toBe(pid);
    expect(await state()).toEqual(before);
    await host.sh(`rm -r ${dropIn}; systemctl daemon-reload`);
  });

  test('flanneld-ts status asks the daemon within its unit, and nobody but root may', async () => {
    expect(await host.exec('flanneld-ts', 'status')).toContain(
      `own lease    ${(await host.gateway())?.replace('.1/', '.0/')}`,
    );
    expect(await host.sh('stat -c %a /run/flannel/subnet.sock')).toBe('600');
    const asNobody = host.sh('setpriv --reuid=65534 --clear-groups flanneld-ts status 2>&1');
    await expect(asNobody).rejects.toThrow(/Only root may read the daemon's status: sudo flanneld-ts status/);
  });

  test("systemd's status line tells of an outage of etcd, and of its end, with the next that status tells", async () => {
    const told = async () => /not watched now/.test(await host.sh('flanneld-ts status || :'));
    const shown = async () => /cannot be watched/.test(await host.property(UNIT, 'StatusText'));
    for (const isOut of [true, false]) {
      await host.systemctl(isOut ? 'stop' : 'start', 'etcd');
      await until(async () => (await told()) === isOut, DEADLINE_MS, `status does not say ${isOut}`);
      await until(async () => (await shown()) === isOut, 2_000, "systemd's line lags behind");
    }
  });

  test('doctor alone looks where the service looks, and says so', async () => {
    const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
    const command = /^sudo (flanneld-ts doctor)$/m.exec(readme)?.[1] ?? '';
    await setOptions('--iface=eth0 --ip-masq');
    await host.systemctl('restart', UNIT);
    const said = await host.sh(`${command} 2>&1`);
    expect(said).toContain('settings of the service: /etc/sysconfig/flanneld\n');
    expect(said).toContain(`${PREFIX}/config: network 172.20.0.0/16`);
    expect(said).toContain('the daemon runs');
    expect(said).toContain('the only peer is routed');
    expect(said).toContain('No problems found.');
    await host.sh("echo 'FLANNEL_ETCD_PREFIX=/elsewhere' >/etc/default/flanneld");
    const other = await host.sh(`${command} 2>&1 || :; rm /etc/default/flanneld`);
    expect(other).toContain(
      'settings of the service: /etc/sysconfig/flanneld and, winning, /etc/default/flanneld\n',
    );
    expect(other).toContain(`A network is configured under ${PREFIX}`);
    await setOptions('');
  });

  test("firewalld is named as what drops containers' packets, and README's command lets them pass", async () => {
    const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
    const command = /`(firewall-cmd --permanent .*? --reload)`/.exec(readme)?.[1] ?? '';
    onTestFinished(async () => {
      await host.sh(`systemctl stop firewalld container peer; rm -f /etc/firewalld/zones/*
        if [ -e /usr/sbin/nft.away ]; then mv /usr/sbin/nft.away /usr/sbin/nft; fi`);
    });
    await host.addPeer({ address: '10.211.55.101', gateway: '172.20.9.1/24' });
    const doctor = () => host.sh('flanneld-ts doctor || :');
    expect(await doctor()).toMatch(/a container of this host, gets answers from 172\.20\.9\.1\nNo problems/);

    await host.sh('mv /usr/sbin/nft /usr/sbin/nft.away; systemctl start firewalld');
    const unseen = await doctor();
    expect(unseen).toMatch(/note +nft is not installed, .*\n.*Install the package nftables/);
    expect(unseen).toMatch(/PROBLEM .* gets no answer from 172\.20\.9\.1, but this host itself does/);
    await host.sh('mv /usr/sbin/nft.away /usr/sbin/nft');
    const seen = await doctor();
    expect(seen).toMatch(/PROBLEM .*: table inet firewalld, chain \w+, rule "reject/);
    expect(seen).toContain(`→ Run: ${command}`);
    let said = '';
    const isReady = async () => (said = await host.sh('flanneld-ts status || :')).includes(': ready');
    // It looks once a minute, and again when its own rules are gone.
    await until(async () => !(await isReady()), 3 * DEADLINE_MS, 'the daemon does not see firewalld');

    await host.sh(command);
    await until(isReady, 2 * DEADLINE_MS, () => said);
    // A reload takes all rules away, iptables' too; the daemon puts its own back.
    let open = '';
    const isOpen = async () => (open = await doctor()).includes('No problems found.');
    await until(isOpen, DEADLINE_MS, () => open);
    expect(open).toContain('a container of this host, gets answers from 172.20.9.1');
  });

  test('environment files and the words of an option are read as systemd reads them', async () => {
    const lines = [
      '# FT_A=comment',
      '; FT_A=comment',
      'FT_A=plain  ',
      ' FT_B = "in quotes" # behind',
      "FT_C='it is $HOME \\ '",
      'FT_D="a \\"b\\" \\$c \\x"',
      'FT_E=one\\ two',
      'no assignment',
      'FT_F=first \\',
      '  second',
      'FT_G="two',
      'lines"',
      'FT_H=',
      "FT_I=-a'b c'-d",
      "FT_J=it\\'s",
      'FT_K=--iface=eth0 --iface-regex="a b" -v 1',
      'FT_L="--iface=eth0 --iface-regex=\\"a  b\\" \'-v 1\' x\\\\ y"',
    ];
    const text = `${lines.join('\n')}\n`;
    await host.sh(`cat >/run/env-test <<'TEXT'\n${text}TEXT`);
    const asked = 'systemd-run --wait --pipe --quiet -p EnvironmentFile=/run/env-test';
    const printed = await host.sh(`${asked} env -0 | tr '\\0' '\\1'`);
    const variables = printed.split('\u0001').map((one) => one.replace(/^\n/, ''));
    const bySystemd = variables.filter((one) => one.startsWith('FT_')).toSorted();
    const byUs = [...parseEnvironmentFile(text)].map(([name, value]) => `${name}=${value}`).toSorted();
    expect(byUs).toEqual(bySystemd);
    const words = await host.sh(`${asked} printf '[%s]' '$FT_L'`);
    expect(
      splitWords(parseEnvironmentFile(text).get('FT_L') ?? '')
        .map((word) => `[${word}]`)
        .join(''),
    ).toBe(words.trim());
  });

  test('the journal has text with priorities, and JSON when asked; the process has its name', async () => {
    const entries = async (...filter: string[]) => {
      const since = `_PID=${await host.mainPid(UNIT)}`;
      const text = await host.exec('journalctl', '--no-pager', '--output=json', ...filter, since);
      const lines = text.split('\n').filter((line) => line.startsWith('{'));
      return lines.map((line): { MESSAGE: string; PRIORITY: string } => JSON.parse(line));
    };
    await setOptions('-logtostderr');
    await host.systemctl('restart', UNIT);
    const warnings = await entries('--priority=warning');
    expect(warnings.map(({ MESSAGE }) => MESSAGE)).toContainEqual(
      expect.stringMatching(/^ignored, because it has no effect here: --logtostderr$/),
    );
    const all = await entries();
    expect(all.filter(({ MESSAGE }) => /^[<{]/.test(MESSAGE))).toEqual([]);
    expect(all).toContainEqual(
      expect.objectContaining({ PRIORITY: '6', MESSAGE: expect.stringMatching(/^ready: subnet /) }),
    );
    expect(warnings.length).toBeLessThan(all.length);
    expect(await host.sh(`systemctl status ${UNIT}`)).toMatch(/Main PID: \d+ \(flanneld-ts\)/);
    expect((await host.exec('pgrep', 'flanneld')).split('\n')).toContain(await host.mainPid(UNIT));
    await setOptions('-logtostderr --log-format=json');
    await host.systemctl('restart', UNIT);
    const json = await entries('--priority=warning');
    expect(json.map(({ MESSAGE }) => JSON.parse(MESSAGE).level)).toContain('warn');
    await setOptions('');
  });

  test.each([
    ['wrong flag', '--no-such-flag', 'unknown flag "--no-such-flag"'],
    ['stray word', 'statsu', 'neither a flag nor a command'],
  ])(
    'a %s fails at once, is not tried again, and leaves routes and Docker alone',
    async (_, word, message) => {
      const before = await state();
      await setOptions(word);
      await expect(host.systemctl('restart', UNIT)).rejects.toThrow(/failed/);
      expect(await host.property(UNIT, 'ActiveState')).toBe('failed');
      expect(await host.property(UNIT, 'ExecMainStatus')).toBe('2');
      const said = await host.sh(`journalctl --no-pager --lines=5 --priority=err --unit=${UNIT}`);
      expect(said).toContain(message);
      expect(await host.property(UNIT, 'NRestarts')).toBe('0');
      expect(await state()).toEqual(before);
      await setOptions('');
    },
  );

  test('without its options Docker does not start', async () => {
    await host.systemctl('stop', 'docker.service', 'docker.socket', UNIT);
    await host.sh('rm /run/docker_opts.env; systemctl mask --quiet --runtime flanneld.service');
    await expect(host.systemctl('start', 'docker.service')).rejects.toThrow();
    expect(await host.property('docker.service', 'ActiveState')).not.toBe('active');
    await host.sh(
      'systemctl unmask --quiet --runtime flanneld.service; systemctl reset-failed docker.service',
    );
    await host.systemctl('start', 'docker.service');
    expect(await host.property(UNIT, 'ActiveState')).toBe('active');
  });

  test("the bridge's unit is active once both stores are alike, and is started again when it is killed", async () => {
    const v2 = (...argv: readonly string[]) => host.exec('env', 'ETCDCTL_API=2', 'etcdctl', ...argv);
    const v3 = (subnet: string) => host.exec('etcdctl', 'get', '--print-value-only', leaseKey(subnet));
    const dropIn = '/run/systemd/system/etcd.service.d';
    await host.sh(
      `mkdir -p ${dropIn}; printf '[Service]\nEnvironment=ETCD_ENABLE_V2=true\n' >${dropIn}/v2.conf`,
    );
    await host.systemctl('daemon-reload');
    await host.systemctl('restart', 'etcd');
    await v2('set', `${PREFIX}/config`, CONFIG_JSON);
    await v2('set', '--ttl', '86400', leaseKey('172.20.8.0/24'), leaseValue('10.211.55.108'));
    await host.systemctl('start', BRIDGE);
    expect(await host.property(BRIDGE, 'ActiveState')).toBe('active');
    expect(await host.property(BRIDGE, 'StatusText')).toBe('1 host on v2, 2 on v3, 0 conflicts');
    expect(await v3('172.20.8.0/24')).toBe(leaseValue('10.211.55.108'));
    expect(await v2('get', leaseKey('172.20.9.0/24'))).toContain('10.211.55.101');
    const status = await host.exec('cat', `/proc/${await host.mainPid(BRIDGE)}/status`);
    expect(status).toMatch(/^CapBnd:\s0000000000000000$/m);
    expect(status).toMatch(/^Seccomp:\s2$/m);

    await host.systemctl('kill', '--signal=KILL', '--kill-who=main', BRIDGE);
    await host.reach(BRIDGE, 'NRestarts', '1');
    const waits = async () => (await host.property(BRIDGE, 'StatusText')).includes('another bridge');
    await until(waits, DEADLINE_MS, 'it does not wait for the lock of the one that was killed');
    // What etcd does 15 s later.
    await host.exec('etcdctl', 'del', `${PREFIX}/bridge`);
    await host.reach(BRIDGE, 'ActiveState', 'active');
    await v2('set', '--ttl', '86400', leaseKey('172.20.7.0/24'), leaseValue('10.211.55.107'));
    const copied = async () => (await v3('172.20.7.0/24')) === leaseValue('10.211.55.107');
    await until(copied, DEADLINE_MS, 'it does not go on');

    await host.systemctl('stop', BRIDGE);
    expect(await host.property(BRIDGE, 'Result')).toBe('success');
    expect(await v3('172.20.7.0/24')).toBe(leaseValue('10.211.55.107'));
    await host.systemctl('start', BRIDGE);
  });

  test('--uninstall refuses while the daemon runs, then removes all that was installed', async () => {
    await expect(host.exec('/src/script/install', '--uninstall')).rejects.toThrow(/disable --now flanneld/);
    await host.systemctl('disable', '--quiet', '--now', UNIT);
    await host.exec('/src/script/install', '--uninstall');
    expect(await listFiles()).toBe(filesBefore);
    expect(await host.property(UNIT, 'LoadState')).toBe('not-found');
    expect(await host.property(BRIDGE, 'LoadState')).toBe('not-found');
    expect(await host.property(BRIDGE, 'ActiveState')).toBe('inactive');
    expect(await flannelRoutes().catch(() => '')).toBe('');
  });
});
