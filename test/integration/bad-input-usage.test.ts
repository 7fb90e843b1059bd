import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { type Bench, ENDPOINT, startBench } from './bench.ts';
import { filesInRun, runProgram } from './program.ts';

let bench: Bench;
let before: { readonly routes: readonly string[]; readonly calls: ReadonlyMap<string, number> };

/** A host on which a daemon that ran would take a lease, write its files and make a route. */
beforeAll(async () => {
  bench = await startBench();
  await bench.putLease('172.20.1.0/24', '10.211.55.101');
  before = { routes: await bench.allRoutes(), calls: await bench.etcdCalls() };
});

afterAll(() => bench?.close());

const place = () => ({ namespace: bench.host.namespace, dir: join(bench.dir, 'refused') });
const inOrder = [`--etcd-endpoints=${ENDPOINT}`, `--etcd-prefix=${PREFIX}`, '--iface=eth0'];

type Refused = readonly [flags: readonly string[], said: readonly string[]];

const FLAGS: readonly Refused[] = [
  [['--no-such-flag'], ['--no-such-flag', '--help']],
  [['--etcd-endpoint=http://127.0.0.1:2379'], ['--etcd-endpoint', 'did you mean --etcd-endpoints?']],
  [['-iface-name', 'eth0'], ['--iface-name']],
  [['-x'], ['-x']],
  [['---iface=eth0'], ['---iface']],
  [['-=x'], ['-=…', 'is not a flag']],
  [['--subnet-file'], ['--subnet-file', 'needs a value']],
  [['--subnet-file='], ['--subnet-file', 'path of a file']],
  [['--subnet-file=/run/'], ['--subnet-file', '/run/', 'path of a file']],
  [['--docker-opts-file=/run/..'], ['--docker-opts-file', '/run/..', 'path of a file']],
  [['--docker-opts-key=1A'], ['--docker-opts-key', '1A', 'shell variable']],
  [['--docker-opts-key=A B'], ['--docker-opts-key', 'A B', 'shell variable']],
  [['--subnet-lease-renew-margin=0'], ['--subnet-lease-renew-margin', '"0"', '1 to 1439']],
  [['--subnet-lease-renew-margin=1440'], ['--subnet-lease-renew-margin', '1440', '1 to 1439']],
  [['--subnet-lease-renew-margin=1.5'], ['--subnet-lease-renew-margin', '1.5', 'integer']],
  [
    ['-subnet-lease-renew-margin', 'soon'],
    ['--subnet-lease-renew-margin', 'soon', 'integer'],
  ],
  [['--route-protocol=3'], ['--route-protocol', '"3"', '5 to 255']],
  [['--route-protocol=256'], ['--route-protocol', '256', '5 to 255']],
  [['--healthz-port=65536'], ['--healthz-port', '65536', '65535']],
  [['--healthz-port=http'], ['--healthz-port', 'http', 'port']],
  [['--healthz-ip=localhost'], ['--healthz-ip', 'localhost', 'IP address']],
  [['-v=loud'], ['-v', 'loud', 'integer']],
  [['--log-level=loud'], ['--log-level', 'loud', 'debug, info, warn, error']],
  [['--log-format=xml'], ['--log-format', 'xml', 'json, pretty']],
  [['--version=maybe'], ['--version', 'maybe', 'true or false']],
  [['--ip-masq=yes'], ['--ip-masq', 'yes', 'true or false']],
  [['--public-ip=fc00::1'], ['--public-ip', 'fc00::1', 'IPv4 address']],
  [['--public-ipv6=10.0.0.1'], ['--public-ipv6', '10.0.0.1', 'IPv6 address']],
  [['--iface-regex=eth['], ['--iface-regex is "eth["', 'missing closing ]']],
  [['--iface-regex=eth1', '--iface-regex=e(?=t)'], ['Go has no lookahead or lookbehind']],
  [['--iface-can-reach=router'], ['--iface-can-reach', 'router', 'IP address']],
  [['--subnet-lease-ttl=29'], ['--subnet-lease-ttl', '"29"', '30 to 31536000']],
  [['--iptables-resync=0'], ['--iptables-resync', '"0"', 'at least 1']],
  [['--iptables-forward-position=top'], ['--iptables-forward-position', 'top', 'auto, first, last']],
  // What would tear the line apart is shown escaped.
  [['--log-level=a\nb\u001b[2J'], ['--log-level', 'a\\nb\\u001b[2J']],
];

