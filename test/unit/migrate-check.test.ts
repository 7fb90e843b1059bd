import { describe, expect, it } from 'vitest';
import { prefix, valueOf } from '../../sim/leases.ts';
import { runMigrateCheck } from '../../src/cli/migrate-check/check.ts';
import type { FlanneldProcess } from '../../src/cli/migrate-check/found.ts';
import { findFlanneld } from '../../src/daemon/flanneld/find.ts';
import { judgeFlags } from '../../src/daemon/flanneld/flags.ts';
import { parseSubnetEnv } from '../../src/daemon/subnet-env.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { CENTOS_FILES } from '../e2e/centos-package.ts';
import { config, MigrateWorld, oldValue } from './migrate-world.ts';

const [A, B] = ['10.0.0.1', '10.0.0.2'];
const day = 86_400;
const sysconfig = '/etc/sysconfig/flanneld';
const unitPath = '/usr/lib/systemd/system/flanneld.service';

/** A host with the packages of CentOS 7: flannel 0.7.1, and Docker. */
const centos: Readonly<Record<string, string>> = {
  ...CENTOS_FILES,
  '/usr/lib/systemd/system/docker.service': '[Service]\nExecStart=/usr/bin/dockerd-current\n',
  [sysconfig]:
    'FLANNEL_ETCD_ENDPOINTS="http://10.0.0.9:2379"\nFLANNEL_ETCD_PREFIX="/atomic.io/network"\nFLANNEL_OPTIONS="-iface=eth0 -ip-masq"\n',
  '/etc/systemd/system/docker.service.requires/flanneld.service': '',
  '/run/flannel/subnet.env':
    'FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n',
};

/** flanneld as that unit starts it. */
const running: FlanneldProcess = {
  pid: 812,
  name: 'flanneld',
  argv: [
    '-etcd-endpoints=http://10.0.0.9:2379',
    '-etcd-prefix=/atomic.io/network',
    '-iface=eth0',
    '-ip-masq',
  ],
  env: {},
  unit: 'flanneld.service',
  isInContainer: false,
};

/** Both stores, with all leases in both. */
const migrated = async () => {
  const world = new MigrateWorld().configure().lease('10.5.1.0-24', A, 3600).lease('10.5.2.0-24', B, day);
  await world.run();
  return world;
};

interface Given {
  readonly files?: Readonly<Record<string, string>>;
  readonly processes?: readonly FlanneldProcess[];
  readonly world?: MigrateWorld;
}

/** What it says: its exit code, and its lines by their first word. */
async function check({ files = centos, processes = [running], world }: Given = {}) {
  const { v2, v3, clock } = world ?? (await migrated());
  const read: string[] = [];
  const host = await findFlanneld({
    files: {
      readText: async (path) => {
        read.push(path);
        if (files[path] === 'EACCES') throw Object.assign(new Error('denied'), { code: 'EACCES' });
        return files[path];
      },
    },
    list: async (folder) =>
      Object.keys(files).flatMap((path) =>
        path.startsWith(`${folder}/`) ? [path.slice(folder.length + 1).split('/')[0] ?? ''] : [],
      ),
    flannelds: async () => processes,
  });
  const registry = rotate(v3.connect('admin'));
  const store = new V2Client([v2.member('etcd-0')], { clock });
  const before = [v2.index, v3.revision, v3.leaseIds.length];
  const lines: string[] = [];
  const code = await clock.complete(
    runMigrateCheck(
      {
        host,
        flags: judgeFlags(host.line ?? { argv: [], env: {} }, [A, '127.0.0.1']),
        sides: {
          from: { store, prefix: '/old', endpoints: 'http://etcd-0:2379' },
          to: { registry, prefix: '/net' },
        },
        own: parseSubnetEnv(host.subnetFile.text ?? '')?.ipv4,
        out: (line) => void lines.push(line),
      },
      new AbortController().signal,
    ),
  );
  registry.close();
  expect([v2.index, v3.revision, v3.leaseIds.length]).toEqual(before);
  const of = (mark: string) =>
    lines.filter((line) => line.startsWith(`${mark} `)).map((line) => line.slice(12));
  return { code, lines, text: lines.join('\n'), inTheWay: of('IN THE WAY'), same: of('same'), of, read };
}

/** Instead of those that the unit gives. */
const withFlags = (...argv: readonly string[]) => check({ processes: [{ ...running, argv }] });

