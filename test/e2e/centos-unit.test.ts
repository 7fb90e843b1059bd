import { beforeAll, describe, expect, test } from 'vitest';
import { until } from '../testbed/netns.ts';
import { HOST_FILES, installCentosPackage, writeFile } from './centos-package.ts';
import { CONFIG_JSON, DEADLINE_MS, UNIT, useSystemdContainer } from './use-systemd.ts';

const OPTIONS_FILE = '/run/flannel/docker';

/** A host as the packages of CentOS 7 set it up, on which only the daemon is exchanged; the tests are steps, in this order. */
describe('the unit of the flannel 0.7.1 package, unchanged', () => {
  const host = useSystemdContainer();
  let hostFiles: string;

  beforeAll(async () => {
    await host.systemctl('stop', 'docker.service', 'docker.socket');
    await installCentosPackage(host);
    hostFiles = await checksums();
  });

  const checksums = () => host.exec('sha256sum', ...HOST_FILES, '/etc/sysconfig/flanneld');
  const wordsOf = async (unit: string) =>
    (await host.exec('xargs', '-0', '-n1', '-a', `/proc/${await host.mainPid(unit)}/cmdline`)).split('\n');
  const seen = async () => ({ docker: await host.mainPid('docker.service'), address: await host.gateway() });

  test('script/install --as-flanneld changes none of its files', async () => {
    const said = await host.exec('/src/script/install', '--as-flanneld');
    expect(said).toContain('set aside: your /usr/bin/flanneld');
    expect(await checksums()).toBe(hostFiles);
    expect(await host.property(UNIT, 'FragmentPath')).toMatch(
      /^(?:\/usr)?\/lib\/systemd\/system\/flanneld\.service$/,
    );
    expect(await host.property('docker.service', 'Requires')).toContain(UNIT);
  });

  test('with nothing set docker waits for it, then comes up with the subnet of the default prefix', async () => {
    await host.systemctl('start', '--no-block', 'docker.service');
    await host.reach(UNIT, 'ActiveState', 'activating');
    const waiting = async () => (await host.property(UNIT, 'StatusText')).includes('waiting for');
    await until(waiting, DEADLINE_MS, 'the status does not say that it waits');
    expect(await host.property('docker.service', 'ActiveState')).toBe('inactive');
    await host.exec('etcdctl', 'put', '/coreos.com/network/config', CONFIG_JSON);
    // Waits for both jobs: it merges with the one that is under way.
    await host.systemctl('start', 'docker.service');
    expect(await host.property(UNIT, 'ActiveState')).toBe('active');
    expect((await wordsOf(UNIT)).slice(-2)).toEqual(['-etcd-endpoints=', '-etcd-prefix=']);
    const address = await host.gateway();
    expect(address).toMatch(/^172\.20\.\d+\.1\/24$/);
    expect(await wordsOf('docker.service')).toContain(`--bip=${address}`);
    expect(await host.exec('ip', '-4', '-o', 'address', 'show', 'docker0')).toContain(`inet ${address} `);
  });

  test('it notifies as the main process, and ExecStartPost has written docker its options', async () => {
    expect(await host.property(UNIT, 'NotifyAccess')).toBe('main');
    expect(await host.property(UNIT, 'StatusText')).toContain('no other host has joined yet');
    const address = await host.gateway();
    expect(await host.read(OPTIONS_FILE)).toBe(
      [
        `DOCKER_OPT_BIP="--bip=${address}"`,
        'DOCKER_OPT_IPMASQ="--ip-masq=true"',
        'DOCKER_OPT_MTU="--mtu=1500"',
        `DOCKER_NETWORK_OPTIONS=" --bip=${address} --ip-masq=true --mtu=1500"`,
      ].join('\n'),
    );
  });

  test('a restart between disable and enable leaves docker alone, as the installer says', async () => {
    const before = await seen();
    const flanneld = await host.mainPid(UNIT);
    await host.sh(
      'systemctl disable --quiet flanneld; systemctl restart flanneld; systemctl enable --quiet flanneld',
    );
    expect(await host.mainPid(UNIT)).not.toBe(flanneld);
    expect(await seen()).toEqual(before);
    expect(await host.property('docker.service', 'Requires')).toContain(UNIT);
  });

  test.each([
    ['the names of 0.7', 'FLANNEL_ETCD_ENDPOINTS', 'FLANNEL_ETCD_PREFIX'],
    ['the names before', 'FLANNEL_ETCD', 'FLANNEL_ETCD_KEY'],
  ])(
    'sysconfig with %s reaches the program, and a value for docker is kept in front',
    async (_, endpoints, prefix) => {
      await host.exec(
        'etcdctl',
        'put',
        '/atomic.io/network/config',
        CONFIG_JSON.replaceAll('172.20.', '172.21.'),
      );
      await writeFile(
        host,
        '/etc/sysconfig/flanneld',
        `${endpoints}="http://127.0.0.1:2379"\n${prefix}="/atomic.io/network"\nFLANNEL_OPTIONS="-iface=eth0 -ip-masq"\n`,
      );
      await writeFile(
        host,
        '/etc/sysconfig/docker-network',
        'DOCKER_NETWORK_OPTIONS="--label=from=sysconfig"\n',
      );
      hostFiles = await checksums();
      await host.systemctl('restart', 'docker.service', UNIT);
      expect((await wordsOf(UNIT)).slice(-4)).toEqual([
        '-etcd-endpoints=http://127.0.0.1:2379',
        '-etcd-prefix=/atomic.io/network',
        '-iface=eth0',
        '-ip-masq',
      ]);
      const address = await host.gateway();
      expect(address).toMatch(/^172\.21\./);
      expect(await host.read(OPTIONS_FILE)).toContain(
        `DOCKER_NETWORK_OPTIONS="--label=from=sysconfig  --bip=${address} --ip-masq=false --mtu=1500"`,
      );
      expect(await host.exec('iptables-save', '-t', 'nat')).toContain('-j MASQUERADE --random-fully');
      const dockerd = await wordsOf('docker.service');
      expect(dockerd).toEqual(expect.arrayContaining(['--label=from=sysconfig', `--bip=${address}`]));
    },
  );

  test('a stray word behind the flags of flanneld-start starts no daemon', async () => {
    const typed = (...words: string[]) => host.exec('/usr/bin/flanneld-start', ...words);
    await expect(typed('statsu')).rejects.toThrow(/is neither a flag nor a command. Did you mean status\?/);
    await expect(typed('-ip-masq', 'true', '-iface=eth0')).rejects.toThrow(
      /--ip-masq takes no separate value: write --ip-masq, --ip-masq=true or --ip-masq=false/,
    );
    await expect(typed()).rejects.toThrow(
      /a daemon \(pid \d+\) already runs with \/run\/flannel\/subnet\.env/,
    );
  });

  test('a killed daemon is started again', async () => {
    const killed = await host.mainPid(UNIT);
    await host.systemctl('kill', '--signal=KILL', '--kill-who=main', UNIT);
    await host.reach(UNIT, 'NRestarts', '1');
    await host.reach(UNIT, 'ActiveState', 'active');
    expect(await host.mainPid(UNIT)).not.toBe(killed);
    await host.reach('docker.service', 'ActiveState', 'active');
  });

  test("--uninstall puts the package's programs back, with docker running all the while", async () => {
    const dockerPid = await host.mainPid('docker.service');
    await expect(host.exec('/src/script/install', '--as-flanneld', '--uninstall')).rejects.toThrow(
      /disable --now flanneld/,
    );
    await host.systemctl('disable', '--quiet', '--now', UNIT);
    const said = await host.exec('/src/script/install', '--as-flanneld', '--uninstall');
    expect(said).toContain('put back: /usr/bin/flanneld');
    expect(await host.read('/usr/bin/flanneld')).toContain('the flanneld of the package');
    expect(await checksums()).toBe(hostFiles);
    expect(await host.mainPid('docker.service')).toBe(dockerPid);
    // It is started again with the rest of the host's set-up, and is the package's.
    await host.systemctl('enable', '--quiet', UNIT);
    await expect(host.systemctl('start', UNIT)).rejects.toThrow(/failed/);
    expect(await host.journal(UNIT)).toContain('the flanneld of the package was started');
  });
});
