import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../src/daemon/options/errors.ts';
import { environmentName } from '../../src/daemon/options/flag.ts';
import { parseOptions } from '../../src/daemon/options/options.ts';
import { flagTable } from '../../src/daemon/options/table.ts';
import { run, usageError } from './options-run.ts';

const outcome = (argv: readonly string[]) =>
  parseOptions({ argv, env: {} }).catch((error: unknown) => String(error));

const COMMANDS =
  'Commands: health, status, doctor, lease release, cleanup, help, version. Without one the daemon starts: see flanneld-ts --help';

describe('a word that is no flag', () => {
  it.each([
    [['statsu'], `unknown command "statsu". Did you mean "status"? ${COMMANDS}`],
    [['stat', '--json'], 'unknown command "stat". Did you mean "status"?'],
    [['STATUS'], 'unknown command "STATUS". Did you mean "status"?'],
    [['relase', '10.5.1.0/24'], 'unknown command "relase". Did you mean "lease release"?'],
    [['lease', 'relase', '10.5.1.0/24'], 'unknown command "lease relase". Did you mean "lease release"?'],
    [['config'], `unknown command "config". ${COMMANDS}`],
    [['start', '-etcd-prefix=/x'], `unknown command "start". ${COMMANDS}`],
    [[''], `unknown command "". ${COMMANDS}`],
    [['-'], `unknown command "-". ${COMMANDS}`],
    [['help', 'statsu'], 'unknown command "statsu". Did you mean "status"?'],
    [['help', 'lease', 'relase'], 'unknown command "lease relase". Did you mean "lease release"?'],
    [['\u2013version'], '"\u2013version" begins with another dash than "-"'],
    [['-v=1', '\u2014iface=eth0'], '"\u2014iface=eth0" begins with another dash than "-"'],
    // Behind flags, where the flags after it would be lost.
    [
      ['-v=1', 'start', '-etcd-prefix=/x'],
      `the daemon takes flags only, not "start" "-etcd-prefix=/x". ${COMMANDS}`,
    ],
    [['-v=1', 'statsu'], 'not "statsu". A command comes first: flanneld-ts status …'],
    [['-v=1', 'status', '--json'], 'not "status" "--json". A command comes first: flanneld-ts status …'],
    [['-v=1', '', 'x\ny'], 'the daemon takes flags only, not "" "x\\ny".'],
    [['-v=1', '--', '-etcd-prefix=/x'], 'nothing after "--" would be read: "-etcd-prefix=/x"'],
    [['--', 'status'], 'not "status". A command comes first'],
    [['doctor', '--', '-etcd-prefix=/x'], 'nothing after "--" would be read: "-etcd-prefix=/x"'],
    [['doctor', 'now'], 'doctor takes flags only, not "now"'],
    [['version', 'now'], 'version takes flags only, not "now"'],
    // The value of a boolean.
    [
      ['--ip-masq', 'true', '--etcd-prefix=/x'],
      '--ip-masq takes no separate value: write --ip-masq or --ip-masq=true. Nothing after "true" would be read.',
    ],
    [['-ip-masq', 'false'], '--ip-masq takes no separate value: write --ip-masq=false.'],
    [['--ip-masq', 'yes'], 'the daemon takes flags only, not "yes"'],
    [['lease', 'release', '--force', 'true', '10.5.1.0/24'], '--force takes no separate value'],
    [['doctor', '-logtostderr', 'true', '-iface=eth0'], '--logtostderr takes no separate value'],
    // A flag that another one would take for its value.
    [['--iface', '--etcd-prefix=/x'], '--iface needs a value: --iface=…, and "--etcd-prefix=…" is a flag'],
    [['-iface', '-ip-masq'], '--iface needs a value: --iface=…, and "-ip-masq" is a flag of its own'],
    [['--etcd-prefix', '-logtostderr'], '"-logtostderr" is a flag of its own'],
    [['lease', 'release', '--iface', '--force'], '"--force" is a flag of its own'],
  ])('is refused: %j', async (argv, message) => {
    const error = await usageError(argv);
    expect(error.message).toContain(message);
    expect(error.exitCode).toBe(2);
  });

  it('never starts a daemon, wherever it stands among flags that are in order', async () => {
    const inOrder = fc.constantFrom(
      '--iface=eth0',
      '-ip-masq',
      '--etcd-prefix=/p',
      '-v=1',
      '--set-ip-forward=F',
    );
    const word = fc
      .oneof(
        fc.string(),
        fc.constantFrom('true', 'false', '', '-', 'status', 'statsu', 'lease', 'run', 'start', 'x=y', '/p'),
      )
      .filter((text) => text.length < 2 || !text.startsWith('-'));
    await fc.assert(
      fc.asyncProperty(fc.array(inOrder), word, fc.array(inOrder), async (before, stray, after) => {
        const said = await outcome([...before, stray, ...after]);
        if (typeof said === 'string') expect(said).toContain('UsageError: ');
        else expect(said.command).not.toBe('run');
      }),
    );
  });

  it('is a value where a flag takes one, whatever it looks like', async () => {
    const { options } = await run(['-v', '-1', '--iface', '-x', '-etcd-prefix', 'status']);
    expect(options).toMatchObject({ ifaces: ['-x'], etcdPrefix: 'status' });
  });

  it('is missed by nobody after a closing --', async () => {
    expect((await run(['-v=1', '--'])).warnings).toEqual([]);
  });
});

