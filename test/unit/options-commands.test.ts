import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { SimFiles } from '../../sim/files.ts';
import { parseOptions } from '../../src/daemon/options/command-line.ts';
import { namedCommands } from '../../src/daemon/options/commands.ts';
import { etcdFlags, flagTable, GROUPS } from '../../src/daemon/options/flags.ts';
import {
  parseEnvironmentFile,
  readServiceSettings,
  splitWords,
} from '../../src/daemon/options/service-settings.ts';
import { flagName } from '../../src/daemon/options/settings.ts';
import { type Env, printed, run, usageError } from './options-run.ts';

const parse = (argv: readonly string[], env: Env = {}) => parseOptions({ argv, env });

describe('commands', () => {
  it.each([
    [['cleanup'], 'cleanup', '--routes'],
    [['lease', 'release'], 'lease-release', '--etcd-prefix=/x'],
    [['doctor'], 'doctor', '--etcd-prefix=/x'],
    [['migrate'], 'migrate', '--from-prefix=/x'],
    [['status'], 'status', '--json'],
  ])('%j are found before, between and behind their flags', async (words, command, flag) => {
    for (const argv of [
      words,
      [...words, flag],
      [flag, ...words],
      [...words.slice(0, 1), flag, ...words.slice(1)],
    ])
      expect((await parse(argv)).command).toBe(command);
  });

  it.each([
    [['lease', 'release', '10.5.1.0/24', '-v=1'], 'takes no -v: see flanneld-ts lease release --help'],
    [['lease', 'release', '10.5.1.7/24'], 'SUBNET has host bits; did you mean 10.5.1.0/24?'],
    [['lease', 'release', 'fc00:1::1/64'], 'did you mean fc00:1::/64?'],
    [['lease', 'release', '10.5.1/24'], 'SUBNET must be a subnet like 10.5.1.0/24'],
    [['lease', 'release', '--public-ip=10.0.0.1', '10.5.1.0/24'], 'takes SUBNET or --public-ip, not both'],
    [['lease', 'release', '--public-ipv6=fc00::1', '10.5.1.0/24'], 'takes SUBNET or --public-ipv6, not both'],
    [['lease', 'show'], 'flanneld-ts lease show needs SUBNET|HOST'],
    [['lease', 'reserve', '10.5.1.0/24'], 'flanneld-ts lease reserve needs HOST'],
    [['lease', 'reserve', '10.5.1.0/24', 'node-1'], 'HOST must be an address like 10.0.0.1'],
    [['lease', 'reserve', '10.5.1.0/24', 'fd00::1'], 'SUBNET and HOST must be of the same families'],
    [['lease', 'reserve', '10.5.1.0/24,10.5.2.0/24', '10.0.0.1'], 'must each be one of a family'],
    [['lease', 'reserve', '10.5.1.0/24', '10.0.0.1', 'x'], 'argument 5 is neither a flag nor a command'],
    [['lease', 'list', '--sort=name'], '--sort must be one of subnet, host, left, age'],
    [['lease', 'prune', '--older-than=12'], '--older-than must be a time like 30m, 12h or 2d'],
    [['status', '--etcd-prefix=/p'], '--etcd-prefix goes with status --cluster alone'],
    [['doctor', '--remote=x'], '--remote: '],
    [['status', '--status-socket='], 'status needs a --status-socket'],
    [
      ['config', 'validate'],
      'flanneld-ts config validate needs FILE: see flanneld-ts config validate --help',
    ],
    [['config', 'set', '--yes'], 'flanneld-ts config set needs FILE'],
    [['config', 'set', 'a', 'b'], 'argument 4 is neither a flag nor a command'],
    [['config', 'show', 'a'], 'argument 3 is neither a flag nor a command'],
    [['config'], '"config" needs a verb: flanneld-ts config show, validate, set, edit, history'],
    [['config', 'shwo'], 'Did you mean show?'],
    [['config', 'validate', 'f', '--etcd-prefix=/p'], 'flanneld-ts config validate takes no --etcd-prefix'],
    [['health'], '--healthz-port=PORT or FLANNELD_HEALTHZ_PORT'],
    [['health', '--healthz-port=0'], '--healthz-port must be a port from 1 to 65535'],
  ])('%j is refused', async (argv, message) => {
    const { message: said } = await usageError(argv);
    expect(said).toContain(message);
    expect(said).not.toContain('switch it off');
  });
});

