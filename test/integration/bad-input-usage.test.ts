import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { ENDPOINT, useBench } from './bench.ts';
import { filesInRun, runProgram } from './program.ts';

const bench = useBench();
let before: { readonly routes: readonly string[]; readonly calls: ReadonlyMap<string, number> };

/** A host on which a daemon that ran would take a lease, write its files and make a route. */
beforeAll(async () => {
  await bench.putLease('172.20.1.0/24', '10.211.55.101');
  before = { routes: await bench.allRoutes(), calls: await bench.etcdCalls() };
});

const place = () => ({ namespace: bench.host.namespace, dir: join(bench.dir, 'refused') });
const inOrder = [`--etcd-endpoints=${ENDPOINT}`, `--etcd-prefix=${PREFIX}`, '--iface=eth0'];

type Refused = readonly [flags: readonly string[], said: readonly string[]];

/** One of each kind; the unit tests of the options have them all. */
const REFUSED: readonly Refused[] = [
  [['--no-such-flag'], ['unknown flag "--no-such-flag"', '--help']],
  [['--etcd-endpoint=http://127.0.0.1:2379'], ['--etcd-endpoint', 'did you mean --etcd-endpoints?']],
  [['---iface=eth0'], ['argument 4 is not a flag']],
  [['--subnet-file'], ['--subnet-file', 'needs a value']],
  [['--subnet-lease-renew-margin=0'], ['--subnet-lease-renew-margin must be an integer from 1 to 1439']],
  [
    ['-subnet-lease-renew-margin', 'soon'],
    ['--subnet-lease-renew-margin', 'integer'],
  ],
  [['--version=maybe'], ['--version', 'true or false']],
  [['--iface-regex=eth1', '--iface-regex=e(?=t)'], ['Go has no lookahead or lookbehind']],
  [['--log-level=a\nb\u001b[2J'], ['--log-level must be one of']],
  [[`--etcd-endpoints=${ENDPOINT},http://10.0.0.2`], ['number 2 has no port', '2379']],
  [['--etcd-endpoints=http://root:secret@10.0.0.1:2379'], ['no user name and no password']],
  [['--etcd-certfile=/c.pem'], ['--etcd-certfile needs --etcd-keyfile']],
  [['--etcd-username=root'], ['--etcd-username needs a password', '--etcd-password-file']],
  [['--etcd-pasword=secret'], ['did you mean --etcd-password?']],
  [['--iface', '--etcd-password=secret'], ['--iface needs a value']],
  // A mistyped command must not start a daemon, and no flag may be lost behind a word.
  [
    ['statsu'],
    ['argument 4 is neither a flag nor a command. Did you mean status?', 'Commands: health, status'],
  ],
  [['--', '--ip-masq'], ['argument 5 is a flag after "--"']],
  [
    ['--ip-masq', 'true', '--etcd-prefix=/x'],
    ['--ip-masq takes no separate value: write --ip-masq, --ip-masq=true or --ip-masq=false'],
  ],
  [['--etcd-username=root', '--etcd-password=one', 'secret', '-v=1'], ['argument 6 is neither']],
];

/** The same as the first words of all. The variables would lead a daemon to etcd. */
const COMMANDS: readonly Refused[] = [
  [['statsu'], ['Did you mean status?', 'Commands: health, status']],
  [
    ['lease', 'relase'],
    ['argument 2', 'Did you mean release?'],
  ],
  [['lease'], ['"lease" needs a verb: flanneld-ts lease release']],
  [['config', '--ip-masq'], ['argument 1 is neither a flag nor a command. Commands: health, status, doctor']],
  [['start'], ['Without one the daemon starts']],
  [[''], ['argument 1 is neither']],
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
  ['FLANNELD_ROUTE_PROTOCOL', 'boot', ['5 to 255']],
  ['FLANNELD_IFACE_REGEX', 'eth[', ['missing closing ]']],
  ['FLANNELD_ETCD_KEYFILE', '/k.pem', ['needs --etcd-certfile']],
  ['FLANNELD_REMOTE', '10.0.0.1:8888', ['client mode is not supported']],
];

test.concurrent.each([...REFUSED, ...MODES])(
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

test('a bad endpoint is refused by the name of its variable', async () => {
  const env = { FLANNEL_ETCD_ENDPOINTS: 'http://10.0.0.1' };
  const { code, stderr } = await runProgram({ ...place(), argv: ['--iface=eth0'], env });
  expect([code, stderr]).toEqual([2, [expect.stringMatching(/FLANNEL_ETCD_ENDPOINTS must be .*no port/)]]);
});

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
  [['--help'], 'Usage: flanneld-ts [COMMAND] [flags]'],
  [['health', '--help'], 'flanneld-ts health'],
  [['--version'], 'flanneld-ts '],
  [['help', 'lease', 'release'], 'flanneld-ts lease release'],
  [['version'], 'flanneld-ts '],
  [['completion'], 'begin-flanneld-ts-completions'],
  [['--get-yargs-completions', 'flanneld-ts', 'lease', ''], 'release'],
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