const ENDPOINTS: readonly Refused[] = [
  [['--etcd-endpoints=,'], ['names none']],
  [['--etcd-endpoints=http://10.0.0.1'], ['http://10.0.0.1', 'no port', '2379']],
  [['--etcd-endpoints=etcd-1'], ['etcd-1', 'no port']],
  [['--etcd-endpoints=ftp://10.0.0.1:2379'], ['ftp://10.0.0.1:2379', 'neither http nor https']],
  [['--etcd-endpoints=http://10.0.0.1:0'], ['http://10.0.0.1:0', '1 to 65535']],
  [['--etcd-endpoints=http://10.0.0.1:99999'], ['99999', '1 to 65535']],
  [['--etcd-endpoints=http://fc00::1:2379'], ['fc00::1', 'brackets']],
  [['--etcd-endpoints=http://[fc00::xyz]:2379'], ['fc00::xyz', 'IPv6 address']],
  [['--etcd-endpoints=http://10.0.0.256:2379'], ['10.0.0.256', 'IPv4 address']],
  [['--etcd-endpoints=http://10.0.0.1:2379;http://10.0.0.2:2379'], ['separate endpoints with commas']],
  [['--etcd-endpoints=http://10.0.0.1:2379 http://10.0.0.2:2379'], ['separate endpoints with commas']],
  [['--etcd-endpoints=http://-bad-:2379'], ['-bad-', 'host name']],
  [['--etcd-endpoints=http://10.0.0.1:2379?x=1'], ['?x=1', 'query']],
  [[`--etcd-endpoints=${ENDPOINT},http://10.0.0.2`], ['http://10.0.0.2', 'no port']],
  [['--etcd-endpoints=http://root:secret@10.0.0.1:2379'], ['no user name and no password']],
];

/** What goes together, and what does not. */
const ACCESS: readonly Refused[] = [
  [['--etcd-certfile=/c.pem'], ['--etcd-certfile needs --etcd-keyfile']],
  [['--etcd-keyfile=/k.pem'], ['--etcd-keyfile needs --etcd-certfile']],
  [['--etcd-username=root'], ['--etcd-username needs a password', '--etcd-password-file']],
  [['--etcd-username=root', '--etcd-password=secret', '--etcd-password-file=/p'], ['both give a password']],
  [['--etcd-pasword=secret'], ['--etcd-pasword', 'did you mean --etcd-password?']],
  [['---etcd-password=secret'], ['---etcd-password=…', 'is not a flag']],
  [['--iface', '--etcd-password=secret'], ['--iface needs a value']],
];

/** A mistyped command must not start a daemon, and no flag may be lost behind a word. */
const WORDS: readonly Refused[] = [
  [['status'], ['not "status". A command comes first: flanneld-ts status']],
  [['statsu'], ['not "statsu". A command comes first: flanneld-ts status']],
  [
    ['start', '--ip-masq'],
    ['the daemon takes flags only, not "start" "--ip-masq"', 'Commands: health, status'],
  ],
  [['--', '--ip-masq'], ['nothing after "--" would be read: "--ip-masq"']],
  [
    ['--ip-masq', 'true', '--etcd-prefix=/x'],
    ['--ip-masq takes no separate value: write --ip-masq or --ip-masq=true', 'Nothing after "true"'],
  ],
  [
    ['--iface', '--ip-masq'],
    ['--iface needs a value', '"--ip-masq" is a flag of its own'],
  ],
  [['--etcd-username=root', '--etcd-password=one', 'secret', '-v=1'], ['not (not shown) "-v=…"']],
];