describe('health', () => {
  it('takes address and port from flags or the environment, and ignores other variables', async () => {
    expect(await parse(['health', '-healthz-port', '8080'])).toEqual({
      command: 'health',
      options: { ip: '0.0.0.0', port: 8080 },
    });
    const env = { FLANNELD_HEALTHZ_IP: '10.0.0.1', FLANNELD_HEALTHZ_PORT: '8080', FLANNELD_V: 'wrong' };
    expect(await parse(['health'], env)).toMatchObject({ options: { ip: '10.0.0.1', port: 8080 } });
  });
});

describe('cleanup', () => {
  it("removes routes only with its flag, and ignores the daemon's variables", async () => {
    const options = { routes: false, routeProtocol: 102, force: false, dryRun: false };
    const env = { FLANNEL_ETCD_PREFIX: '/p', FLANNELD_V: 'wrong', FLANNELD_ROUTES: 'true' };
    expect(await parse(['cleanup'], env)).toEqual({
      command: 'cleanup',
      options: { ...options, subnetFile: '/run/flannel/subnet.env' },
    });
    expect(await parse(['cleanup', '--routes', '--route-protocol=200'])).toMatchObject({
      options: { routes: true, routeProtocol: 200 },
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
    [['--subnet-file=/run/b'], {}, '/run/b.sock'],
    [['--subnet-file=b.env'], {}, 'b.sock'],
    [[], { FLANNELD_SUBNET_FILE: '/run/x/subnet.env' }, '/run/x/subnet.sock'],
    [['--status-socket=/run/s', '--subnet-file=/run/x/subnet.env'], {}, '/run/s'],
    [[], { FLANNELD_STATUS_SOCKET: '/run/s' }, '/run/s'],
  ])('%j and %j find the daemon that was given the same', async (argv, env, path) => {
    expect(await socket(argv, env)).toBe(path);
    expect((await run(argv, env)).options.statusSocket).toBe(path);
  });

  it('has no socket with an empty --status-socket', async () => {
    expect((await run(['--status-socket='])).options.statusSocket).toBeUndefined();
  });

  it('prints text once, JSON with --json, and again with --watch', async () => {
    expect(await parse(['status'])).toMatchObject({ options: { json: false, watch: false } });
    expect(await parse(['status', '-json', '--watch=true'])).toMatchObject({
      options: { json: true, watch: true },
    });
  });
});

describe('config', () => {
  it('takes its file whole, and - for standard input', async () => {
    const long = `/${'x'.repeat(200)}`;
    for (const file of ['-', 'net.json', long]) {
      const expected = { command: 'config', options: { verb: 'validate', file, json: false }, warnings: [] };
      expect(await parse(['config', 'validate', file])).toEqual(expected);
    }
    expect(await parse(['config', 'set', '--dry-run', '-', '--etcd-prefix=/p', '--json'])).toMatchObject({
      options: { verb: 'set', file: '-', dryRun: true, yes: false, json: true, etcdPrefix: '/p' },
    });
  });

  it('looks where the service looks', async () => {
    const { options, warnings } = await parseBeside('config show', usual);
    expect(options).toMatchObject({ verb: 'show', etcdPrefix: '/atomic.io/network' });
    expect(warnings).toEqual([`settings of the service: ${SYSCONFIG}`]);
  });
});

describe('lease', () => {
  it('takes a subnet or a host', async () => {
    expect(await parse(['lease', 'show', '10.5.1.0/24'])).toMatchObject({
      command: 'lease',
      options: { verb: 'show', target: { subnet: { text: '10.5.1.0/24' } } },
    });
    expect(await parse(['lease', 'unreserve', 'FD00::0:1', '--dry-run'])).toMatchObject({
      options: { verb: 'unreserve', target: { address: 'fd00::1' }, dryRun: true },
    });
    expect(await parse(['lease', 'reserve', '10.5.1.0/24,fc00:1::/64', 'fd00::1,10.0.0.1'])).toMatchObject({
      options: {
        subnets: { ipv4: { text: '10.5.1.0/24' }, ipv6: { text: 'fc00:1::/64' } },
        addresses: { ipv4: '10.0.0.1', ipv6: 'fd00::1' },
      },
    });
  });

  it('has defaults', async () => {
    expect(await parse(['lease', 'list'])).toMatchObject({
      options: { verb: 'list', sort: 'subnet', watch: false, json: false },
    });
    expect(await parse(['lease', 'prune', '--subnet-file=/run/b.env'])).toMatchObject({
      options: { olderThanSeconds: 43_200, yes: false, force: false, statusSocket: '/run/b.sock' },
    });
    expect(await parse(['lease', 'prune', '--older-than=2d'])).toMatchObject({
      options: { olderThanSeconds: 172_800 },
    });
  });

  it('status --cluster asks etcd where the service does, and status alone reads nothing of it', async () => {
    const parsed = await parseBeside('status --cluster', usual);
    expect(parsed).toMatchObject({ command: 'lease', options: { verb: 'cluster', watch: false } });
    expect(parsed.options).toMatchObject({ etcdPrefix: '/atomic.io/network' });
    const wrong = await service({ [SYSCONFIG]: 'FLANNEL_OPTIONS="--no-such"' });
    expect(await parseOptions({ argv: ['status'], env: {}, service: wrong })).toMatchObject({
      command: 'status',
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
    // The variable is this host's, for its daemon.
    const env = { FLANNELD_PUBLIC_IP: '10.0.0.1' };
    expect(await lease([text], env)).toMatchObject({ subnet: { text: subnet } });
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

  it('takes a host by its address behind the command', async () => {
    expect(await lease(['10.0.0.1'])).toEqual({
      host: { ifaces: [], ifaceRegexes: [], publicIP: '10.0.0.1' },
    });
    expect(await lease(['fd00::1'])).toMatchObject({ host: { publicIPv6: 'fd00::1' } });
  });

  it('takes a host by its address, or this one by its interface, and no reservation', async () => {
    const found = { ifaces: ['eth0'], ifaceRegexes: ['eth.*'] };
    expect(await lease(['--iface=eth0'], { FLANNELD_IFACE_REGEX: 'eth.*' })).toEqual({ host: found });
    expect(await parse(['lease', 'release', '--public-ip=10.0.0.1'])).toMatchObject({
      options: { lease: { host: { ifaces: [], ifaceRegexes: [], publicIP: '10.0.0.1' } }, force: false },
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

describe('help, version and completion', () => {
  it.each([[['--help']], [['-help']], [['-h']], [['-v=wrong', '--help', '--version']], [['help']]])(
    "%j prints the daemon's help",
    async (argv) => {
      expect(await printed(...argv)).toMatch(/^Usage: flanneld-ts \[COMMAND\] \[flags\]\n/);
    },
  );

  it('shows every flag with its default, below the heading of its group, and every command', async () => {
    const help = await printed('--help');
    const words = help.replaceAll(/\s+/g, ' ');
    const below = new Map<string, string>();
    let heading = '';
    for (const line of help.split('\n')) {
      heading = /^(\w.*):$/.exec(line)?.[1] ?? heading;
      const name = /^ {2,6}--?([\w-]+)/.exec(line)?.[1];
      if (name !== undefined) below.set(name, heading);
    }
    expect(below).toEqual(new Map(flagTable.map(({ name, group }) => [name, group])));
    expect([...new Set(below.values())]).toEqual(GROUPS.filter((group) => group !== 'Options'));
    for (const flag of flagTable) {
      expect(help).toContain(` ${flagName(flag)}`);
      expect(words).toContain(flag.describe);
      if (flag.fallback !== undefined) expect(words).toContain(`(default: ${flag.fallback})`);
    }
    for (const command of namedCommands) expect(help).toContain(`  flanneld-ts ${command.words[0]} `);
  });

  it.each(namedCommands.filter(({ words: [first] }) => first !== 'help'))(
    '$words has a help of its own: its flags and no others',
    async ({ words, describe: text, flags }) => {
      const help = await printed(...words, '--help');
      expect(help).toMatch(new RegExp(`^flanneld-ts ${words.join(' ')}`));
      expect(help.replaceAll(/\s+/g, ' ')).toContain(text);
      const own = Object.values(flags).map(flagName);
      expect(new Set(help.match(/(?<=^ +)--?[a-z][\w-]*/gm))).toEqual(new Set(own));
      expect(help.split('\n').filter((line) => line.length > 80)).toEqual([]);
      expect(await printed('help', ...words)).toBe(help);
      expect(await printed(...words, '-h')).toBe(help);
    },
  );

  it('shows the commands of a group', async () => {
    expect(await printed('lease', '--help')).toContain('flanneld-ts lease release [SUBNET|HOST]');
    expect(await printed('help', 'lease')).toBe(await printed('lease', '-h'));
  });

  it('prints the version', async () => {
    for (const argv of [['version'], ['--version'], ['-version=T', '-v=wrong']])
      expect(await printed(...argv)).toMatch(/^flanneld-ts \S+$/);
    expect((await parse(['--version=false'])).command).toBe('run');
  });

  it.each([
    [[''], 'health status doctor config lease migrate cleanup help version completion'.split(' ')],
    [
      ['config', ''],
      ['show', 'validate', 'set', 'edit', 'history'],
    ],
    [['lease', ''], 'list show reserve unreserve release prune free'.split(' ')],
    [
      ['status', '--'],
      [
        '--cluster',
        '--json',
        '--watch',
        '--status-socket',
        '--subnet-file',
        ...Object.values(etcdFlags).map(flagName),
        '--help',
      ],
    ],
    [['--'], flagTable.map(flagName).map((name) => name.replace(/^-(?=\w$)/, '--'))],
  ])('completes %j', async (typed, expected) => {
    expect(await completed('--get-yargs-completions', 'flanneld-ts', ...typed)).toEqual(expected);
  });

  it('prints the script for completion', async () => {
    expect((await completed('completion')).join('\n')).toMatch(
      /flanneld-ts --get-yargs-completions[^]*complete .* flanneld-ts\n/,
    );
  });
});

/** The lines that yargs prints. */
async function completed(...argv: readonly string[]): Promise<readonly string[]> {
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  onTestFinished(() => log.mockRestore());
  vi.stubEnv('SHELL', '/bin/bash');
  onTestFinished(() => void vi.unstubAllEnvs());
  const parsed = await parse(argv);
  if (parsed.command !== 'completion') throw new Error(`expected a completion, got ${parsed.command}`);
  await parsed.print();
  return log.mock.calls.map(([line]) => String(line));
}

const SYSCONFIG = '/etc/sysconfig/flanneld';
const DEFAULT = '/etc/default/flanneld';

async function service(contents: Readonly<Record<string, string>>) {
  const files = new SimFiles();
  for (const [path, text] of Object.entries(contents)) await files.writeAtomic(path, text, 0o644);
  return () => readServiceSettings(files);
}

async function parseBeside(line: string, contents: Readonly<Record<string, string>>, env = {}) {
  const parsed = await parseOptions({ argv: line.split(' '), env, service: await service(contents) });
  if (!('options' in parsed && 'warnings' in parsed)) throw new Error(parsed.command);
  return parsed;
}

const usual = {
  [SYSCONFIG]:
    'FLANNEL_ETCD_ENDPOINTS="http://10.0.0.1:2379"\nFLANNEL_ETCD_PREFIX="/atomic.io/network"\nFLANNEL_OPTIONS="--iface=eth1 --ip-masq"\n',
};

describe('doctor and lease release without flags', () => {
  it('look where the service looks, and say so in one line', async () => {
    const { options, warnings } = await parseBeside('doctor', usual);
    expect(options).toMatchObject({
      etcdPrefix: '/atomic.io/network',
      etcdEndpoints: [{ url: 'http://10.0.0.1:2379' }],
      ifaces: ['eth1'],
      ipMasq: true,
    });
    expect(warnings).toEqual([`settings of the service: ${SYSCONFIG}`]);
  });

  it('lease release takes the flags that it has from FLANNEL_OPTIONS, and SUBNET beside them', async () => {
    const parsed = await parseBeside('lease release 172.20.9.0/24', usual);
    expect(parsed.options).toMatchObject({
      etcdPrefix: '/atomic.io/network',
      lease: { subnet: { text: '172.20.9.0/24' } },
    });
    expect((await parseBeside('lease release', usual)).options).toMatchObject({
      lease: { host: { ifaces: ['eth1'] } },
    });
  });

  it('the later file wins, as it does for the service', async () => {
    const { options, warnings } = await parseBeside('doctor', {
      ...usual,
      [DEFAULT]: 'FLANNEL_ETCD_PREFIX=/other\nFLANNELD_IFACE=eth2\nFLANNEL_OPTIONS=\n',
    });
    expect(options).toMatchObject({ etcdPrefix: '/other', ifaces: ['eth2'], ipMasq: false });
    expect(warnings).toEqual([`settings of the service: ${SYSCONFIG} and, winning, ${DEFAULT}`]);
  });

  it('a flag replaces that of the service, and a variable of the caller its variable', async () => {
    const { options } = await parseBeside('doctor --iface=eth7', usual, { FLANNELD_IP_MASQ: 'false' });
    expect(options).toMatchObject({ ifaces: ['eth7'], ipMasq: true, etcdPrefix: '/atomic.io/network' });
  });

  it.each([
    ['doctor --etcd-prefix=/p', {}],
    ['doctor', { FLANNEL_ETCD_ENDPOINTS: 'http://127.0.0.1:2379' }],
    ['lease release --etcd-endpoints=http://10.0.0.9:2379', {}],
    ['lease release', { FLANNELD_ETCD_PREFIX: '/p' }],
  ])('%s with %j, which names a place in etcd, gets no settings of the service', async (line, env) => {
    const { options, warnings } = await parseBeside(line, usual, env);
    expect(options).not.toMatchObject({ etcdPrefix: '/atomic.io/network' });
    expect(JSON.stringify(options)).not.toContain('eth1');
    expect(warnings).toEqual([]);
  });

  it('a wrong flag in FLANNEL_OPTIONS is named with it', async () => {
    const wrong = { [SYSCONFIG]: 'FLANNEL_OPTIONS="--no-such"\n' };
    await expect(parseBeside('doctor', wrong)).rejects.toThrow(
      /^FLANNEL_OPTIONS of the service: unknown flag "--no-such"/,
    );
  });

  it.each(['doctor', 'lease release --etcd-prefix= --iface=eth0'])(
    '%s says where it looks when there is no file either',
    async (line) => {
      expect((await parseBeside(line, {})).warnings).toEqual([
        expect.stringMatching(/^looking at http:\/\/127\.0\.0\.1:2379 under \/coreos\.com\/network: neither/),
      ]);
    },
  );
});

describe("systemd's rules", () => {
  // Held against systemd itself by the end-to-end tests.
  it('an environment file', () => {
    const text = [
      '# A=comment',
      '; A=comment',
      'A=plain  ',
      "C='it is $HOME \\ '",
      'D="a \\"b\\" \\$c \\x"',
      'E=one\\ two',
      'no assignment',
      'G="two',
      'lines"',
      'H=',
      "I=-a'b c'-d",
      ' J = \'a\' "b" # c',
    ].join('\n');
    expect(Object.fromEntries(parseEnvironmentFile(text))).toMatchObject({
      A: 'plain',
      C: 'it is $HOME \\ ',
      D: 'a "b" $c \\x',
      E: 'one two',
      G: 'two\nlines',
      H: '',
      I: "-a'b c'-d",
      J: 'ab# c',
    });
  });

  it.each([
    ['', []],
    ['  --iface=eth0\t--ip-masq ', ['--iface=eth0', '--ip-masq']],
    ['--iface-regex="a b" \'-v 1\' x\\ y', ['--iface-regex=a b', '-v 1', 'x y']],
  ])('%j in a command', (text, words) => {
    expect(splitWords(text)).toEqual(words);
  });
});