describe('migrate --check', () => {
  it('finds nothing in the way of a host with the package of CentOS 7 whose network has been copied', async () => {
    const { code, of, same, inTheWay, lines } = await check();
    expect(inTheWay).toEqual([]);
    expect(code).toBe(0);
    expect(lines.at(-1)).toBe('Nothing stands in the way.');
    expect(of('found')).toEqual([
      'flanneld runs (pid 812, flanneld.service)',
      `flanneld.service: ${unitPath}`,
      '/run/flannel/subnet.env: FLANNEL_NETWORK=10.5.0.0/16 FLANNEL_SUBNET=10.5.1.1/24 FLANNEL_MTU=1500 FLANNEL_IPMASQ=true',
      'docker.service: /usr/lib/systemd/system/docker.service, /etc/systemd/system/docker.service.d/centos.conf, /usr/lib/systemd/system/docker.service.d/flannel.conf',
      'etcd serves the v3 store, and the v2 store at http://etcd-0:2379: 2 leases there',
    ]);
    expect(same).toEqual([
      `${sysconfig}, which flanneld.service reads`,
      'flanneld.service starts /usr/bin/flanneld-start',
      "flanneld.service writes Docker's options with /usr/libexec/flannel/mk-docker-opts.sh, which is exchanged, too",
      'Docker reads /run/flannel/docker, and starts without it',
      '--etcd-endpoints=http://10.0.0.9:2379',
      '--etcd-prefix=/atomic.io/network',
      '--iface=eth0',
      '--ip-masq=true',
      'the configuration /net/config: backend host-gw',
      'EnableIPv6 is off',
      '2 leases of the v2 store in v3, too',
      "this host's lease 10.5.1.0/24 (10.5.1.1/24 in subnet.env) is in the v3 store, for 10.0.0.1",
    ]);
    expect(of('changes').slice(0, 2)).toEqual([
      'docker.service requires flanneld.service: a plain restart of flanneld restarts Docker and all containers',
      'hosts that use v3 do not renew their leases in v2, where the first one ends in 1 h',
    ]);
  });

  it('reads the unit when flanneld does not run', async () => {
    const { code, same, of } = await check({ processes: [] });
    expect(code).toBe(0);
    expect(of('found')[0]).toBe('flanneld does not run; its flags are those of flanneld.service');
    expect(same).toEqual(
      expect.arrayContaining([
        'FLANNEL_ETCD_ENDPOINTS=http://10.0.0.9:2379',
        'FLANNEL_ETCD_PREFIX=/atomic.io/network',
        '--iface=eth0',
        '--ip-masq=true',
      ]),
    );
  });

  it('reads drop-ins by name from all folders: the first of one name, and what they take back', async () => {
    const { same, of } = await check({
      processes: [],
      files: {
        ...centos,
        '/etc/systemd/system/flanneld.service.d/20-b.conf':
          '[Service]\nEnvironment=IFACE=eth7 "X=a b"\nExecStart=\nExecStart=-/opt/flannel/bin/flanneld \\\n  -iface=${IFACE} \\\n  # no comment\n  $FLANNEL_OPTIONS\n',
        '/usr/lib/systemd/system/flanneld.service.d/20-b.conf': '[Service]\nExecStart=/bin/false\n',
        '/run/systemd/system/flanneld.service.d/10-a.conf': '[Service]\nEnvironment=IFACE=eth6\n',
        [sysconfig]: 'FLANNEL_OPTIONS="-v=1"\n',
      },
    });
    expect(of('found')[1]).toBe(
      `flanneld.service: ${unitPath}, /run/systemd/system/flanneld.service.d/10-a.conf, /etc/systemd/system/flanneld.service.d/20-b.conf`,
    );
    expect(same).toEqual(
      expect.arrayContaining(['--iface=eth7', '-v=1', 'flanneld.service starts /opt/flannel/bin/flanneld']),
    );
  });

  it('says how to exchange a program that lies elsewhere', async () => {
    const { text } = await check({
      files: { ...centos, [unitPath]: '[Service]\nExecStart=/usr/local/bin/flanneld\n' },
    });
    expect(text).toContain('PREFIX=/usr/local script/install --as-flanneld exchanges the program');
  });

  it('has nothing to say against a host without flanneld', async () => {
    const { code, of, lines } = await check({ files: {}, processes: [] });
    expect(code).toBe(0);
    expect(of('found')[0]).toBe('no flanneld on this host: neither a process nor a unit');
    expect(lines.at(-1)).toBe('Nothing stands in the way.');
  });

  it('finds a daemon of flanneld-ts', async () => {
    const { code, of } = await check({ processes: [{ ...running, name: 'flanneld-ts' }] });
    expect([code, of('found')[0]]).toEqual([0, 'flanneld-ts runs already (pid 812)']);
  });
});

