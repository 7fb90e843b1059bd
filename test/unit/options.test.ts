import { describe, expect, it } from 'vitest';
import { flagTable } from '../../src/daemon/options/flags.ts';
import type { Options } from '../../src/daemon/options/options.ts';
import { environmentName } from '../../src/daemon/options/settings.ts';
import { type Env, printed, run, usageError } from './options-run.ts';

const urls = (options: Options) => options.etcdEndpoints.map(({ url }) => url);

describe('options without flags and environment', () => {
  it('are the defaults of the contract', async () => {
    const { options, warnings } = await run([]);
    expect(options).toEqual({
      etcdEndpoints: [{ url: 'http://127.0.0.1:2379', scheme: 'http', host: '127.0.0.1', port: 2379 }],
      etcdPrefix: '/coreos.com/network',
      etcdTls: {},
      ifaces: [],
      ifaceRegexes: [],
      subnetLeaseTtlSeconds: 86_400,
      ipMasq: false,
      ipMasqFullyRandom: true,
      iptablesForwardRules: true,
      iptablesForwardPosition: 'auto',
      iptablesResyncMs: 5000,
      ipBlackholeRoute: false,
      setIpForward: false,
      subnetFile: '/run/flannel/subnet.env',
      dockerOptsFile: '/run/docker_opts.env',
      dockerOptsKey: 'DOCKER_OPTS',
      renewMarginMs: 3_600_000,
      routeProtocol: 102,
      logLevel: 'info',
      statusSocket: '/run/flannel/subnet.sock',
    });
    expect(warnings).toEqual([]);
  });
});

