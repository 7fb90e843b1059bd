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

type Refused = readonly [argv: readonly string[], said: readonly string[]];

/** One for each way in which the program gets there; the unit tests of the options have them all. */
const REFUSED: readonly Refused[] = [
  [['--no-such-flag'], ['unknown flag "--no-such-flag"', '--help']],
  [['--iface-regex=eth1', '--iface-regex=e(?=t)'], ['Go has no lookahead or lookbehind']],
  [['--iface', '--etcd-password=secret'], ['--iface needs a value']],
  [
    ['statsu'],
    ['argument 4 is neither a flag nor a command. Did you mean status?', 'Commands: health, status'],
  ],
  [['-kube-subnet-mgr'], ['--kube-subnet-mgr', 'Kubernetes', 'not supported', 'etcd']],
];

/** The same as the first words of all. The variables would lead a daemon to etcd. */
const COMMANDS: readonly Refused[] = [
  [['statsu'], ['Did you mean status?', 'Commands: health, status']],
  [['lease'], ['"lease" needs a verb: flanneld-ts lease list, show']],
];

test.concurrent.each(REFUSED)('%j is refused with one line and exit code 2', async (flags, said) => {
  // The last of a repeated flag wins, so what is in order comes first.
  const { code, stdout, stderr } = await runProgram({ ...place(), argv: [...inOrder, ...flags] });
  expect(code, stderr.join('\n')).toBe(2);
  expect(stdout).toEqual([]);
  expect(stderr).toHaveLength(1);
  expect(stderr[0]).toMatch(/^flanneld-ts: /);
  for (const text of said) expect(stderr[0]).toContain(text);
  expect(stderr[0]).not.toContain('secret');
});

test.concurrent.each(COMMANDS)('%j is refused as a command, with exit code 2', async (argv, said) => {
  const env = { FLANNELD_ETCD_ENDPOINTS: ENDPOINT, FLANNELD_ETCD_PREFIX: PREFIX, FLANNELD_IFACE: 'eth0' };
  const { code, stdout, stderr } = await runProgram({ ...place(), argv, env });
  expect([code, stdout], stderr.join('\n')).toEqual([2, []]);
  expect(stderr).toHaveLength(1);
  for (const text of ['flanneld-ts: ', ...said]) expect(stderr[0]).toContain(text);
});

test.each([
  ['FLANNEL_ETCD_ENDPOINTS', 'http://10.0.0.1', ['--iface=eth0'], /FLANNEL_ETCD_ENDPOINTS must be .*no port/],
  ['FLANNELD_REMOTE', '10.0.0.1:8888', inOrder, /FLANNELD_REMOTE: .*client mode is not supported/],
])('the variable %s=%s is refused by its name', async (name, value, argv, said) => {
  const { code, stderr } = await runProgram({ ...place(), argv, env: { [name]: value } });
  expect([code, stderr]).toEqual([2, [expect.stringMatching(said)]]);
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

test.each([
  [['--help'], 'Usage: flanneld-ts [COMMAND] [flags]'],
  [['--version'], 'flanneld-ts '],
  [['help', 'lease', 'release'], 'flanneld-ts lease release'],
  [['completion'], 'begin-flanneld-ts-completions'],
  [['--get-yargs-completions', 'flanneld-ts', 'lease', ''], 'list'],
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