describe('of the flags of flanneld', () => {
  it.each<[string, readonly string[]]>([
    ['--networks: several networks in one daemon are not supported', ['-networks=blue,red']],
    ['--watch-networks: several networks in one daemon are not supported', ['-watch-networks']],
    ["--remote: flannel's client mode is not supported", ['-remote=10.0.0.1:8888']],
    ["--listen: flannel's server mode is not supported", ['-listen', ':8888']],
    ['--kube-subnet-mgr: leases kept by Kubernetes are not supported', ['--kube-subnet-mgr']],
    ['--subnet-lease-renew-margin must be', ['-subnet-lease-renew-margin=1440']],
    ['--iptables-resync must be', ['-iptables-resync=0']],
    ['--public-ip=10.0.0.7 is no address of this host', ['-public-ip=10.0.0.7']],
    ['--etcd-endpoints must be', ['-etcd-endpoints=http://me:secret@10.0.0.1:2379']],
    ['--etcd-certfile needs --etcd-keyfile', ['-etcd-certfile=/c.pem']],
    ['--flag-of-tomorrow is a flag that flanneld-ts does not know', ['-flag-of-tomorrow', 'x']],
    ['argument 2 of flanneld is no flag', ['-ip-masq', 'true', '-iface=eth1']],
    ["flanneld's command line: --iface needs a value", ['-iface']],
  ])('names what stands in the way: %s', async (says, argv) => {
    const { code, inTheWay, text } = await withFlags(...argv);
    expect(text).not.toContain('secret');
    expect(inTheWay).toEqual([expect.stringContaining(says)]);
    expect(code).toBe(1);
  });

  it.each<[string, readonly string[]]>([
    ['--public-ip=10.0.0.1', ['-public-ip=10.0.0.1']],
    ['--subnet-file=/run/x.env', ['-subnet-file=/run/x.env']],
    ['--iface=eth0', ['-iface', 'eth0']],
  ])('names what stays: %s', async (says, argv) => {
    expect((await withFlags(...argv)).same).toContain(says);
  });

  it('names what has no effect, also of a mode that is not set', async () => {
    const { code, of } = await withFlags(
      '-logtostderr=false',
      '-subnet-dir=/x',
      '-remote=',
      '-watch-networks=false',
    );
    expect(of('ignored')).toEqual([
      '--logtostderr has no effect any more',
      '--subnet-dir has no effect any more',
      '--remote has no effect any more',
      '--watch-networks has no effect any more',
    ]);
    expect(code).toBe(0);
  });

  it('names a second --iface, of which flannel 0.7.1 uses the last one', async () => {
    const { of } = await withFlags('-iface=eth0', '-iface=eth1');
    expect(of('changes').join()).toContain(
      'flannel 0.7.1 uses the last one (eth1), flanneld-ts the first that fits',
    );
  });

  it('reads variables, and shows no password', async () => {
    const env = {
      FLANNELD_ETCD_PASSWORD: 'secret',
      FLANNELD_ETCD_USERNAME: 'flannel',
      FLANNELD_IFACES: 'eth0',
      FLANNELD_LISTEN: ':1',
      PATH: '/bin',
    };
    const { same, of, inTheWay, text } = await check({ processes: [{ ...running, argv: [], env }] });
    expect(same).toEqual(
      expect.arrayContaining(['FLANNELD_ETCD_USERNAME=flannel', 'FLANNELD_ETCD_PASSWORD']),
    );
    expect(of('ignored')).toEqual(['the variable FLANNELD_IFACES: there is no such flag']);
    expect(inTheWay).toEqual([expect.stringMatching(/^FLANNELD_LISTEN: /)]);
    expect(text).not.toContain('secret');
  });
});

