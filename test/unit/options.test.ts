import { describe, expect, it } from 'vitest';
import type { Options } from '../../src/daemon/options/options.ts';
import { flagTable } from '../../src/daemon/options/table.ts';
import { type Env, run, usageError } from './options-run.ts';

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
    ['subnet-file', 'relative.env', { subnetFile: 'relative.env' }],
    ['docker-opts-file', '/tmp/d.env', { dockerOptsFile: '/tmp/d.env' }],
    ['status-socket', '/tmp/s.sock', { statusSocket: '/tmp/s.sock' }],
    ['docker-opts-key', 'DOCKER_NETWORK_OPTIONS', { dockerOptsKey: 'DOCKER_NETWORK_OPTIONS' }],
    ['subnet-lease-renew-margin', '1', { renewMarginMs: 60_000 }],
    ['subnet-lease-renew-margin', '1439', { renewMarginMs: 86_340_000 }],
    ['subnet-lease-renew-margin', '0x10', { renewMarginMs: 960_000 }],
    ['subnet-lease-ttl', '30', { subnetLeaseTtlSeconds: 30 }],
    ['iptables-resync', '16', { iptablesResyncMs: 16_000 }],
    ['healthz-port', '0x1f90', { healthz: { ip: '0.0.0.0', port: 8080 } }],
    ['route-protocol', '200', { routeProtocol: 200 }],
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
    ['subnet-lease-ttl', '30', { subnetLeaseTtlSeconds: 30 }],
    ['subnet-lease-ttl', '31536000', { subnetLeaseTtlSeconds: 31_536_000 }],
    ['iptables-resync', '1', { iptablesResyncMs: 1000 }],
    ['iptables-resync', '9999999', { iptablesResyncMs: 9_999_999_000 }],
    ['iptables-forward-position', 'first', { iptablesForwardPosition: 'first' }],
    ['iptables-forward-position', 'last', { iptablesForwardPosition: 'last' }],
    ['etcd-cafile', '/tls/ca.pem', { etcdTls: { caFile: '/tls/ca.pem' } }],
    ['healthz-port', '0x1f90', { healthz: { ip: '0.0.0.0', port: 8080 } }],
  ];

  it.each(cases)('--%s %s works in every syntax and from the environment', async (flag, value, expected) => {
    const name = `FLANNELD_${flag.toUpperCase().replaceAll('-', '_')}`;
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
    const name = `FLANNELD_${flag.toUpperCase().replaceAll('-', '_')}`;
    const words = {
      on: ['1', 't', 'T', 'true', 'TRUE', 'True'],
      off: ['0', 'f', 'F', 'false', 'FALSE', 'False'],
    };
    for (const [given, expected] of [
      [words.on, on],
      [words.off, off],
    ] as const) {
      for (const word of given) {
        for (const dashes of ['-', '--']) {
          expect((await run([`${dashes}${flag}=${word}`])).options).toMatchObject(expected);
        }
        expect((await run([], { [name]: word })).options).toMatchObject(expected);
      }
    }
  });

  it.each(booleans)('a bare --%s is true, and takes no word for its value', async (flag, on) => {
    const { message } = await usageError([`-${flag}`, 'false', '-v=1']);
    expect(message).toContain(`--${flag} takes no separate value: write --${flag}=false.`);
    expect((await run([`--${flag}`, '-v=1'])).options).toMatchObject({ ...on, logLevel: 'debug' });
  });

  it('is covered by the cases above or below', () => {
    const elsewhere = ['etcd-endpoints', 'healthz-ip', 'help', 'version'];
    const inEtcdAccess = [
      'etcd-certfile',
      'etcd-keyfile',
      'etcd-username',
      'etcd-password',
      'etcd-password-file',
    ];
    const covered = new Set([
      ...[...cases, ...booleans].map(([flag]) => flag),
      ...elsewhere,
      ...inEtcdAccess,
    ]);
    expect(flagTable.map(({ name }) => name).filter((name) => !covered.has(name))).toEqual([]);
  });

  it('etcd-endpoints takes a list', async () => {
    const { options } = await run(['-etcd-endpoints', 'http://10.211.55.100:2379, 10.211.55.101:2379/']);
    expect(urls(options)).toEqual(['http://10.211.55.100:2379', 'http://10.211.55.101:2379']);
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

  it('docker-opts-file is switched off by an empty value', async () => {
    expect((await run(['--docker-opts-file='])).options).not.toHaveProperty('dockerOptsFile');
  });

  it('log-level wins over -v', async () => {
    expect((await run(['-v', '10', '--log-level=error'])).options.logLevel).toBe('error');
  });
});

