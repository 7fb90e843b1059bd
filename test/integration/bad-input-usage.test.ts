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
  [['-=x'], ['-=x']],
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
  [['--etcd-endpoints=http://-bad-:2379'], ['-bad-', 'host name']],
  [['--etcd-endpoints=http://10.0.0.1:2379?x=1'], ['?x=1', 'query']],
  [[`--etcd-endpoints=${ENDPOINT},http://10.0.0.2`], ['http://10.0.0.2', 'no port']],
  [['--etcd-endpoints=http://root:secret@10.0.0.1:2379'], ['no user name and no password']],
];

const VARIABLES: readonly (readonly [name: string, value: string, said: readonly string[]])[] = [
  ['FLANNELD_SUBNET_LEASE_RENEW_MARGIN', '0', ['1 to 1439']],
  ['FLANNELD_ROUTE_PROTOCOL', 'boot', ['boot', '5 to 255']],
  ['FLANNELD_HEALTHZ_PORT', '70000', ['70000', '65535']],
  ['FLANNELD_LOG_FORMAT', 'xml', ['xml', 'json, pretty']],
];

test.each([...FLAGS, ...ENDPOINTS])('%j is refused with one line and exit code 2', async (flags, said) => {
  // The last of a repeated flag wins, so what is in order comes first.
  const { code, stdout, stderr } = await runProgram({ ...place(), argv: [...inOrder, ...flags] });
  expect(code, stderr.join('\n')).toBe(2);
  expect(stdout).toEqual([]);
  expect(stderr).toHaveLength(1);
  expect(stderr[0]).toMatch(/^flanneld-ts: /);
  for (const text of said) expect(stderr[0]).toContain(text);
  expect(stderr[0]).not.toContain('secret');
});

test.each(VARIABLES)('the variable %s=%s is refused by its name', async (name, value, said) => {
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

test('none of the refused starts has written a file, made a route or asked etcd', async () => {
  expect(filesInRun(place())).toEqual([]);
  expect(await bench.allRoutes()).toEqual(before.routes);
  // What this test itself has asked for is in neither: it looks at the counters alone.
  expect(await bench.etcdCalls()).toEqual(before.calls);
});