describe('of the host it names as in the way', () => {
  it.each<[string, Given]>([
    [
      `${sysconfig} is missing, and flanneld.service does not start without it`,
      { files: { ...centos, [sysconfig]: undefined as never } },
    ],
    ['flanneld (pid 812) runs in a container', { processes: [{ ...running, isInContainer: true }] }],
    [
      'the variables of flanneld (pid 812) may be read by root alone',
      { processes: [{ ...running, env: undefined }] },
    ],
    [`cannot read ${sysconfig} (`, { files: { ...centos, [sysconfig]: 'EACCES' } }],
  ])('%s', async (says, given) => {
    const { code, inTheWay } = await check(given);
    expect(inTheWay).toContainEqual(expect.stringContaining(says));
    expect(code).toBe(1);
  });

  it('nothing where another program starts flanneld, or several run; it says what to do', async () => {
    const unit = '[Service]\nExecStart=/usr/bin/docker run quay.io/coreos/flannel\n';
    const { code, of } = await check({
      files: { ...centos, [unitPath]: unit },
      processes: [running, { ...running, pid: 813 }],
    });
    expect(of('changes')).toEqual(
      expect.arrayContaining([
        'further flannelds run on this host (pid 813): only the flags of pid 812 are checked',
        expect.stringContaining('flanneld.service starts flanneld by way of /usr/bin/docker'),
      ]),
    );
    expect(code).toBe(0);
  });
});

describe('of the stores it names as in the way', () => {
  const withConfig = (text: string) => {
    const world = new MigrateWorld();
    world.v3.put('/net/config', text);
    return world;
  };

  it.each<[string, () => MigrateWorld]>([
    ['the configuration is in the v2 store alone (backend host-gw)', () => new MigrateWorld().configure()],
    [
      'the configuration in the v2 store, backend udp, which flannel means by none: the daemon cannot use it: Backend is missing',
      () => new MigrateWorld().configure('{"Network":"10.5.0.0/16"}'),
    ],
    [
      'the configuration /net/config, backend vxlan: v2 has none, v3 has one. the daemon cannot use it',
      () => withConfig(config.replace('host-gw', 'vxlan')),
    ],
    [
      'the configurations of the v2 and the v3 store differ',
      () => {
        const world = withConfig(config);
        return world.configure(config.replace('/16', '/17'));
      },
    ],
    ['the configuration /net/config, backend none: neither store has one', () => new MigrateWorld()],
    ['1 lease is in the v2 store alone', () => withConfig(config).configure().lease('10.5.2.0-24', B, day)],
    [
      "this host's lease 10.5.1.0/24 (10.5.1.1/24 in subnet.env), 1 h, is not in the v3 store",
      () => withConfig(config).configure().lease('10.5.1.0-24', A, 3600),
    ],
    [
      '1 lease of the v2 store in conflict with the v3 store',
      () => {
        const world = withConfig(config).configure().lease('10.5.1.0-24', A, 3600);
        world.put('10.5.1.0-24', valueOf(B));
        return world;
      },
    ],
    [
      'the v3 store cannot be used: ',
      () => {
        const world = withConfig(config);
        world.v3.stop('etcd-0');
        return world;
      },
    ],
    [
      'the v2 store cannot be read: ',
      () => {
        const world = withConfig(config);
        world.v2.users = new Map();
        return world;
      },
    ],
  ])('%s', async (says, make) => {
    const { code, inTheWay } = await check({ world: make() });
    expect(inTheWay).toContainEqual(expect.stringContaining(says));
    expect(code).toBe(1);
  });

  it('nothing on an etcd without the v2 store, where a newer flanneld has its lease', async () => {
    const world = withConfig(config);
    world.v2.isServed = false;
    world.put('10.5.1.0-24', valueOf(A));
    const { code, same, of } = await check({ world });
    expect(code).toBe(0);
    expect(of('found').at(-1)).toMatch(/^etcd at \S+ serves the v3 store alone$/);
    expect(same.at(-1)).toContain('is in the v3 store, for 10.0.0.1');
  });

  it.each<[string, boolean, string]>([
    ['same', false, 'EnableIPv6 is on'],
    ['changes', true, 'EnableIPv6 is on: flannel 0.7.1 ignores it'],
  ])('nothing where EnableIPv6 is on: %s', async (mark, isOld, says) => {
    const text = config.replace('{', '{"EnableIPv6":true,"IPv6Network":"fc00::/48",');
    const world = withConfig(text);
    if (isOld) world.configure(text);
    const { code, of } = await check({ world });
    expect(of(mark)).toContainEqual(expect.stringContaining(says));
    expect(code).toBe(0);
  });

  it('nothing where etcdctl migrate has been; it says what mends that', async () => {
    const world = new MigrateWorld().configure().lease('10.5.1.0-24', A, 3600).convert();
    world.v3.put('/net/config', config);
    world.v3.put(`${prefix}10.5.9.0-24`, oldValue('10.0.0.9'));
    const { code, text } = await check({ world });
    expect(text).toMatch(
      /^changes {5}1 lease of the v2 store without an end in v3, .*\n +→ Give them leases: flanneld-ts migrate --repair$/m,
    );
    expect(code).toBe(0);
  });
});
