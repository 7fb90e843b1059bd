import { describe, expect, it } from 'vitest';
import { type ParsedCommand, parseOptions } from '../../src/daemon/options/options.ts';
import { type Env, run, usageError } from './options-run.ts';

const parse = (argv: readonly string[], env: Env = {}) => parseOptions({ argv, env });

async function help(argv: readonly string[]): Promise<string> {
  const command = await parse(argv);
  if (command.command !== 'help') throw new Error(`expected help, got ${command.command}`);
  return command.text;
}

describe('commands', () => {
  it.each<[readonly string[], ParsedCommand['command'], string]>([
    [['cleanup'], 'cleanup', '--routes'],
    [['lease', 'release'], 'lease-release', '--etcd-prefix=/x'],
    [['doctor'], 'doctor', '--etcd-prefix=/x'],
    [['status'], 'status', '--json'],
  ])('%j is one as the first words only', async (words, command, flag) => {
    expect((await parse(words)).command).toBe(command);
    expect((await parse([...words, flag])).command).toBe(command);
    expect((await usageError(['-v=1', ...words])).message).toContain('A command comes first');
  });

  it.each([
    [['cleanup'], '[--routes] [--dry-run] [--force]'],
    [['lease', 'release'], '[--dry-run] [--force] [flags] [SUBNET]'],
    [['doctor'], '[flags]'],
    [['status'], '[--json] [--watch]'],
  ])('%j has its own help', async (words, usage) => {
    const text = await help([...words, '--help']);
    expect(text).toMatch(new RegExp(`^Usage: flanneld-ts ${words.join(' ')} `));
    expect(text.split('\n', 1)[0]).toContain(usage);
    expect(text.split('\n').filter((line) => line.length > 80)).toEqual([]);
    expect(await help(['--help'])).toContain(`  ${words.join(' ')} `);
  });

  it.each(['--help', '-help', '-h'])('lease %s has the help of lease release', async (flag) => {
    expect(await help(['lease', flag])).toBe(await help(['help', 'lease']));
  });

  it.each([
    [['lease'], '"lease" needs a verb: flanneld-ts lease release'],
    [['lease', 'renew'], 'unknown command "lease renew". Commands: '],
    [['lease', '--force'], '"lease" needs a verb'],
    [['lease', '--help', 'x'], '"lease" needs a verb'],
    [['cleanup', 'now'], 'cleanup takes flags only, not "now"'],
    [['cleanup', '--iface=eth0'], 'unknown flag "--iface": see flanneld-ts cleanup --help'],
    [['cleanup', '--route'], 'did you mean --routes?'],
    [['cleanup', '--routes=yes'], '--routes is "yes": it must be true or false'],
    [['lease', 'release', '--etcd-username=root'], '--etcd-username needs a password'],
    [['lease', 'release', '10.5.1.0/24', '-v=1'], 'unknown flag "-v": see flanneld-ts lease release --help'],
    [
      ['lease', 'release', '10.5.1.0/24', '--force', '10.5.2.0/24'],
      'lease release takes one SUBNET, not "10.5.1.0/24" "10.5.2.0/24"',
    ],
    [
      ['lease', 'release', '10.5.1.7/24'],
      'SUBNET is "10.5.1.7/24": it has host bits; did you mean 10.5.1.0/24?',
    ],
    [['lease', 'release', '10.5.1.7-24'], 'did you mean 10.5.1.0/24?'],
    [['lease', 'release', 'fc00:1::1/64'], 'did you mean fc00:1::/64?'],
    [['lease', 'release', '10.5.1/24'], 'SUBNET is "10.5.1/24": it must be a subnet like 10.5.1.0/24'],
    [['lease', 'release', '10.5.1.0'], 'SUBNET is "10.5.1.0"'],
    [['lease', 'release', '--public-ip=10.0.0.1', '10.5.1.0/24'], 'takes SUBNET or --public-ip, not both'],
    [['lease', 'release', '--public-ipv6=fc00::1', '10.5.1.0/24'], 'takes SUBNET or --public-ipv6, not both'],
    [['lease', 'release', '--etcd-password=', 'hunter2'], 'SUBNET is (not shown): it must be a subnet'],
    [['lease', 'release', '--etcd-password=', '10.5.1.7/24'], 'SUBNET is (not shown): it must be a subnet'],
    [['doctor', '--remote=x'], '--remote: '],
    [['status', '--iface=eth0'], 'unknown flag "--iface": see flanneld-ts status --help'],
    [['status', '--status-socket='], 'status needs a --status-socket'],
    [['doctor', '--routes'], 'unknown flag "--routes"'],
  ])('%j is refused', async (argv, message) => {
    const error = await usageError(argv);
    expect(error.message).toContain(message);
    expect(error.message).not.toContain('hunter2');
  });
});

describe.each(['doctor', 'lease release'])('%s', (name) => {
  const warnings = async (argv: readonly string[], env: Env = {}) => {
    const parsed = await parse([...name.split(' '), ...argv], env);
    return 'warnings' in parsed ? parsed.warnings : [parsed.command];
  };

  it('says where it looks, and what the service has, when it is told nothing', async () => {
    const [warning, ...others] = await warnings(['--etcd-prefix=', '--iface=eth0']);
    expect(others).toEqual([]);
    expect(warning).toContain('http://127.0.0.1:2379 under /coreos.com/network');
  });

  it.each<[readonly string[], Env]>([
    [['--etcd-prefix=/p'], {}],
    [['--etcd-endpoints=http://10.0.0.1:2379'], {}],
    [[], { FLANNELD_ETCD_PREFIX: '/p' }],
    [[], { FLANNEL_ETCD_ENDPOINTS: 'http://127.0.0.1:2379' }],
  ])('says nothing of it with %j and %j', async (argv, env) => {
    expect(await warnings(argv, env)).toEqual([]);
  });
});

