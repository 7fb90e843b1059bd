import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Agent } from 'node:https';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askRaw } from '../contract/v2-store-real.ts';
import { makeParties, type Parties } from '../testbed/certificates.ts';
import { type EtcdCluster, freePorts, startEtcd } from '../testbed/etcd.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { until, untilLines } from '../testbed/netns.ts';
import { tempDir } from '../testbed/run.ts';
import { BridgeProcess } from './bridge-process.ts';
import { runProgram } from './program.ts';

const DEADLINE_MS = 30_000;
const prefix = '/coreos.com/network';
const config = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';
const password = 'its password';
const dir = tempDir('migrate-access');
const oldDir = join(dir, 'old');
const passwordFile = join(dir, 'password');

/** Serves v2 over TLS to those that have a certificate, and asks for a user. */
let old: EtcdCluster;
/** Serves v3 alone, to everybody. */
let kept: EtcdCluster;
let parties: Parties;
let agent: Agent;
let bridge: BridgeProcess;

beforeAll(async () => {
  parties = await makeParties(join(dir, 'tls'));
  const { ca, server, client } = parties;
  [old, kept] = await Promise.all([
    startEtcd({ dir: oldDir, args: ['--enable-v2'], tls: { ca, server, client } }),
    startEtcd({ dir: join(dir, 'kept') }),
  ]);
  const [caText, cert, key] = [ca.certFile, client.certFile, client.keyFile].map((file) =>
    readFileSync(file),
  );
  agent = new Agent({ ca: caText, cert, key });
  await v2Put('config', config);
  await v2Put('subnets/10.5.1.0-24', oldValue(1), 86_400);
  await v2Put('subnets/10.5.2.0-24', oldValue(2), 86_400);
  const auth = (path: string, content: object, user?: string) =>
    askRaw(new URL(`/v2/auth/${path}`, old.endpoints), 'PUT', {
      agent,
      json: JSON.stringify(content),
      ...(user === undefined ? {} : { auth: user }),
    });
  // As an operator gives flannel 0.7.1 its rights, and somebody others.
  const rights = (at: string) => ({ kv: { read: [at], write: [at] } });
  await auth('roles/net', { role: 'net', permissions: rights(`${prefix}/*`) });
  await auth('roles/other', { role: 'other', permissions: rights('/elsewhere/*') });
  await auth('users/root', { user: 'root', password: 'root’s' });
  await auth('users/flannel', { user: 'flannel', password, roles: ['net'] });
  await auth('users/other', { user: 'other', password, roles: ['other'] });
  await auth('enable', {});
  await auth('roles/guest', { role: 'guest', revoke: rights('/*') }, 'root:root’s');
  const [port = 0] = await freePorts(1);
  bridge = new BridgeProcess({
    dir: join(dir, 'bridge'),
    endpoints: kept.endpoints,
    prefix,
    port,
    flags: [...from(), '--from-username=flannel', `--from-password-file=${passwordFile}`],
  });
});
afterAll(async () => {
  await bridge?.close();
  agent?.destroy();
  await Promise.all([old, kept].map((etcd) => etcd?.close()));
  rmSync(dir, { recursive: true, force: true });
});

/** The way to the v2 store, with what a client has to show. */
function from(): readonly string[] {
  const { ca, client } = parties;
  return [
    `--from-endpoints=${old.endpoints}`,
    `--from-cafile=${ca.certFile}`,
    `--from-certfile=${client.certFile}`,
    `--from-keyfile=${client.keyFile}`,
  ];
}

/** As flannel 0.7.1 writes it. */
const oldValue = (host: number) => `{"PublicIP":"10.0.0.${host}","BackendType":"host-gw"}`;

async function v2Put(key: string, value: string, ttlSeconds?: number): Promise<void> {
  const form = { value, ...(ttlSeconds === undefined ? {} : { ttl: String(ttlSeconds) }) };
  await askRaw(new URL(`/v2/keys${prefix}/${key}`, old.endpoints), 'PUT', {
    agent,
    form: new URLSearchParams(form).toString(),
    auth: 'root:root’s',
  });
}

/** Takes 10.5.N.0/24 in v3 for 10.0.0.N, as a daemon does. */
async function v3Put(host: number): Promise<void> {
  const lease = await kept.grant(86_400);
  const key = `${prefix}/subnets/10.5.${host}.0-24`;
  await kept.ctl('put', `--lease=${lease}`, key, leaseValue(`10.0.0.${host}`));
}

/** The hosts that v3 has a lease of: `1 2`. */
async function inV3(): Promise<string> {
  return hostsIn(await kept.ctl('get', '--prefix', '--keys-only', `${prefix}/subnets/`));
}

/** Waits until each store has the leases of these hosts and no others. */
async function untilHave(wanted: Readonly<Record<'v2' | 'v3', string>>): Promise<void> {
  const read = async () => {
    const list = await old.first.ctlV2('--username=root:root’s', 'ls', `${prefix}/subnets`);
    return [`v2: ${hostsIn(list)}`, `v3: ${await inV3()}`];
  };
  const lines = [`v2: ${wanted.v2}`, `v3: ${wanted.v3}`];
  await untilLines(read, lines, DEADLINE_MS, () => bridge.process.tail());
}

function hostsIn(text: string): string {
  const found = [...text.matchAll(/\/10\.5\.(\d+)\.0-24$/gm)].map(([, host = '']) => host);
  return found.toSorted().join(' ');
}