describe('each flag', () => {
  const cases: readonly [flag: string, value: string, expected: Partial<Options>][] = [
    ['etcd-prefix', '/atomic.io/network', { etcdPrefix: '/atomic.io/network' }],
    ['iface', 'eth1', { ifaces: ['eth1'] }],
    ['subnet-file', '/tmp/s.env', { subnetFile: '/tmp/s.env' }],
    ['docker-opts-file', '/tmp/d.env', { dockerOptsFile: '/tmp/d.env' }],
    ['status-socket', '/tmp/s.sock', { statusSocket: '/tmp/s.sock' }],
    ['docker-opts-key', 'DOCKER_NETWORK_OPTIONS', { dockerOptsKey: 'DOCKER_NETWORK_OPTIONS' }],
    ['subnet-lease-renew-margin', '1', { renewMarginMs: 60_000 }],
    ['subnet-lease-renew-margin', '1439', { renewMarginMs: 86_340_000 }],
    ['subnet-lease-ttl', '30', { subnetLeaseTtlSeconds: 30 }],
    ['healthz-port', '0x1f90', { healthz: { ip: '0.0.0.0', port: 8080 } }],
    ['route-protocol', '5', { routeProtocol: 5 }],
    ['route-protocol', '255', { routeProtocol: 255 }],
    ['v', '10', { logLevel: 'debug' }],
    ['v', '-1', { logLevel: 'info' }],
    ['log-level', 'warn', { logLevel: 'warn' }],
    ['log-format', 'pretty', { logFormat: 'pretty' }],
    ['iface-regex', 'eth[0-9]', { ifaceRegexes: ['eth[0-9]'] }],
    ['iface-can-reach', 'FC00:0::1', { ifaceCanReach: 'fc00::1' }],
    ['public-ip', '10.211.55.100', { publicIP: '10.211.55.100' }],
    ['public-ipv6', 'FC00:0::1', { publicIPv6: 'fc00::1' }],
    ['subnet-lease-ttl', '31536000', { subnetLeaseTtlSeconds: 31_536_000 }],
    ['iptables-resync', '1', { iptablesResyncMs: 1000 }],
    ['iptables-resync', '9999999', { iptablesResyncMs: 9_999_999_000 }],
    ['iptables-forward-position', 'first', { iptablesForwardPosition: 'first' }],
    ['etcd-cafile', '/tls/ca.pem', { etcdTls: { caFile: '/tls/ca.pem' } }],
  ];

  it.each(cases)('--%s %s works in every syntax and from the environment', async (flag, value, expected) => {
    const name = environmentName({ name: flag });
    for (const argv of [
      [`-${flag}=${value}`],
      [`-${flag}`, value],
      [`--${flag}=${value}`],
      [`--${flag}`, value],
    ]) {
      expect((await run(argv)).options).toMatchObject(expected);
    }
    expect((await run([], { [name]: value })).options).toMatchObject(expected);
  });

  const booleans: readonly [flag: string, on: Partial<Options>, off: Partial<Options>][] = [
    ['ip-masq', { ipMasq: true }, { ipMasq: false }],
    ['ip-masq-fully-random-disable', { ipMasqFullyRandom: false }, { ipMasqFullyRandom: true }],
    ['iptables-forward-rules', { iptablesForwardRules: true }, { iptablesForwardRules: false }],
    ['ip-blackhole-route', { ipBlackholeRoute: true }, { ipBlackholeRoute: false }],
    ['set-ip-forward', { setIpForward: true }, { setIpForward: false }],
  ];

  it.each(booleans)("--%s takes Go's words after = and from the environment", async (flag, on, off) => {
    const name = environmentName({ name: flag });
    const given = [
      ...['1', 't', 'T', 'true', 'TRUE', 'True'].map((word) => [word, on] as const),
      ...['0', 'f', 'F', 'false', 'FALSE', 'False'].map((word) => [word, off] as const),
    ];
    for (const [word, expected] of given) {
      for (const dashes of ['-', '--'])
        expect((await run([`${dashes}${flag}=${word}`])).options).toMatchObject(expected);
      expect((await run([], { [name]: word })).options).toMatchObject(expected);
    }
  });

  it.each(booleans)('a bare --%s is true, and takes no word for its value', async (flag, on) => {
    const { message } = await usageError([`-${flag}`, 'false', '-v=1']);
    expect(message).toBe(
      `--${flag} takes no separate value: write --${flag}, --${flag}=true or --${flag}=false`,
    );
    expect((await run([`--${flag}`, '-v=1'])).options).toMatchObject({ ...on, logLevel: 'debug' });
  });

  it('has a case above, below, or among those of etcd', () => {
    const elsewhere =
      /^(etcd-(endpoints|certfile|keyfile|username|password|password-file)|healthz-ip|help|version)$/;
    const covered = new Set([...cases, ...booleans].map(([flag]) => flag));
    const names = flagTable.map(({ name }) => name).filter((name) => !elsewhere.test(name));
    expect(names.filter((name) => !covered.has(name))).toEqual([]);
  });

  it('healthz-ip goes with the port, and without one both are off', async () => {
    expect((await run(['--healthz-ip=::1', '--healthz-port=8080'])).options.healthz).toEqual({
      ip: '::1',
      port: 8080,
    });
    for (const port of ['0', '-1']) {
      expect((await run(['--healthz-ip=::1', `--healthz-port=${port}`])).options).not.toHaveProperty(
        'healthz',
      );
    }
  });

  it('log-level wins over -v', async () => {
    expect((await run(['-v', '10', '--log-level=error'])).options.logLevel).toBe('error');
  });
});

describe('a repeated flag', () => {
  it.each<[argv: readonly string[], env: Env, expected: Partial<Options>]>([
    [['-etcd-prefix=/a', '--etcd-prefix', '/b'], {}, { etcdPrefix: '/b' }],
    [['-iface=eth0', '-iface', '10.0.0.1', '--iface=a,b'], {}, { ifaces: ['eth0', '10.0.0.1', 'a,b'] }],
    [['-iface=', '-iface=eth1'], {}, { ifaces: ['', 'eth1'], ifaceRegexes: [] }],
    [['-iface-regex=e.*', '--iface-regex', '^1', '-iface-regex='], {}, { ifaceRegexes: ['e.*', '^1', ''] }],
    [[], { FLANNELD_IFACE: 'eth0,eth1' }, { ifaces: ['eth0,eth1'] }],
    [['-iface=eth2'], { FLANNELD_IFACE: 'eth0' }, { ifaces: ['eth2'] }],
  ])('counts every time for an interface, else the last time: %j %j', async (argv, env, expected) => {
    expect((await run(argv, env)).options).toMatchObject(expected);
  });
});

