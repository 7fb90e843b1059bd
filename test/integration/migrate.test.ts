import { rmSync } from 'node:fs';
import { createServer, get } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { askRaw } from '../contract/v2-store-real.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';
import { type ProgramResult, runProgram } from './program.ts';
import { etcdLeaseIds } from './route-watch.ts';

const dir = tempDir('migrate');
const config = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';
const prefix = '/coreos.com/network';
/** As flannel 0.7.1 writes it. */
const oldValue = (ip: string) => `{"PublicIP":"${ip}","BackendType":"host-gw"}`;

/** Serves both stores. */
let etcd: EtcdCluster;
/** As etcd 3.4 is by default: without the v2 API. */
let withoutV2: EtcdCluster;

beforeAll(async () => {
  [etcd, withoutV2] = await Promise.all([
    startEtcd({ dir: join(dir, 'both'), args: ['--enable-v2'] }),
    startEtcd({ dir: join(dir, 'v3') }),
  ]);
});
afterAll(async () => {
  await Promise.all([etcd, withoutV2].map((cluster) => cluster?.close()));
  rmSync(dir, { recursive: true, force: true });
});

beforeEach(async () => {
  await etcd.first.ctlV2('rm', '--recursive', prefix).catch(() => undefined);
  for (const cluster of [etcd, withoutV2]) {
    await cluster.ctl('del', '--prefix', '/');
    for (const id of await etcdLeaseIds(cluster.first)) await cluster.ctl('lease', 'revoke', id);
  }
});

const v2Put = async (key: string, value: string, ttlSeconds?: number) => {
  const form = { value, ...(ttlSeconds === undefined ? {} : { ttl: String(ttlSeconds) }) };
  const body = new URLSearchParams(form).toString();
  await askRaw(new URL(`/v2/keys${prefix}/${key}`, etcd.endpoints), 'PUT', { form: body });
};

/** A network of three hosts: a full lease, one with an hour, a reservation. */
async function usual(): Promise<void> {
  await v2Put('config', config);
  await v2Put('subnets/10.5.1.0-24', oldValue('10.0.0.1'), 86_400);
  await v2Put('subnets/10.5.2.0-24', oldValue('10.0.0.2'), 3_600);
  await v2Put('subnets/10.5.3.0-24', oldValue('10.0.0.3'));
}

const migrate = (...argv: readonly string[]): Promise<ProgramResult> =>
  runProgram({ dir, argv: ['migrate', `--etcd-endpoints=${etcd.endpoints}`, ...argv] });

/** How often each store was written to. */
async function writes(): Promise<readonly [v2: number, v3: number]> {
  const index = await new Promise<number>((resolve, reject) => {
    get(new URL('/v2/keys/', etcd.endpoints), (answer) => {
      answer.resume();
      resolve(Number(answer.headers['x-etcd-index']));
    }).once('error', reject);
  });
  const { header } = JSON.parse(await etcd.ctl('get', '/', '-w', 'json')) as { header: { revision: number } };
  return [index, header.revision];
}

/** Keys of v3 with their values. */
async function stored(cluster: EtcdCluster = etcd): Promise<Readonly<Record<string, string>>> {
  const lines = (await cluster.ctl('get', '--prefix', prefix)).trimEnd().split('\n');
  const pairs = lines.flatMap((key, at) => (at % 2 === 0 && key !== '' ? [[key, lines[at + 1] ?? '']] : []));
  return Object.fromEntries(pairs) as Record<string, string>;
}

/** How many keys v3 has; by its gateway, which is faster than a run of etcdctl. */
async function count(): Promise<number> {
  const [key, end] = [`${prefix}/`, `${prefix}0`].map((text) => Buffer.from(text).toString('base64'));
  const body = JSON.stringify({ key, range_end: end, count_only: true });
  const answer = await fetch(`${etcd.endpoints}/v3/kv/range`, { method: 'POST', body });
  return Number(((await answer.json()) as { readonly count?: string }).count ?? 0);
}