describe('what is ignored', () => {
  it('includes variables of no flag', async () => {
    const { warnings } = await run([], {
      FLANNELD_ETCD_ENDPOINT: 'http://a:1',
      FLANNELD_EMPTY: '',
      OTHER: 'x',
    });
    expect(warnings).toEqual([
      'ignored, because there is no such flag: the variable "FLANNELD_ETCD_ENDPOINT"; did you mean FLANNELD_ETCD_ENDPOINTS?',
    ]);
  });
});

describe('wrong usage', () => {
  it.each([
    [
      ['--etcd-endpoint=x'],
      'USAGE_UNKNOWN_FLAG',
      'unknown flag "--etcd-endpoint": did you mean --etcd-endpoints?',
    ],
    [
      ['-etcd_prefix', 'x'],
      'USAGE_UNKNOWN_FLAG',
      'unknown flag "--etcd_prefix": did you mean --etcd-prefix?',
    ],
    [['--Iface=x'], 'USAGE_UNKNOWN_FLAG', 'unknown flag "--Iface": did you mean --iface?'],
    [['--frobnicate'], 'USAGE_UNKNOWN_FLAG', 'unknown flag "--frobnicate": see flanneld-ts --help'],
    [['--toString'], 'USAGE_UNKNOWN_FLAG', 'unknown flag "--toString": see flanneld-ts --help'],
    [['--__proto__=1'], 'USAGE_UNKNOWN_FLAG', 'unknown flag "--__proto__": see flanneld-ts --help'],
    [['---v'], 'USAGE_SYNTAX', '"---v" is not a flag'],
    [['-iface'], 'USAGE_MISSING_VALUE', '--iface needs a value'],
    [['-v=debug'], 'USAGE_BAD_VALUE', '-v is "debug": it must be an integer'],
    [['-v='], 'USAGE_BAD_VALUE', '-v is ""'],
    [['-v=1x'], 'USAGE_BAD_VALUE', '-v is "1x": it must be an integer'],
    [['-v=2147483648'], 'USAGE_BAD_VALUE', '-v is "2147483648"'],
    [['--version=yes'], 'USAGE_BAD_VALUE', '--version is "yes": it must be true or false'],
    [['--subnet-lease-renew-margin=0'], 'USAGE_BAD_VALUE', 'it must be an integer from 1 to 1439'],
    [['--subnet-lease-renew-margin=1440'], 'USAGE_BAD_VALUE', 'it must be an integer from 1 to 1439'],
    [['--subnet-lease-renew-margin=60m'], 'USAGE_BAD_VALUE', 'it must be an integer from 1 to 1439'],
    [
      ['--route-protocol=3'],
      'USAGE_BAD_VALUE',
      '0 to 4 mark the routes of the kernel, boot scripts and the administrator',
    ],
    [['--route-protocol=256'], 'USAGE_BAD_VALUE', 'an integer from 5 to 255'],
    [['--route-protocol=16'], 'USAGE_BAD_VALUE', 'marks the routes of DHCP clients'],
    [
      ['--subnet-file=/run/a', '--docker-opts-file=/run/a'],
      'USAGE_BAD_VALUE',
      'must be different files: "/run/a"',
    ],
    [['--log-level=trace'], 'USAGE_BAD_VALUE', 'it must be one of debug, info, warn, error'],
    [['--log-format=xml'], 'USAGE_BAD_VALUE', 'it must be one of json, pretty'],
    [['--subnet-file='], 'USAGE_BAD_VALUE', '--subnet-file is "": it must be the path of a file'],
    [['--subnet-file=/run/flannel/'], 'USAGE_BAD_VALUE', 'it must be the path of a file'],
    [['--docker-opts-file=/run/..'], 'USAGE_BAD_VALUE', 'it must be the path of a file'],
    [['--docker-opts-key='], 'USAGE_BAD_VALUE', 'it must be the name of a shell variable'],
    [['--docker-opts-key=A B'], 'USAGE_BAD_VALUE', 'it must be the name of a shell variable'],
    [['--docker-opts-key=1A'], 'USAGE_BAD_VALUE', 'it must be the name of a shell variable'],
    [['--subnet-lease-ttl=29'], 'USAGE_BAD_VALUE', 'it must be an integer from 30 to 31536000'],
    [['--subnet-lease-ttl=31536001'], 'USAGE_BAD_VALUE', 'it must be an integer from 30 to 31536000'],
    [['--iptables-resync=0'], 'USAGE_BAD_VALUE', 'it must be a number of seconds, at least 1'],
    [['--iptables-resync=5s'], 'USAGE_BAD_VALUE', 'it must be a number of seconds, at least 1'],
    [['--iptables-forward-position=middle'], 'USAGE_BAD_VALUE', 'it must be one of auto, first, last'],
    [['--ip-masq=yes'], 'USAGE_BAD_VALUE', '--ip-masq is "yes": it must be true or false'],
    [['--ip-masq='], 'USAGE_BAD_VALUE', '--ip-masq is "": it must be true or false'],
    [['--public-ip=fc00::1'], 'USAGE_BAD_VALUE', 'it must be an IPv4 address'],
    [['--public-ip=10.0.0.1/24'], 'USAGE_BAD_VALUE', 'it must be an IPv4 address'],
    [['--public-ipv6=10.0.0.1'], 'USAGE_BAD_VALUE', 'it must be an IPv6 address'],
    [['--iface-regex=eth['], 'USAGE_BAD_VALUE', "regular expression in Go's syntax: missing closing ]: ["],
    [['--iface-regex=ok', '--iface-regex=(?<!x)'], 'USAGE_BAD_VALUE', 'Go has no lookahead or lookbehind'],
    [['--iface-can-reach=router'], 'USAGE_BAD_VALUE', 'it must be an IP address'],
    [['--healthz-ip=localhost'], 'USAGE_BAD_VALUE', 'it must be an IP address'],
    [['--healthz-port=65536'], 'USAGE_BAD_VALUE', 'it must be a port from 1 to 65535, or 0'],
    [
      ['--etcd-endpoints=http://a'],
      'USAGE_BAD_VALUE',
      '--etcd-endpoints is "http://a": it must be a comma list',
    ],
  ])('%j is refused as %s', async (argv, code, message) => {
    const error = await usageError(argv);
    expect(error.message).toContain(message);
    expect(error).toMatchObject({ code, exitCode: 2 });
  });

  it.each([
    [{ FLANNELD_V: 'much' }, 'FLANNELD_V is "much"'],
    [{ FLANNELD_ROUTE_PROTOCOL: '4' }, 'FLANNELD_ROUTE_PROTOCOL is "4"'],
    [{ FLANNEL_ETCD_ENDPOINTS: 'ftp://a:1' }, 'FLANNEL_ETCD_ENDPOINTS is "ftp://a:1"'],
    [{ FLANNEL_ETCD: 'a' }, 'FLANNEL_ETCD is "a"'],
  ])('names the variable: %j', async (env, message) => {
    expect((await usageError([], env)).message).toContain(message);
  });

  it('never prints a password given in an endpoint', async () => {
    const { message } = await usageError(['--etcd-endpoints=http://root:hunter2@a:1']);
    expect(message).toContain('no password');
    expect(message).not.toContain('hunter2');
  });
});

