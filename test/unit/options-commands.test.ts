import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { SimFiles } from '../../sim/files.ts';
import { parseOptions } from '../../src/daemon/options/command-line.ts';
import { namedCommands } from '../../src/daemon/options/commands.ts';
import { flagsMarkdown, flagTable, GROUPS } from '../../src/daemon/options/flags.ts';
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
    [['lease', 'release', '--etcd-username=root'], '--etcd-username needs a password'],
    [
      ['lease', 'release', '10.5.1.0/24', '-v=1'],
      'lease release takes no -v: see flanneld-ts lease release --help',
    ],
    [['lease', 'release', '10.5.1.7/24'], 'SUBNET has host bits; did you mean 10.5.1.0/24?'],
    [['lease', 'release', '10.5.1.7-24'], 'did you mean 10.5.1.0/24?'],
    [['lease', 'release', 'fc00:1::1/64'], 'did you mean fc00:1::/64?'],
    [['lease', 'release', '10.5.1/24'], 'SUBNET must be a subnet like 10.5.1.0/24'],
    [['lease', 'release', '10.5.1.0'], 'SUBNET must be a subnet'],
    [['lease', 'release', '--public-ip=10.0.0.1', '10.5.1.0/24'], 'takes SUBNET or --public-ip, not both'],
    [['lease', 'release', '--public-ipv6=fc00::1', '10.5.1.0/24'], 'takes SUBNET or --public-ipv6, not both'],
    [['doctor', '--remote=x'], '--remote: '],
    [['status', '--status-socket='], 'status needs a --status-socket'],
    [['health'], '--healthz-port=PORT or FLANNELD_HEALTHZ_PORT'],
    [['health', '--healthz-port=0'], '--healthz-port must be a port from 1 to 65535'],
    [['health', '--healthz-port=70000'], '--healthz-port must be a port from 1 to 65535'],
  ])('%j is refused', async (argv, message) => {
    const { message: said } = await usageError(argv);
    expect(said).toContain(message);
    expect(said).not.toContain('switch it off');
  });
});

describe('health', () => {
  it('takes address and port from flags or the environment, and minds no other variable', async () => {
    expect(await parse(['health', '-healthz-port', '8080'])).toEqual({
      command: 'health',
      options: { ip: '0.0.0.0', port: 8080 },
    });
    const env = { FLANNELD_HEALTHZ_IP: '10.0.0.1', FLANNELD_HEALTHZ_PORT: '8080', FLANNELD_V: 'wrong' };
    expect(await parse(['health'], env)).toMatchObject({ options: { ip: '10.0.0.1', port: 8080 } });
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
    for (const {
      words: [first],
    } of namedCommands)
      expect(help).toContain(`  flanneld-ts ${first} `);
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
    expect(await printed('lease', '--help')).toContain('flanneld-ts lease release [SUBNET]');
    expect(await printed('help', 'lease')).toBe(await printed('lease', '-h'));
  });

  it('prints the version', async () => {
    for (const argv of [['version'], ['--version'], ['-version=T', '-v=wrong']])
      expect(await printed(...argv)).toMatch(/^flanneld-ts \S+$/);
    expect((await parse(['--version=false'])).command).toBe('run');
  });

  it('makes a Markdown table with one row for each flag', () => {
    const rows = flagsMarkdown().trimEnd().split('\n').slice(2);
    expect(rows).toHaveLength(flagTable.length);
    for (const row of rows) expect(row.replaceAll('\\|', '').match(/\|/g)).toHaveLength(5);
    expect(rows[0]).toContain('`FLANNELD_ETCD_ENDPOINTS`, `FLANNEL_ETCD_ENDPOINTS`, `FLANNEL_ETCD`');
  });

  it.each([
    [[''], ['health', 'status', 'doctor', 'lease', 'cleanup', 'help', 'version', 'completion']],
    [['lease', ''], ['release']],
    [
      ['status', '--'],
      ['--json', '--watch', '--status-socket', '--subnet-file', '--help'],
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
  if (parsed.command !== 'doctor' && parsed.command !== 'lease-release') throw new Error(parsed.command);
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

  it('lease release takes what it knows of FLANNEL_OPTIONS, and the SUBNET as ever', async () => {
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
    ['doctor', { FLANNEL_ETCD_ENDPOINTS: 'http://10.0.0.9:2379' }],
  ])('%s with %j: whoever names a place in etcd gets no settings of the service', async (line, env) => {
    const { options, warnings } = await parseBeside(line, usual, env);
    expect(options).not.toMatchObject({ etcdPrefix: '/atomic.io/network' });
    expect(options).toMatchObject(line === 'doctor' ? { ifaces: [] } : { etcdPrefix: '/p', ifaces: [] });
    expect(warnings).toEqual([]);
  });

  it('a wrong flag of the service is told as its', async () => {
    const wrong = { [SYSCONFIG]: 'FLANNEL_OPTIONS="--no-such"\n' };
    await expect(parseBeside('doctor', wrong)).rejects.toThrow(
      /^FLANNEL_OPTIONS of the service: unknown flag "--no-such"/,
    );
  });

  it('says where it looks when there is no file either', async () => {
    expect((await parseBeside('doctor', {})).warnings).toEqual([
      expect.stringMatching(/^looking at http:\/\/127\.0\.0\.1:2379 under \/coreos\.com\/network: neither/),
    ]);
  });
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