describe('migrate', () => {
  const migrate = (argv: readonly string[], env: Readonly<Record<string, string>> = {}) =>
    runProgram({ dir, argv: ['migrate', `--etcd-endpoints=${kept.endpoints}`, ...argv], env });

  it.each([
    {
      what: 'without a certificate',
      argv: () => [`--from-endpoints=${old.endpoints}`, `--from-cafile=${parties.ca.certFile}`],
      says: /no TLS connection: it wants a client certificate, and none is given\. Name it and its key: --from-certfile, --from-keyfile\.$/,
    },
    {
      what: 'with the CA of somebody else',
      argv: () => from().map((flag) => flag.replace(parties.ca.certFile, parties.otherCa.certFile)),
      says: /signed by no CA in .*\/ca\.pem\. Put the CA that signed it into that file; it may hold several\.$/,
    },
    {
      what: 'without a user',
      argv: from,
      says: /it requires a user for \/.*\. Name a user of the v2 API: --from-username with --from-password-file\.$/,
    },
    {
      what: 'with a wrong password',
      argv: () => [...from(), '--from-username=flannel'],
      env: { FLANNELD_FROM_PASSWORD: 'wrong' },
      says: /user flannel is refused for .* Check the password and the rights: ETCDCTL_API=2 etcdctl user get flannel$/,
    },
    {
      what: 'with a user who has no right here',
      argv: () => [...from(), '--from-username=other'],
      env: { FLANNELD_FROM_PASSWORD: password },
      says: /user other is refused for .* Check the password and the rights: ETCDCTL_API=2 etcdctl user get other$/,
    },
  ])('$what says so in one line, and copies nothing', async ({ argv, env = {}, says }) => {
    const result = await migrate(argv(), env);
    expect(result).toMatchObject({ code: 1, stdout: [] });
    expect(result.stderr).toEqual([expect.stringMatching(says)]);
    expect(result.stderr[0]).toMatch(`the v2 store cannot be read: etcd at ${old.endpoints}: `);
    expect(await inV3()).toBe('');
  });

  it('copies over TLS, with a certificate and a user', async () => {
    writeFileSync(passwordFile, `${password}\n`);
    const user = ['--from-username=flannel', `--from-password-file=${passwordFile}`];
    expect(await migrate([...from(), ...user])).toMatchObject({ code: 0, stderr: [] });
    expect(await inV3()).toBe('1 2');
    expect(await kept.ctl('get', '--print-value-only', `${prefix}/config`)).toBe(`${config}\n`);
  });
});

/** The tests are steps, in this order. */
describe('migrate --follow', () => {
  it('waits with a wrong password, says so, and takes the right one without a restart', async () => {
    writeFileSync(passwordFile, 'wrong\n');
    bridge.launch();
    const { msg } = await bridge.waitForLog('trouble');
    expect(msg).toMatch(
      /^the v2 store: .*: user flannel is refused for .* Check the password and the rights: /,
    );
    const saysSo = async () =>
      (await bridge.ask('readyz'))?.join(' ') === `503 flanneld is not ready\n${msg}`;
    await until(saysSo, DEADLINE_MS, () => bridge.process.tail());
    writeFileSync(passwordFile, `${password}\n`);
    await bridge.inStep(2, 0);
    await v3Put(3);
    await bridge.inStep(2, 1);
    await untilHave({ v2: '1 2 3', v3: '1 2 3' });
  });

  it('outlasts the loss of either etcd', async () => {
    for (const [etcd, store] of [
      [old, 'v2'],
      [kept, 'v3'],
    ] as const) {
      await etcd.first.kill();
      const text = `the ${store} store: etcd at ${etcd.endpoints}`;
      const saysSo = async () => (await bridge.ask('readyz'))?.[1].includes(text) === true;
      await until(saysSo, DEADLINE_MS, () => bridge.process.tail());
      if (etcd === old) {
        cpSync(oldDir, `${oldDir}.backup`, { recursive: true });
        await v3Put(4);
      } else await v2Put('subnets/10.5.5.0-24', oldValue(5), 86_400);
      await etcd.first.start();
      await bridge.inStep(2 + Number(etcd === kept), 2);
    }
    await untilHave({ v2: '1 2 3 4 5', v3: '1 2 3 4 5' });
  });

  it('keeps the copies of leases that a restored etcd has forgotten', async () => {
    await old.first.kill();
    rmSync(oldDir, { recursive: true });
    cpSync(`${oldDir}.backup`, oldDir, { recursive: true });
    await old.first.start();
    const { store } = (await bridge.waitForLog('bridge-restored')) as unknown as { store: string };
    expect(store).toBe('v2');
    await bridge.untilMetrics({ flannel_bridge_in_step: 1, flannel_bridge_orphans: 1 });
    // The lease of a host that uses v3 is copied once more; that of one that uses v2 waits for its host.
    await untilHave({ v2: '1 2 3 4', v3: '1 2 3 4 5' });
    await v2Put('subnets/10.5.5.0-24', oldValue(5), 86_400);
    await bridge.inStep(3, 2);
    expect(bridge.history().filter(({ event }) => event === 'bridge-restored')).toHaveLength(1);
    expect(await bridge.stop()).toEqual({ code: 0, signal: null });
  });
});