describe('cleanup', () => {
  it('needs to know nothing', async () => {
    expect(await parse(['cleanup'], { FLANNEL_ETCD_PREFIX: '/p', FLANNELD_V: 'wrong' })).toEqual({
      command: 'cleanup',
      options: {
        routes: false,
        routeProtocol: 102,
        subnetFile: '/run/flannel/subnet.env',
        force: false,
        dryRun: false,
      },
    });
  });

  it('takes routes off when asked, which no variable can', async () => {
    expect(await parse(['cleanup', '--routes', '--route-protocol=200'])).toMatchObject({
      options: { routes: true, routeProtocol: 200 },
    });
    expect(await parse(['cleanup'], { FLANNELD_ROUTES: 'true' })).toMatchObject({
      options: { routes: false },
    });
  });
});

describe('status', () => {
  const socket = async (argv: readonly string[], env: Env = {}) => {
    const parsed = await parse(['status', ...argv], env);
    return parsed.command === 'status' ? parsed.options.socketPath : parsed.command;
  };

  it.each<[readonly string[], Env, string | undefined]>([
    [[], {}, '/run/flannel/subnet.sock'],
    [['--subnet-file=/run/second/subnet.env'], {}, '/run/second/subnet.sock'],
    [['--subnet-file=/run/flannel/b.env'], {}, '/run/flannel/b.sock'],
    [['--subnet-file=/run/b'], {}, '/run/b.sock'],
    [['--subnet-file=b.env'], {}, 'b.sock'],
    [[], { FLANNELD_SUBNET_FILE: '/run/x/subnet.env' }, '/run/x/subnet.sock'],
    [['--status-socket=/run/s', '--subnet-file=/run/x/subnet.env'], {}, '/run/s'],
    [[], { FLANNELD_STATUS_SOCKET: '/run/s' }, '/run/s'],
  ])('%j and %j find the daemon that was given the same', async (argv, env, path) => {
    expect(await socket(argv, env)).toBe(path);
    expect((await run(argv, env)).options.statusSocket).toBe(path);
  });

  it('can be switched off', async () => {
    expect((await run(['--status-socket='])).options.statusSocket).toBeUndefined();
  });

  it('prints text once, unless told otherwise', async () => {
    expect(await parse(['status'])).toMatchObject({ options: { json: false, watch: false } });
    expect(await parse(['status', '-json', '--watch=true'])).toMatchObject({
      options: { json: true, watch: true },
    });
  });
});

describe('lease release', () => {
  const lease = async (argv: readonly string[], env: Env = {}) => {
    const parsed = await parse(['lease', 'release', ...argv], env);
    return parsed.command === 'lease-release' ? parsed.options.lease : parsed.command;
  };

  it.each([
    ['10.5.1.0/24', '10.5.1.0/24'],
    ['10.5.1.0-24', '10.5.1.0/24'],
    ['FC00:1:0::/64', 'fc00:1::/64'],
  ])('takes the subnet %s', async (text, subnet) => {
    expect(await lease([text])).toMatchObject({ subnet: { text: subnet } });
    // The variable is this host's, for its daemon.
    expect(await lease([text], { FLANNELD_PUBLIC_IP: '10.0.0.1' })).toMatchObject({
      subnet: { text: subnet },
    });
  });

  it('takes SUBNET before, between and after its flags', async () => {
    for (const argv of [
      ['10.5.1.0/24', '--force', '--etcd-prefix=/p'],
      ['--force', '10.5.1.0/24', '--etcd-prefix', '/p'],
      ['--force', '--etcd-prefix=/p', '10.5.1.0/24'],
      ['--etcd-prefix=/p', '--force', '--', '10.5.1.0/24'],
    ]) {
      expect(await parse(['lease', 'release', ...argv])).toMatchObject({
        options: { lease: { subnet: { text: '10.5.1.0/24' } }, force: true, etcdPrefix: '/p' },
      });
    }
  });

  it('warns about a password in the process list', async () => {
    const user = ['--etcd-prefix=/p', '--etcd-username=root', '--etcd-password=x'];
    expect(await parse(['lease', 'release', ...user])).toMatchObject({
      warnings: [expect.stringContaining('process list')],
    });
  });

  it('leaves reservations alone unless told', async () => {
    expect(await parse(['lease', 'release'])).toMatchObject({ options: { force: false } });
    expect(await parse(['lease', 'release', '--force'])).toMatchObject({ options: { force: true } });
  });

  it('takes a host by its address, or this one by its interface', async () => {
    expect(await lease(['--public-ip=10.0.0.1'])).toEqual({
      host: { ifaces: [], ifaceRegexes: [], publicIP: '10.0.0.1' },
    });
    expect(await lease(['--iface=eth0'])).toEqual({ host: { ifaces: ['eth0'], ifaceRegexes: [] } });
    expect(await lease([], { FLANNELD_IFACE_REGEX: 'eth.*' })).toEqual({
      host: { ifaces: [], ifaceRegexes: ['eth.*'] },
    });
  });
});

describe('doctor', () => {
  it('takes all that the daemon takes, and reads it alike', async () => {
    const argv = ['-iface=eth0', '-ip-masq', '-logtostderr', '--healthz-port=8080'];
    const env = { FLANNELD_ETCD_PREFIX: '/p', FLANNELD_TYPO: 'x' };
    expect(await parse(['doctor', ...argv], env)).toEqual({ ...(await run(argv, env)), command: 'doctor' });
  });
});