/** The same as the first words of all. The variables would lead a daemon to etcd. */
const COMMANDS: readonly Refused[] = [
  [['statsu'], ['unknown command "statsu". Did you mean "status"?', 'Commands: health, status']],
  [['relase'], ['Did you mean "lease release"?']],
  [['lease', 'relase'], ['unknown command "lease relase". Did you mean "lease release"?']],
  [['lease'], ['"lease" needs a verb: flanneld-ts lease release']],
  [['config', '--ip-masq'], ['unknown command "config". Commands: health, status, doctor, lease release']],
  [['start'], ['unknown command "start"', 'Without one the daemon starts']],
  [['help', 'statsu'], ['unknown command "statsu". Did you mean "status"?']],
  [[''], ['unknown command ""']],
];

/** Flags that asked for another mode of flanneld. */
const MODES: readonly Refused[] = [
  [['-kube-subnet-mgr'], ['--kube-subnet-mgr', 'Kubernetes', 'not supported', 'etcd']],
  [['-kube-subnet-mgr=T'], ['--kube-subnet-mgr']],
  [['-remote=10.0.0.1:8888'], ['--remote', 'client mode is not supported', '--etcd-endpoints']],
  [
    ['-listen', '0.0.0.0:8888'],
    ['--listen', 'server mode is not supported'],
  ],
  [['-networks=blue,green'], ['--networks', 'not supported', '--etcd-prefix']],
];

const VARIABLES: readonly (readonly [name: string, value: string, said: readonly string[]])[] = [
  ['FLANNELD_SUBNET_LEASE_RENEW_MARGIN', '0', ['1 to 1439']],
  ['FLANNELD_ROUTE_PROTOCOL', 'boot', ['boot', '5 to 255']],
  ['FLANNELD_HEALTHZ_PORT', '70000', ['70000', '65535']],
  ['FLANNELD_LOG_FORMAT', 'xml', ['xml', 'json, pretty']],
  ['FLANNELD_IP_MASQ', 'yes', ['yes', 'true or false']],
  ['FLANNELD_IFACE_REGEX', 'eth[', ['eth[', 'missing closing ]']],
  ['FLANNELD_PUBLIC_IP', 'eth0', ['eth0', 'IPv4 address']],
  ['FLANNELD_ETCD_KEYFILE', '/k.pem', ['needs --etcd-certfile']],
  ['FLANNELD_ETCD_USERNAME', 'root', ['needs a password']],
  ['FLANNELD_KUBE_SUBNET_MGR', 'true', ['Kubernetes', 'not supported']],
  ['FLANNELD_REMOTE', '10.0.0.1:8888', ['client mode is not supported']],
];

test.concurrent.each([...FLAGS, ...ENDPOINTS, ...ACCESS, ...MODES, ...WORDS])(
  '%j is refused with one line and exit code 2',
  async (flags, said) => {
    // The last of a repeated flag wins, so what is in order comes first.
    const { code, stdout, stderr } = await runProgram({ ...place(), argv: [...inOrder, ...flags] });
    expect(code, stderr.join('\n')).toBe(2);
    expect(stdout).toEqual([]);
    expect(stderr).toHaveLength(1);
    expect(stderr[0]).toMatch(/^flanneld-ts: /);
    for (const text of said) expect(stderr[0]).toContain(text);
    expect(stderr[0]).not.toContain('secret');
  },
);

test.concurrent.each(COMMANDS)('%j is refused as a command, with exit code 2', async (argv, said) => {
  const env = { FLANNELD_ETCD_ENDPOINTS: ENDPOINT, FLANNELD_ETCD_PREFIX: PREFIX, FLANNELD_IFACE: 'eth0' };
  const { code, stdout, stderr } = await runProgram({ ...place(), argv, env });
  expect([code, stdout], stderr.join('\n')).toEqual([2, []]);
  expect(stderr).toHaveLength(1);
  for (const text of ['flanneld-ts: ', ...said]) expect(stderr[0]).toContain(text);
});

test.concurrent.each(VARIABLES)('the variable %s=%s is refused by its name', async (name, value, said) => {
  const { code, stderr } = await runProgram({ ...place(), argv: inOrder, env: { [name]: value } });
  expect(code).toBe(2);
  expect(stderr).toHaveLength(1);
  for (const text of [name, ...said]) expect(stderr[0]).toContain(text);
});