describe('a repeated flag', () => {
  it('counts once, the last', async () => {
    expect((await run(['-etcd-prefix=/a', '--etcd-prefix', '/b'])).options.etcdPrefix).toBe('/b');
  });

  it('accumulates for iface', async () => {
    expect((await run(['-iface=eth0', '-iface', '10.0.0.1', '--iface=a,b'])).options.ifaces).toEqual([
      'eth0',
      '10.0.0.1',
      'a,b',
    ]);
  });

  it('accumulates for iface-regex', async () => {
    const argv = ['-iface-regex=eth.*', '--iface-regex', '^10\\.', '-iface=eth0', '--iface-regex='];
    expect((await run(argv)).options).toMatchObject({
      ifaces: ['eth0'],
      ifaceRegexes: ['eth.*', '^10\\.', ''],
    });
    const env = { FLANNELD_IFACE_REGEX: 'eth[0-9],wlan.*' };
    expect((await run([], env)).options.ifaceRegexes).toEqual(['eth[0-9],wlan.*']);
    expect((await run(['-iface-regex=e'], env)).options.ifaceRegexes).toEqual(['e']);
  });

  it("stands for the default route's interface when an iface is empty", async () => {
    expect((await run(['-iface='])).options.ifaces).toEqual(['']);
    expect((await run(['-iface=', '-iface=eth1'])).options.ifaces).toEqual(['', 'eth1']);
  });

  it('takes FLANNELD_IFACE as one element', async () => {
    expect((await run([], { FLANNELD_IFACE: 'eth0,eth1' })).options.ifaces).toEqual(['eth0,eth1']);
    expect((await run(['-iface=eth2'], { FLANNELD_IFACE: 'eth0' })).options.ifaces).toEqual(['eth2']);
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

  it('holds for the endpoints too', async () => {
    const env = { FLANNEL_ETCD: 'http://older:1', FLANNEL_ETCD_ENDPOINTS: 'http://newer:1' };
    expect(urls((await run([], env)).options)).toEqual(['http://newer:1']);
    expect(urls((await run([], { FLANNEL_ETCD: 'http://older:1' })).options)).toEqual(['http://older:1']);
  });

  it('passes over empty variables', async () => {
    const env = { FLANNELD_ETCD_PREFIX: '', FLANNEL_ETCD_PREFIX: '', FLANNEL_ETCD_KEY: '/k', FLANNELD_V: '' };
    expect((await run([], env)).options).toMatchObject({ etcdPrefix: '/k', logLevel: 'info' });
  });

  it('takes empty endpoints and an empty prefix, as flanneld-start passes them, for not given', async () => {
    const argv = ['-etcd-endpoints=', '-etcd-prefix='];
    expect((await run(argv)).options).toMatchObject({ etcdPrefix: '/coreos.com/network' });
    const env = { FLANNELD_ETCD_ENDPOINTS: 'a:1', FLANNEL_ETCD_PREFIX: '/p' };
    const { options } = await run(argv, env);
    expect([urls(options), options.etcdPrefix]).toEqual([['http://a:1'], '/p']);
  });

  it('takes a value that FLANNEL_OPTIONS gives after the empty one of flanneld-start', async () => {
    const argv = ['-etcd-endpoints=', '-etcd-prefix=', '-etcd-prefix=/p', '-etcd-endpoints', 'a:1'];
    const { options } = await run(argv, { FLANNEL_ETCD_PREFIX: '/sysconfig' });
    expect([urls(options), options.etcdPrefix]).toEqual([['http://a:1'], '/p']);
    expect((await run(['-etcd-prefix=/p', '-etcd-prefix='])).options.etcdPrefix).toBe('/coreos.com/network');
  });

  it('does not use the variable when the flag is given empty', async () => {
    const env = { FLANNELD_DOCKER_OPTS_FILE: '/tmp/x' };
    expect((await run(['-docker-opts-file='], env)).options).not.toHaveProperty('dockerOptsFile');
  });

  it('does not look at a variable, however wrong, when the flag is given', async () => {
    expect((await run(['-v=1'], { FLANNELD_V: 'wrong' })).options.logLevel).toBe('debug');
  });
});