describe('precedence', () => {
  const layers: readonly [layer: string, argv: readonly string[], env: Env][] = [
    ['flag', ['--etcd-prefix=/flag'], {}],
    ['FLANNELD_', [], { FLANNELD_ETCD_PREFIX: '/FLANNELD_' }],
    ['sysconfig', [], { FLANNEL_ETCD_PREFIX: '/sysconfig' }],
    ['older', [], { FLANNEL_ETCD_KEY: '/older' }],
  ];
  it.each(layers.map(([layer], index) => [layer, index] as const))(
    '%s wins over all below it',
    async (layer, index) => {
      const below = layers.slice(index);
      const argv = below.flatMap(([, words]) => words);
      const env: Env = Object.assign({}, ...below.map(([, , variables]) => variables));
      expect((await run(argv, env)).options.etcdPrefix).toBe(`/${layer}`);
    },
  );

  // flanneld-start passes both flags, empty or not; FLANNEL_OPTIONS follows them.
  const EMPTY = ['-etcd-endpoints=', '-etcd-prefix='];
  it.each<[argv: readonly string[], env: Env, expected: string]>([
    [[], { FLANNEL_ETCD: 'old:1', FLANNEL_ETCD_ENDPOINTS: 'new:1' }, 'http://new:1 /coreos.com/network'],
    [[], { FLANNEL_ETCD: 'old:1', FLANNEL_ETCD_ENDPOINTS: '' }, 'http://old:1 /coreos.com/network'],
    [EMPTY, {}, 'http://127.0.0.1:2379 /coreos.com/network'],
    [EMPTY, { FLANNELD_ETCD_ENDPOINTS: 'a:1', FLANNEL_ETCD_PREFIX: '/p' }, 'http://a:1 /p'],
    [[...EMPTY, '-etcd-prefix=/p', '-etcd-endpoints', 'a:1'], { FLANNEL_ETCD_PREFIX: '/q' }, 'http://a:1 /p'],
    [['-etcd-prefix=/p', '-etcd-prefix='], {}, 'http://127.0.0.1:2379 /coreos.com/network'],
  ])('passes over what is empty: %j %j', async (argv, env, expected) => {
    const { options } = await run(argv, env);
    expect(`${urls(options).join()} ${options.etcdPrefix}`).toBe(expected);
  });

  it('does not use the variable when the flag is given empty', async () => {
    const env = { FLANNELD_DOCKER_OPTS_FILE: '/tmp/x' };
    expect((await run(['-docker-opts-file='], env)).options).not.toHaveProperty('dockerOptsFile');
  });

  it('does not look at a variable, however wrong, when the flag is given', async () => {
    expect((await run(['-v=1'], { FLANNELD_V: 'wrong' })).options.logLevel).toBe('debug');
  });
});

it('a variable of no flag is ignored, with a warning', async () => {
  const env = { FLANNELD_ETCD_ENDPOINT: 'http://a:1', FLANNELD_EMPTY: '', OTHER: 'x', FLANNELD_HELP: 'true' };
  expect((await run([], env)).warnings).toEqual([
    'ignored, because there is no such flag: the variable "FLANNELD_ETCD_ENDPOINT"; did you mean FLANNELD_ETCD_ENDPOINTS?',
    expect.stringContaining('"FLANNELD_HELP"'),
  ]);
});

/** `refused`: words of the sentence for the value that is refused. */
interface OldFlag {
  readonly name: string;
  readonly boolean?: true;
  readonly refused?: string;
}

const OLD: readonly OldFlag[] = [
  { name: 'kube-subnet-mgr', boolean: true, refused: 'leases kept by Kubernetes are not supported' },
  { name: 'kube-api-url' },
  { name: 'kubeconfig-file' },
  { name: 'kube-annotation-prefix' },
  { name: 'net-config-path' },
  { name: 'set-node-network-unavailable', boolean: true },
  { name: 'vmodule' },
  { name: 'log_backtrace_at' },
  { name: 'logtostderr', boolean: true },
  { name: 'alsologtostderr', boolean: true },
  { name: 'log_dir' },
  { name: 'stderrthreshold' },
  { name: 'subnet-dir' },
  { name: 'remote', refused: 'client mode is not supported' },
  { name: 'remote-keyfile' },
  { name: 'remote-certfile' },
  { name: 'remote-cafile' },
  { name: 'listen', refused: 'server mode is not supported' },
  { name: 'networks', refused: 'several networks in one daemon are not supported' },
  { name: 'watch-networks', boolean: true },
];