/** A copy of a reservation has no etcd lease that tells it from a host's own key. */
const reservation = '{"PublicIP":"10.0.0.3","BackendType":"host-gw","CopiedFrom":"v2"}';
const copied = {
  [`${prefix}/config`]: config,
  [`${prefix}/subnets/10.5.1.0-24`]: oldValue('10.0.0.1'),
  [`${prefix}/subnets/10.5.2.0-24`]: oldValue('10.0.0.2'),
  [`${prefix}/subnets/10.5.3.0-24`]: reservation,
};

/** The cells of the table. */
const tableOf = ({ stdout }: ProgramResult) =>
  stdout.filter((line) => /^(SUBNET|\d)/.test(line)).map((line) => line.split(/ {2,}/));

describe('on an etcd that serves both stores', () => {
  it('says with --dry-run what it would copy, and writes to neither store', async () => {
    await usual();
    const before = await writes();
    const result = await migrate('--dry-run');
    expect(result).toMatchObject({ code: 0, stderr: [] });
    expect(tableOf(result)).toEqual([
      ['SUBNET', 'HOST', 'LEFT IN V2', 'LEFT IN V3', 'RESULT', 'WHY'],
      ['10.5.1.0/24', '10.0.0.1', expect.stringMatching(/^(1 d|23 h 59 min)$/), '-', 'to copy'],
      ['10.5.2.0/24', '10.0.0.2', expect.stringMatching(/^(1 h|59 min \d+ s)$/), '-', 'to copy'],
      ['10.5.3.0/24', '10.0.0.3', 'reservation', '-', 'to copy'],
    ]);
    expect(await writes()).toEqual(before);
    expect(await etcdLeaseIds(etcd.first)).toEqual([]);
  });

  it('copies each lease once, on an etcd lease of a day, and changes nothing when it is run again', async () => {
    await usual();
    const result = await migrate();
    expect(result).toMatchObject({ code: 0, stderr: [] });
    expect(tableOf(result).slice(1)).toEqual([
      ['10.5.1.0/24', '10.0.0.1', expect.any(String), expect.stringMatching(/^(1 d|23 h 59 min)$/), 'copied'],
      ['10.5.2.0/24', '10.0.0.2', expect.any(String), expect.stringMatching(/^(1 d|23 h 59 min)$/), 'copied'],
      ['10.5.3.0/24', '10.0.0.3', 'reservation', 'reservation', 'copied'],
    ]);
    expect(result.stdout).toContain('leases: 3 copied');
    expect(result.stdout).toContain(`configuration ${prefix}/config: copied`);
    expect(result.stdout.join('\n')).toMatch(
      /^deadline: (1 h|59 min \d+ s), until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, for all hosts to use v3\. 10\.5\.2\.0\/24 of 10\.0\.0\.2 ends first/m,
    );
    expect(await stored()).toEqual(copied);
    const leases = await etcdLeaseIds(etcd.first);
    expect(leases).toHaveLength(2);
    for (const id of leases)
      expect(await etcd.ctl('lease', 'timetolive', id)).toMatch(/granted with TTL\(86400s\)/);

    const before = await writes();
    const again = await migrate();
    expect(again).toMatchObject({ code: 0, stderr: [] });
    expect(again.stdout).toContain('leases: 3 already there');
    expect(again.stdout).toContain(`configuration ${prefix}/config: already there`);
    expect(await writes()).toEqual(before);
    expect(await etcdLeaseIds(etcd.first)).toEqual(leases);
  });

  it('uses the etcd lease that a run left behind which was killed between grant and put', async () => {
    await usual();
    await migrate();
    const leases = (await etcdLeaseIds(etcd.first)).toSorted();
    // As it is after such a run: the lease is there, its key is not.
    await etcd.ctl('del', `${prefix}/subnets/10.5.2.0-24`);
    expect(await migrate()).toMatchObject({ code: 0, stderr: [] });
    expect(await stored()).toEqual(copied);
    expect((await etcdLeaseIds(etcd.first)).toSorted()).toEqual(leases);
  });

  it('leaves conflicts and a configuration that differs as they are, and exits with 1', async () => {
    await usual();
    const other = config.replace('host-gw', 'Host-GW').replace('/16', '/17');
    const theirs = {
      [`${prefix}/config`]: other,
      [`${prefix}/subnets/10.5.1.0-24`]: leaseValue('10.0.0.9'),
      [`${prefix}/subnets/10.5.2.128-25`]: leaseValue('10.0.0.8'),
    };
    for (const [key, value] of Object.entries(theirs)) await etcd.ctl('put', key, value);
    const result = await migrate();
    expect(result.code).toBe(1);
    expect(tableOf(result).map((row) => row.slice(4))).toEqual([
      ['RESULT', 'WHY'],
      ['in conflict', 'v3 has it for 10.0.0.9'],
      ['in conflict', 'overlaps 10.5.2.128/25 of 10.0.0.8 in v3'],
      ['copied'],
    ]);
    expect(result.stdout.join('\n')).toContain('from v2 to v3: Network 10.5.0.0/16 → 10.5.0.0/17');
    expect(result.stderr).toEqual([
      expect.stringMatching(/^2 leases are in conflict and nothing was done about them\. /),
      expect.stringMatching(/^the configurations of both stores differ, and none was changed\. /),
    ]);
    const third = `${prefix}/subnets/10.5.3.0-24`;
    expect(await stored()).toEqual({ ...theirs, [third]: reservation });
  });

  it('prints a table that is longer than a pipe holds to its end', async () => {
    // Rows of 150 bytes each; a pipe holds 64 KiB.
    const value = oldValue('10.0.0.1').replace('host-gw', 'vxlan');
    const names = Array.from({ length: 1500 }, (_, at) => `10.${5 + (at >> 8)}.${at & 255}.0-24`);
    await Promise.all(names.map((name) => v2Put(`subnets/${name}`, value)));
    const result = await migrate('--dry-run');
    expect(tableOf(result)).toHaveLength(1501);
    expect(result.stdout.at(-1)).toBe('dry run: nothing was written');
  });

  it('killed in the middle of many leases and run again it copies each of them once', async () => {
    const names = Array.from({ length: 400 }, (_, at) => `10.5.${at >> 1}.${(at & 1) * 128}-25`);
    await Promise.all(
      names.map((name, at) => v2Put(`subnets/${name}`, oldValue(`10.1.${at >> 8}.${at & 255}`), 86_400)),
    );
    await v2Put('config', config);
    const child = new RunningProcess([PROGRAM, 'migrate', `--etcd-endpoints=${etcd.endpoints}`], {
      env: { PATH: process.env['PATH'] },
    });
    await until(async () => (await count()) > 0, 15_000, 'no lease is copied');
    child.signal('SIGKILL');
    await child.exit;
    const before = await count();
    expect(before).toBeLessThan(401);
    const result = await migrate();
    expect(result).toMatchObject({ code: 0, stderr: [] });
    const keys = await stored();
    expect(Object.keys(keys).toSorted()).toEqual(
      [`${prefix}/config`, ...names.map((name) => `${prefix}/subnets/${name}`)].toSorted(),
    );
    expect(await etcdLeaseIds(etcd.first)).toHaveLength(400);
  });
});