describe('health', () => {
  it('is a command as the first word only', async () => {
    expect(await parseOptions({ argv: ['health', '-healthz-port', '8080'], env: {} })).toEqual({
      command: 'health',
      options: { ip: '0.0.0.0', port: 8080 },
    });
  });

  it('takes address and port from the environment, and minds no other variable', async () => {
    const env = { FLANNELD_HEALTHZ_IP: '10.0.0.1', FLANNELD_HEALTHZ_PORT: '8080', FLANNELD_V: 'wrong' };
    expect(await parseOptions({ argv: ['health'], env })).toMatchObject({
      options: { ip: '10.0.0.1', port: 8080 },
    });
  });

  it.each([
    [['health'], '--healthz-port=PORT or FLANNELD_HEALTHZ_PORT'],
    [['health', '--healthz-port=1', 'now'], 'health takes flags only, not "now"'],
    [['health', '--healthz-port=0'], '--healthz-port is "0": it must be a port from 1 to 65535'],
    [['health', '--healthz-port=70000'], '"70000": it must be a port from 1 to 65535'],
    [['health', '--etcd-prefix=/x'], 'unknown flag "--etcd-prefix"'],
  ])('%j is refused', async (argv, message) => {
    const { message: said } = await usageError(argv);
    expect(said).toContain(message);
    expect(said).not.toMatch(/switch it off|flanneld-ts health takes/);
  });
});