test.each(['FLANNELD_ETCD_ENDPOINTS', 'FLANNEL_ETCD_ENDPOINTS', 'FLANNEL_ETCD'])(
  'a bad endpoint in %s is refused by the name of the variable',
  async (name) => {
    const env = { [name]: 'http://10.0.0.1' };
    const { code, stderr } = await runProgram({ ...place(), argv: ['--iface=eth0'], env });
    expect(code).toBe(2);
    expect(stderr).toHaveLength(1);
    for (const text of [`${name} is`, 'http://10.0.0.1', 'no port']) expect(stderr[0]).toContain(text);
  },
);

const PASSWORD_FLAG = { flags: ['--etcd-username=root', '--etcd-password=secret'], env: {} };
const PASSWORD_VARIABLE = { flags: ['--etcd-username=root'], env: { FLANNELD_ETCD_PASSWORD: 'secret' } };
const SAID = 'shows the password to every user of this host, in the process list: use FLANNELD_ETCD_PASSWORD';

test.each([
  ['as a flag, with a warning', PASSWORD_FLAG, [SAID]],
  ['from the environment, without one', PASSWORD_VARIABLE, []],
] as const)('a daemon takes the password %s, and never says it', async (name, { flags, env }, warnings) => {
  const daemon = bench.makeDaemon(`password-${name.split(' ')[1]}`, {
    // Nobody listens there: what the daemon says is about its options and about that.
    endpoints: 'http://127.0.0.1:1',
    flags: ['--log-level=debug', '--iface=eth0', ...flags],
    env: { ...env, FLANNELD_ETCD_PASWORD: 'secret' },
  });
  daemon.launch();
  await daemon.waitForLog(({ msg = '' }) => msg.includes('waiting for etcd'));
  expect((await daemon.stop()).code).toBe(0);
  const said = daemon.logs.filter(({ event }) => event === 'options').map(({ msg }) => msg);
  for (const text of warnings) expect(said).toContainEqual(expect.stringContaining(text));
  expect(said.filter((msg) => msg?.includes('process list'))).toHaveLength(warnings.length > 0 ? 1 : 0);
  expect(said).toContainEqual(expect.stringContaining('did you mean FLANNELD_ETCD_PASSWORD?'));
  expect(daemon.process.lines.join('\n')).not.toContain('secret');
});

test("a daemon takes an old unit's flags, with one warning for all of them", async () => {
  const daemon = bench.makeDaemon('old', {
    endpoints: 'http://127.0.0.1:1',
    flags: [
      '-iface=eth0',
      '-logtostderr',
      '-alsologtostderr=false',
      '-subnet-dir',
      '/run/x',
      '-kube-subnet-mgr=false',
    ],
    env: { FLANNELD_LOG_DIR: '/var/log' },
  });
  daemon.launch();
  await daemon.waitForLog(({ msg = '' }) => msg.includes('waiting for etcd'));
  expect((await daemon.stop()).code).toBe(0);
  expect(daemon.logs.filter(({ event }) => event === 'options').map(({ msg }) => msg)).toEqual([
    'ignored, because it has no effect here: --logtostderr, --alsologtostderr, FLANNELD_LOG_DIR, --subnet-dir',
  ]);
});

test.each([
  [['--help'], 'Usage: flanneld-ts [flags]'],
  [['health', '--help'], 'Usage: flanneld-ts health'],
  [['--version'], 'flanneld-ts '],
  [['help'], 'Usage: flanneld-ts [flags]'],
  [['help', 'lease', 'release'], 'Usage: flanneld-ts lease release'],
  [['version'], 'flanneld-ts '],
])('%j is answered on standard output, with exit code 0', async (argv, first) => {
  const { code, stdout, stderr } = await runProgram({ ...place(), argv });
  expect([code, stderr]).toEqual([0, []]);
  expect(stdout[0]).toContain(first);
});

test('none of the refused starts has written a file, made a route or asked etcd', async () => {
  expect(filesInRun(place())).toEqual([]);
  expect(await bench.allRoutes()).toEqual(before.routes);
  // What this test itself has asked for is in neither: it looks at the counters alone.
  expect(await bench.etcdCalls()).toEqual(before.calls);
});
