import { describe, expect, it } from 'vitest';
import { parseOptions } from '../../src/daemon/options/command-line.ts';
import { type Env, usageError } from './options-run.ts';

async function migrate(argv: readonly string[], env: Env = {}) {
  const parsed = await parseOptions({ argv: ['migrate', ...argv], env });
  if (parsed.command !== 'migrate') throw new Error(parsed.command);
  return parsed;
}

const secured = [
  '--etcd-endpoints=https://10.0.0.1:2379,https://10.0.0.2:2379',
  '--etcd-prefix=/net',
  '--etcd-cafile=/ca.pem',
  '--etcd-username=flannel',
  '--etcd-password-file=/password',
];

describe('migrate', () => {
  it('reads the v2 store of the etcd that it writes to, in the same way and under the same prefix', async () => {
    const { options, warnings } = await migrate(secured);
    expect(options).toEqual({ from: options.to, to: options.to, dryRun: false });
    expect(options.from).toMatchObject({
      etcdEndpoints: [{ url: 'https://10.0.0.1:2379' }, { url: 'https://10.0.0.2:2379' }],
      etcdPrefix: '/net',
      etcdTls: { caFile: '/ca.pem' },
      etcdUser: { username: 'flannel', passwordFile: '/password' },
    });
    expect(warnings).toEqual([]);
  });

  it('takes what is different for v2 from the flags for it, and --dry-run', async () => {
    const { options } = await migrate([
      ...secured,
      '--from-prefix=/old',
      '--from-username=root',
      '--from-password-file=/v2-password',
      '--from-cafile=/v2-ca.pem',
      '--dry-run',
    ]);
    expect(options).toMatchObject({
      dryRun: true,
      from: {
        etcdEndpoints: options.to.etcdEndpoints,
        etcdPrefix: '/old',
        etcdTls: { caFile: '/v2-ca.pem' },
        etcdUser: { username: 'root', passwordFile: '/v2-password' },
      },
      to: { etcdPrefix: '/net', etcdTls: { caFile: '/ca.pem' }, etcdUser: { username: 'flannel' } },
    });
  });

  it('sends another etcd neither the password nor the certificates of this one', async () => {
    const { options } = await migrate([...secured, '--from-endpoints=http://10.0.0.9:4001']);
    expect(options.from).toEqual({
      etcdEndpoints: [{ url: 'http://10.0.0.9:4001', scheme: 'http', host: '10.0.0.9', port: 4001 }],
      etcdPrefix: '/net',
      etcdTls: {},
    });
  });

  it('takes variables, and for v3 those of the sysconfig file', async () => {
    const { options } = await migrate([], {
      FLANNEL_ETCD_ENDPOINTS: 'http://10.0.0.1:2379',
      FLANNEL_ETCD_PREFIX: '/atomic.io/network',
      FLANNELD_FROM_USERNAME: 'root',
      FLANNELD_FROM_PASSWORD: 'secret',
    });
    expect(options.from).toMatchObject({
      etcdEndpoints: [{ url: 'http://10.0.0.1:2379' }],
      etcdPrefix: '/atomic.io/network',
      etcdUser: { username: 'root', password: 'secret' },
    });
    expect(options.to).not.toHaveProperty('etcdUser');
  });

  it('takes --repair, and the subnets that are named with it', async () => {
    expect((await migrate(['--repair', '--dry-run'])).options).toMatchObject({
      dryRun: true,
      repair: { named: [] },
    });
    const named = ['--repair-subnet=10.5.1.0/24, 10.5.2.0-24', '--repair-subnet', '10.5.3.0/24'];
    expect((await migrate(['--repair', ...named])).options.repair).toEqual({
      named: ['10.5.1.0/24', '10.5.2.0/24', '10.5.3.0/24'],
    });
  });

  it.each([
    [
      'what flanneld is given',
      [],
      { url: 'http://10.0.0.9:4001', prefix: '/atomic.io/network', user: 'flannel' },
    ],
    [
      'what it is told',
      ['--etcd-endpoints=http://10.0.0.1:2379'],
      { url: 'http://10.0.0.1:2379', prefix: '/coreos.com/network', user: undefined },
    ],
  ])('--check looks at %s', async (_, argv, { url, prefix, user }) => {
    const service = () =>
      Promise.reject(new Error('the settings of the service are read by the check itself'));
    const parsed = await parseOptions({ argv: ['migrate', '--check', ...argv], env: {}, service });
    if (parsed.command !== 'migrate-check') throw new Error(parsed.command);
    const given = [
      { name: 'etcd-endpoints', value: 'http://10.0.0.9:4001' },
      { name: 'etcd-username', value: 'flannel' },
      { name: 'etcd-password', value: 'secret' },
    ];
    const { from, to } = parsed.options.etcdBeside(given, { FLANNEL_ETCD_PREFIX: '/atomic.io/network' });
    expect(from).toEqual(to);
    expect([to.etcdEndpoints[0]?.url, to.etcdPrefix, to.etcdUser?.username]).toEqual([url, prefix, user]);
  });

  it.each([
    [['--check', '--repair'], '--check and --repair are two things'],
    [['--repair-subnet=10.5.1.0/24'], '--repair-subnet goes with --repair'],
    [['--repair', '--repair-subnet=all'], '--repair-subnet must be subnets like 10.5.1.0/24'],
    [['--from-certfile=/c.pem'], '--from-certfile needs --from-keyfile'],
    [
      ['--from-username=root'],
      '--from-username needs a password: FLANNELD_FROM_PASSWORD or --from-password-file',
    ],
    [['--from-endpoints=nowhere'], '--from-endpoints must be a comma list of endpoints'],
    [['--iface=eth0'], 'takes no --iface'],
    [['--follow', '--dry-run'], '--follow or --dry-run, not both'],
    [['--healthz-port=8080'], '--healthz-port goes with migrate --follow alone'],
    [['10.5.1.0/24'], 'argument 2 is neither a flag nor a command'],
  ])('%j is refused', async (argv, message) => {
    expect((await usageError(['migrate', ...argv])).message).toContain(message);
  });
});

describe('migrate --follow', () => {
  const service = async () => ({
    paths: ['/etc/sysconfig/flanneld'],
    env: { FLANNEL_ETCD_PREFIX: '/atomic.io/network', FLANNELD_HEALTHZ_PORT: '8080' },
    argv: ['--healthz-port=8080', '--log-level=debug', '--etcd-username=flannel', '--etcd-password=x'],
  });

  it('takes probes and log from its own flags', async () => {
    const argv = ['migrate', '--follow', '--healthz-ip=127.0.0.1', '--healthz-port=8081', '-v=1'];
    const { command, options } = (await parseOptions({ argv, env: {} })) as {
      command: string;
      options: object;
    };
    expect(command).toBe('migrate-follow');
    expect(options).toMatchObject({ healthz: { ip: '127.0.0.1', port: 8081 }, logLevel: 'debug' });
  });

  it.each([[['migrate']], [['migrate', '--follow']]])(
    '%j looks where the daemon of this host looks, but does not take its port and its log level',
    async (argv) => {
      const { options } = (await parseOptions({ argv, env: { FLANNELD_HEALTHZ_PORT: '8080' }, service })) as {
        options: object;
      };
      expect(options).toMatchObject({
        to: { etcdPrefix: '/atomic.io/network', etcdUser: { username: 'flannel' } },
      });
      expect(options).not.toHaveProperty('healthz');
      expect(options).not.toHaveProperty('logLevel', 'debug');
    },
  );
});
