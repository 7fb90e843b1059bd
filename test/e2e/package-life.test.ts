import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { type RootRecipe, SYSTEMD_HOST } from '../testbed/debian-root.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { lostWhile } from '../testbed/ping.ts';
import { tempDir } from '../testbed/run.ts';
import { makePackages, VERSION } from './make-packages.ts';
import { CONFIG_JSON, DEADLINE_MS, SETUP_TIMEOUT_MS, UNIT, useSystemdContainer } from './use-systemd.ts';

const OLDER = '0.0.9';
const SYSCONFIG = '/etc/sysconfig/flanneld';
const ARCH = process.arch === 'x64' ? 'amd64' : process.arch;
const debOf = (version: string) => `flanneld-ts_${version}_${ARCH}.deb`;
const out = tempDir('packages');

/** Without Docker: its bridge is made by hand. */
const TRIXIE: RootRecipe = {
  name: 'systemd-trixie',
  suite: 'trixie',
  packages: 'systemd systemd-sysv dbus iproute2 iptables nftables etcd-server etcd-client iputils-ping'.split(
    ' ',
  ),
};

beforeAll(async () => {
  for (const version of [OLDER, VERSION])
    await makePackages(out, ['--only=deb', `--arch=${ARCH}`, `--version=${version}`]);
}, SETUP_TIMEOUT_MS);
afterAll(() => rmSync(out, { recursive: true }));