describe('from one etcd to another', () => {
  it('--from-endpoints and --from-prefix name the v2 store', async () => {
    await usual();
    const argv = [`--etcd-endpoints=${withoutV2.endpoints}`, '--etcd-prefix=/net'];
    const from = [`--from-endpoints=${etcd.endpoints}`, `--from-prefix=${prefix}`];
    const result = await migrate(...argv, ...from);
    expect(result).toMatchObject({ code: 0, stderr: [] });
    expect(await withoutV2.ctl('get', '--prefix', '/net', '--keys-only')).toMatch(
      /^\/net\/config\n\n\/net\/subnets\/10\.5\.1\.0-24\n/,
    );
    expect(await stored()).toEqual({});
  });

  it('a user of the v2 store is needed where it has users, and given by --from-username', async () => {
    const own = await startEtcd({ dir: join(dir, 'users'), args: ['--enable-v2'] });
    onTestFinished(() => own.close());
    const auth = (path: string, content: object, user?: string) =>
      askRaw(new URL(`/v2/auth/${path}`, own.endpoints), 'PUT', {
        json: JSON.stringify(content),
        ...(user === undefined ? {} : { auth: user }),
      });
    const form = new URLSearchParams({ value: config }).toString();
    await askRaw(new URL(`/v2/keys${prefix}/config`, own.endpoints), 'PUT', { form });
    await auth('users/root', { user: 'root', password: 'secret' });
    await auth('enable', {});
    await auth(
      'roles/guest',
      { role: 'guest', revoke: { kv: { read: ['/*'], write: ['/*'] } } },
      'root:secret',
    );
    const refused = await migrate(`--etcd-endpoints=${own.endpoints}`);
    expect(refused).toMatchObject({ code: 1, stdout: [] });
    expect(refused.stderr).toEqual([
      expect.stringMatching(/it requires a user .*--from-username with --from-password-file\.$/),
    ]);
    const env = { FLANNELD_FROM_PASSWORD: 'secret' };
    const argv = ['migrate', `--etcd-endpoints=${own.endpoints}`, '--from-username=root'];
    expect(await runProgram({ dir, argv, env })).toMatchObject({ code: 0, stderr: [] });
  });
});