describe('any command line and environment', () => {
  // The help text is laid out anew each time, and tells nothing here.
  const names = flagTable.map(({ name }) => name).filter((name) => name !== 'help');
  const word = fc.oneof(
    fc.string(),
    fc.string({ unit: 'binary' }),
    fc
      .tuple(fc.constantFrom('-', '--'), fc.constantFrom(...names), fc.string())
      .map(([dashes, name, value]) => `${dashes}${name}=${value}`),
    fc.constantFrom(...names.map((name) => `-${name}`), 'health', '--', ''),
  );
  const variable = fc.constantFrom(
    ...flagTable.map(environmentName),
    'FLANNEL_ETCD',
    'FLANNEL_ETCD_KEY',
    'FLANNELD_X',
  );
  const env = fc.dictionary(variable, fc.string({ unit: 'binary' }));

  it('gives a command or a usage error of one line', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(word, { maxLength: 6 }), env, async (argv, variables) => {
        try {
          const command = await parseOptions({ argv, env: variables });
          if (command.command === 'run') {
            expect(command.options.etcdEndpoints.length).toBeGreaterThan(0);
            for (const warning of command.warnings) expect(warning).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
          expect(error).toMatchObject({
            exitCode: 2,
            message: expect.not.stringMatching(/[\p{Cc}\u2028\u2029]/u),
          });
        }
      }),
      { numRuns: 400 },
    );
  });

  it('gives the same in either dash style', async () => {
    const flag = fc.constantFrom(...flagTable.filter((row) => !row.boolean).map(({ name }) => name));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(flag, fc.string()), { maxLength: 4 }), async (pairs) => {
        const joined = await outcome(pairs.map(([name, value]) => `--${name}=${value}`));
        expect(await outcome(pairs.flatMap(([name, value]) => [`-${name}`, value]))).toEqual(joined);
      }),
    );
  });
});
