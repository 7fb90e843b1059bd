import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { ENDPOINT, useBench } from './bench.ts';
import { runProgram } from './program.ts';

// What an operator does in etcd, with the program as it is built.

const etcd = [`--etcd-endpoints=${ENDPOINT}`, `--etcd-prefix=${PREFIX}`];
const bench = useBench({ config: null });
const stored = () => bench.etcd.ctl('get', '--print-value-only', `${PREFIX}/config`);

async function run(line: string, env: Readonly<Record<string, string>> = {}) {
  const place = { namespace: bench.host.namespace, dir: join(bench.dir, 'operator') };
  const { code, stdout, stderr } = await runProgram({ ...place, argv: line.split(' '), env });
  return { code, text: [...stdout, ...stderr].join('\n') };
}

const inEtcd = (line: string, env = {}) => run(`${line} ${etcd.join(' ')}`, env);

function file(name: string, text: string): string {
  const path = join(bench.dir, name);
  writeFileSync(path, text);
  return path;
}

const pool = (max: string) => `{
  "Network": "172.20.0.0/16", "SubnetMin": "172.20.10.0", "SubnetMax": "${max}",
  "Backend": { "Type": "host-gw" }
}`;

test('the configuration is checked, stored, edited and followed back', async () => {
  const bad = await run(`config validate ${file('bad.json', '{\'Network\': "172.20.0.0/16",}')}`);
  expect(bad.text).toMatch(/3 faults\n {2}line 1, column 2: there are single quotes/);
  expect(bad.code).toBe(1);
  expect(await inEtcd('config show')).toMatchObject({ code: 1 });

  const wide = file('wide.json', `\ufeff${pool('172.20.254.0')}\r\n`);
  expect(await run(`config validate ${wide}`)).toMatchObject({ code: 0 });
  expect(await inEtcd(`config set ${wide}`)).toMatchObject({
    code: 2,
    text: expect.stringContaining('--yes'),
  });
  expect(await inEtcd(`config set --yes ${wide}`)).toMatchObject({ code: 0 });
  expect((await stored()).trim()).toBe(pool('172.20.254.0'));

  await bench.etcd.ctl('put', leaseKey('172.20.200.0/24'), leaseValue('10.211.55.102'));
  const narrow = file('narrow.json', pool('172.20.99.0'));
  const dry = await inEtcd(`config set --dry-run ${narrow}`);
  expect(dry.text).toContain('172.20.200.0/24 of 10.211.55.102: outside SubnetMin');
  expect(dry.code).toBe(0);
  expect(await stored()).toContain('172.20.254.0');

  const edited = await inEtcd('config edit --yes', { EDITOR: 'sed -i s/254/250/' });
  expect(edited.text).toContain('SubnetMax 172.20.254.0 → 172.20.250.0');
  expect(edited.code).toBe(0);
  expect(await stored()).toContain('172.20.250.0');
  const history = await inEtcd('config history --json');
  expect(JSON.parse(history.text)).toMatchObject({
    beginning: 'created',
    versions: [{ changes: ['SubnetMax 172.20.254.0 → 172.20.250.0'] }, { text: pool('172.20.254.0') }],
  });
  const shown = await inEtcd('config show');
  expect(shown.text).toMatch(/^SubnetMax +172\.20\.250\.0 +given$/m);
  expect(shown.code).toBe(0);
});

test('leases are listed, shown, reserved and released', async () => {
  const key = (subnet: string) => leaseKey(subnet).slice(`${PREFIX}/subnets/`.length);
  const keys = async () =>
    (await bench.etcd.ctl('get', '--prefix', '--keys-only', `${PREFIX}/subnets/`))
      .split('\n')
      .filter(Boolean);
  await bench.etcd.ctl('del', '--prefix', `${PREFIX}/subnets/`);
  const lease = await bench.etcd.grant(3_600);
  await bench.etcd.ctl('put', `--lease=${lease}`, leaseKey('172.20.15.0/24'), leaseValue('10.211.55.101'));
  await bench.daemon.start();
  const own = `${bench.daemon.subnetEnv()['FLANNEL_SUBNET']?.replace('.1/24', '.0/24')}`;

  const listed = await inEtcd('lease list');
  expect(listed.text).toMatch(
    new RegExp(`^172\\.20\\.15\\.0/24 +10\\.211\\.55\\.101 +4 +59m\\d+s +\\d+s +${lease}$`, 'm'),
  );
  expect(listed.text).toMatch(/^2 leases; no problems$/m);
  expect(listed.code).toBe(0);
  const cluster = await inEtcd('status --cluster');
  expect(cluster.text).toContain('239 of 241 subnets free');
  expect(cluster.code).toBe(0);
  expect(JSON.parse((await inEtcd('lease free --json')).text)).toMatchObject({
    pools: [{ size: 241, free: 239 }],
    nextEnd: { key: leaseKey('172.20.15.0/24') },
  });

  // The daemon of this host keeps its subnet as a reservation, and as a lease again.
  expect(await inEtcd(`lease reserve ${own} 10.211.55.100`)).toMatchObject({ code: 0 });
  const shown = await inEtcd('lease show 10.211.55.100 --json');
  expect(JSON.parse(shown.text)).toMatchObject({ leases: [{ reserved: true, subnets: { ipv4: own } }] });
  expect(await inEtcd('lease unreserve 10.211.55.100')).toMatchObject({ code: 0 });
  expect(await inEtcd(`lease reserve ${own} 10.211.55.101`)).toMatchObject({ code: 1 });

  // The other host has never been there, and this one's address is not asked from here.
  const dry = await inEtcd('lease prune --older-than=1s --json');
  expect(JSON.parse(dry.text)).toMatchObject({
    dryRun: true,
    old: expect.arrayContaining([expect.objectContaining({ verdict: 'gone' })]),
  });
  const pruned = await inEtcd('lease prune --older-than=1s --yes --force');
  expect(pruned.text).toMatch(/^172\.20\.15\.0\/24 .* released$/m);
  expect((await keys()).map((name) => name.slice(`${PREFIX}/subnets/`.length))).toEqual([key(own)]);
});

test('a command that cannot ask etcd exits 3', async () => {
  const { code, text } = await run('config show --json --etcd-endpoints=http://127.0.0.1:1');
  expect(JSON.parse(text)).toMatchObject({ code: 'ETCD_UNAVAILABLE' });
  expect(code).toBe(3);
});