const wayIn = (flag: OldFlag): readonly (readonly string[])[] =>
  flag.boolean
    ? [[`-${flag.name}`], [`--${flag.name}`], [`-${flag.name}=T`], [`--${flag.name}=1`]]
    : [[`-${flag.name}=x`], [`-${flag.name}`, 'x'], [`--${flag.name}=x`], [`--${flag.name}`, 'x']];

describe("flanneld's old flags", () => {
  it.each(OLD.filter(({ refused }) => refused === undefined))(
    '$name is ignored with a warning',
    async (flag) => {
      for (const argv of wayIn(flag)) {
        const { options, warnings } = await run([...argv, '-etcd-prefix=/x']);
        expect(options.etcdPrefix).toBe('/x');
        expect(warnings).toEqual([`ignored, because it has no effect here: --${flag.name}`]);
      }
      expect((await run([], { [environmentName(flag)]: flag.boolean ? 'true' : 'x' })).warnings).toEqual([
        `ignored, because it has no effect here: ${environmentName(flag)}`,
      ]);
    },
  );

  it.each(OLD.filter(({ refused }) => refused !== undefined))('$name is refused when set', async (flag) => {
    for (const argv of wayIn(flag)) {
      expect(await usageError(argv)).toMatchObject({
        code: 'USAGE_REFUSED_MODE',
        exitCode: 2,
        message: expect.stringMatching(new RegExp(`^--${flag.name}: .*${flag.refused}.*: \\w+`)),
      });
    }
    const { message } = await usageError([], { [environmentName(flag)]: flag.boolean ? 'true' : 'x' });
    expect(message).toMatch(new RegExp(`^${environmentName(flag)}: `));
  });

  it('are one warning, however many', async () => {
    const argv = ['-logtostderr', '-alsologtostderr=false', '-log_dir=/var/log', '-subnet-dir', '/run/x'];
    expect((await run(argv, { FLANNELD_VMODULE: 'a=1', FLANNELD_LOG_DIR: '/x' })).warnings).toEqual([
      'ignored, because it has no effect here: FLANNELD_VMODULE, --logtostderr, --alsologtostderr, --log_dir, --subnet-dir',
    ]);
  });

  it.each([
    [['-kube-subnet-mgr=false']],
    [['-kube-subnet-mgr=F', '--remote=', '--listen=', '--networks=']],
    [['-kube-subnet-mgr', '-kube-subnet-mgr=false']],
  ])('that ask for another mode are accepted when they are empty or false: %j', async (argv) => {
    expect((await run(argv, { FLANNELD_REMOTE: '', FLANNELD_KUBE_SUBNET_MGR: 'false' })).warnings).toEqual(
      [],
    );
  });

  it('count before their variables', async () => {
    expect((await run(['--remote='], { FLANNELD_REMOTE: '10.0.0.1:8888' })).warnings).toEqual([]);
  });

  it.each([
    [['-kube-subnet-mgr=maybe'], {}, '--kube-subnet-mgr must be true or false'],
    [[], { FLANNELD_LOGTOSTDERR: 'yes' }, 'FLANNELD_LOGTOSTDERR must be true or false'],
    [['--listen'], {}, '--listen needs a value'],
  ])('take no wrong value: %j %j', async (argv, env, message) => {
    expect((await usageError(argv, env)).message).toContain(message);
  });

  it('are not suggested', async () => {
    expect((await usageError(['--lisen=x'])).message).toBe('unknown flag "--lisen": see flanneld-ts --help');
  });

  it('are in no help text, and no flags of a command', async () => {
    const help = await printed('--help');
    for (const { name } of OLD) expect(help).not.toContain(`--${name}`);
    expect((await usageError(['health', '--logtostderr'])).message).toContain('takes no --logtostderr');
  });
});