/** An operator's steps with apt, in this order, on a host whose container and a peer's ping each other. */
describe.each([
  ['Debian 12 with Docker', SYSTEMD_HOST],
  ['Debian 13', TRIXIE],
])("Debian's package on %s", (_, recipe) => {
  const host = useSystemdContainer({ recipe, folders: { [out]: '/packages' } });
  let filesBefore: string;
  let container: readonly string[];
  let peer: readonly string[];

  const listFiles = () =>
    host.sh('find /etc /usr /opt /run/flannel /run/docker_opts.env -xdev 2>/dev/null | sort || :');
  const routes = () => host.sh('ip route show proto 102; ip -6 route show proto 102');
  const apt = (...words: string[]) =>
    host.exec('env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '--yes', '--quiet', ...words);
  const install = (version: string, ...words: string[]) =>
    apt('install', ...words, `/packages/${debOf(version)}`);
  const version = () => host.exec('flanneld-ts', 'version');
  const state = async () => ({
    address: await host.gateway(),
    routes: await routes(),
    docker: await host.mainPid('docker.service'),
  });
  const [own, others] = [() => host.gateway().then((one) => one?.split('/')[0] ?? ''), '172.20.9.1'];
  const ways = async () => [
    { where: container, destination: others },
    { where: peer, destination: (await own()).replace(/1$/, '2') },
  ];

  /** Runs an upgrade, and waits until the daemon has been restarted by it. */
  const restartedBy = async (act: () => Promise<unknown>) => {
    const before = await host.mainPid(UNIT);
    await act();
    await until(async () => (await host.mainPid(UNIT)) !== before, DEADLINE_MS, 'it was not restarted');
    await host.reach(UNIT, 'ActiveState', 'active');
  };

  beforeAll(async () => void (filesBefore = await listFiles()));

  test("README's first way: apt install puts all in place, and enables and starts nothing", async () => {
    const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
    expect(readme).toContain(`sudo apt install ./flanneld-ts_${VERSION}_amd64.deb`);
    const said = await install(OLDER);
    expect(said).toContain('flanneld-ts is installed and not started');
    expect(await host.property(UNIT, 'ActiveState')).toBe('inactive');
    expect(await host.property(UNIT, 'UnitFileState')).toBe('disabled');
    expect(await host.property(UNIT, 'FragmentPath')).toMatch(/\/lib\/systemd\/system\/flanneld\.service$/);
    expect(await version()).toBe(`flanneld-ts ${OLDER}`);
    // The launcher takes the start-up snapshot that this host's Node has made.
    expect(await host.sh('ls /usr/lib/flanneld-ts/*.snapshot')).toMatch(/^\S+$/);
    expect(await host.exec('dpkg', '--verify', 'flanneld-ts')).toBe('');
    await expect(host.exec('/src/script/install')).rejects.toThrow(/as a package here/);
  });

  test('the daemon starts, and a container and a peer reach each other', async () => {
    await host.exec('etcdctl', 'put', `${PREFIX}/config`, CONFIG_JSON);
    await host.exec('etcdctl', 'put', leaseKey('172.20.9.0/24'), leaseValue('10.211.55.101'));
    await host.sh(`sed -i 's/^FLANNEL_OPTIONS=.*/FLANNEL_OPTIONS="--iface=eth0 --ip-masq"/' ${SYSCONFIG}`);
    await host.systemctl('enable', '--quiet', '--now', UNIT);
    if (recipe === SYSTEMD_HOST) await host.systemctl('restart', 'docker');
    else
      await host.sh(
        `ip link add docker0 type bridge; ip address add ${await host.gateway()} dev docker0; ip link set docker0 up`,
      );
    await until(async () => (await routes()) !== '', DEADLINE_MS, 'no route');
    await host.addPeer({ address: '10.211.55.101', gateway: `${others}/24` });
    container = await host.inNetworkOf('container');
    peer = await host.inNetworkOf('peer');
  });

  test('upgrade, downgrade, reinstallation, removal and installation lose no packet and leave Docker alone', async () => {
    const before = await state();
    const lost = await lostWhile(await ways(), async () => {
      await restartedBy(() => install(VERSION));
      expect(await version()).toBe(`flanneld-ts ${VERSION}`);
      expect(await state()).toEqual(before);

      await restartedBy(() => install(OLDER, '--allow-downgrades'));
      expect(await version()).toBe(`flanneld-ts ${OLDER}`);
      expect(await state()).toEqual(before);

      await restartedBy(() => install(VERSION));
      await restartedBy(() => install(VERSION, '--reinstall'));
      expect(await state()).toEqual(before);

      const said = await apt('remove', 'flanneld-ts');
      expect(said).toMatch(/flanneld is stopped.*this stays:\n +routes and firewall rules/s);
      expect(await host.property(UNIT, 'LoadState')).toBe('not-found');
      expect(await host.sh('ls -d /usr/lib/flanneld-ts || :')).toBe('');
      expect(await host.read(SYSCONFIG)).toContain('--iface=eth0');
      expect((await state()).routes).toMatch(/^172\.20\.9\.0\/24 via 10\.211\.55\.101 dev eth0/);

      await install(VERSION);
      expect(await host.property(UNIT, 'ActiveState')).toBe('inactive');
      expect(await host.read(SYSCONFIG)).toContain('--iface=eth0');
      await host.systemctl('start', UNIT);
      expect(await state()).toEqual(before);
    });
    expect(lost).toEqual([]);
  });

  test('an upgrade while etcd is away does not wait for it', async () => {
    const before = await state();
    await host.systemctl('stop', 'etcd');
    const lost = await lostWhile(await ways(), async () => {
      const pid = await host.mainPid(UNIT);
      await install(VERSION, '--reinstall');
      await until(async () => (await host.mainPid(UNIT)) !== pid, DEADLINE_MS, 'it was not restarted');
      expect(await state()).toEqual(before);
      await host.systemctl('start', 'etcd');
      await host.reach(UNIT, 'ActiveState', 'active');
    });
    expect(lost).toEqual([]);
  });

  test('a purge beside another flanneld leaves it what it uses', async () => {
    await apt('remove', 'flanneld-ts');
    const before = await state();
    await host.sh('cp /bin/sleep /var/tmp/flanneld; systemd-run --quiet --unit=other /var/tmp/flanneld 600');
    const said = await apt('purge', 'flanneld-ts');
    expect(said).toContain('a flanneld runs on this host');
    expect(await state()).toEqual(before);
    expect(before.routes).not.toBe('');
    await host.sh('systemctl stop other; rm /var/tmp/flanneld');
  });

  test('purge leaves nothing: no file, no route, no rule; and no packet of the host is lost', async () => {
    await install(VERSION);
    await host.sh(`sed -i 's/^FLANNEL_OPTIONS=.*/FLANNEL_OPTIONS="--iface=eth0 --ip-masq"/' ${SYSCONFIG}`);
    await host.systemctl('enable', '--quiet', '--now', UNIT);
    const rules = () => host.sh('iptables-save; ip6tables-save; nft list tables | grep -i flannel || :');
    await until(async () => /FLANNEL-POSTRTG/.test(await rules()), DEADLINE_MS, 'no rules');
    const docker = await host.mainPid('docker.service');
    // The way to the peer goes with its route; to its own host and on the segment nothing changes.
    const local = [
      { where: container, destination: await own() },
      { where: peer, destination: '10.211.55.100' },
    ];
    expect(await lostWhile(local, async () => void (await apt('purge', 'flanneld-ts')))).toEqual([]);
    expect(await rules()).not.toMatch(/flannel/i);
    expect(await routes()).toBe('');
    expect(await listFiles()).toBe(filesBefore);
    expect(await host.mainPid('docker.service')).toBe(docker);
    expect(await host.sh('dpkg -l flanneld-ts 2>/dev/null | grep flanneld-ts || :')).toBe('');
    expect(await host.sh('systemctl list-units --all --failed --no-legend')).toBe('');
  });

  test('it takes the place of a package flannel, and comes again after a purge', async () => {
    await host.sh(`
      mkdir -p /run/other/DEBIAN /run/other/usr/libexec/flannel
      echo theirs >/run/other/usr/libexec/flannel/mk-docker-opts.sh
      printf '%s\n' 'Package: flannel' 'Version: 0.7.1' 'Architecture: all' 'Maintainer: somebody <a@b>' 'Description: x' \
        >/run/other/DEBIAN/control
      dpkg-deb --build /run/other /run/other.deb; dpkg --install /run/other.deb; rm -r /run/other /run/other.deb`);
    await install(VERSION);
    expect(await host.sh("dpkg-query --show --showformat='${db:Status-Status}' flannel")).not.toBe(
      'installed',
    );
    expect(await host.read('/usr/libexec/flannel/mk-docker-opts.sh')).toContain('flanneld-ts');
    expect(await host.property(UNIT, 'UnitFileState')).toBe('disabled');
    await apt('purge', 'flanneld-ts');
    expect(await listFiles()).toBe(filesBefore);
  });
});