describe('one clear line when', () => {
  it('etcd does not serve v2', async () => {
    const result = await migrate(`--etcd-endpoints=${withoutV2.endpoints}`);
    expect(result).toMatchObject({
      code: 1,
      stdout: [],
      stderr: [
        `the v2 store cannot be read: etcd at ${withoutV2.endpoints}: it does not serve the v2 API. etcd 3.4 and 3.5 do with --enable-v2=true; etcd 3.6 has none. If the leases are in another etcd: --from-endpoints=URL.`,
      ],
    });
  });

  it('the prefix is wrong', async () => {
    await usual();
    const result = await migrate('--from-prefix=/nowhere');
    expect(result).toMatchObject({ code: 1, stdout: [] });
    expect(result.stderr).toEqual([
      `the v2 store at ${etcd.endpoints} has no network here: neither /nowhere/config nor a lease. There is one with --from-prefix=${prefix}`,
    ]);
  });

  it('etcd has no v3 API, as etcd 2', async () => {
    const etcd2 = createServer((request, response) => {
      const key = `${prefix}/config`;
      const isConfig = request.url?.startsWith(`/v2/keys${key}`) === true;
      response.writeHead(isConfig ? 200 : 404, { 'x-etcd-index': '5', 'x-etcd-cluster-id': 'ab' });
      const node = { key, value: config, createdIndex: 4, modifiedIndex: 4 };
      response.end(
        JSON.stringify(isConfig ? { action: 'get', node } : { errorCode: 100, message: 'x', index: 5 }),
      );
    }).listen(0, '127.0.0.1');
    onTestFinished(() => void etcd2.close());
    await new Promise((resolve) => etcd2.once('listening', resolve));
    const address = etcd2.address();
    const port = typeof address === 'object' ? address?.port : 0;
    const result = await migrate(`--etcd-endpoints=http://127.0.0.1:${port}`);
    expect(result).toMatchObject({ code: 1, stdout: [] });
    expect(result.stderr).toEqual([
      expect.stringMatching(
        /^the v3 store cannot be used: .*not etcd.* Its v2 API answers: etcd 2 has no v3 API\. Update it to 3\.3/,
      ),
    ]);
  });

  it('the user of v3 may read and not write', async () => {
    const own = await startEtcd({ dir: join(dir, 'v3-users'), args: ['--enable-v2'] });
    onTestFinished(() => own.close());
    const form = new URLSearchParams({ value: config }).toString();
    await askRaw(new URL(`/v2/keys${prefix}/config`, own.endpoints), 'PUT', { form });
    await own.ctl('role', 'add', 'reader');
    await own.ctl('role', 'grant-permission', 'reader', '--prefix=true', 'read', prefix);
    await own.ctl('user', 'add', 'reader:secret');
    await own.ctl('user', 'grant-role', 'reader', 'reader');
    await own.enableAuth('root-secret');
    const argv = ['migrate', `--etcd-endpoints=${own.endpoints}`, '--etcd-username=reader'];
    const result = await runProgram({ dir, argv, env: { FLANNELD_ETCD_PASSWORD: 'secret' } });
    expect(result).toMatchObject({ code: 1, stdout: [] });
    expect(result.stderr).toEqual([
      expect.stringMatching(
        /^the v3 store cannot be used: .*user reader may not use .*readwrite \/coreos\.com\/network\/$/,
      ),
    ]);
  });
});
