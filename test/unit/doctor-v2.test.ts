import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { examineHost } from '../../sim/doctor.ts';
import { SimV2Etcd } from '../../sim/etcd-v2.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import { makeCluster } from './sim-worlds.ts';

let cluster: SimCluster;
let host: SimHost;
let v2: SimV2Etcd;

const oldValue = (ip: string) => `{"PublicIP":"${ip}","BackendType":"host-gw"}`;
const old = (name: string, ip: string, ttlSeconds?: number) =>
  v2.set(`${prefix}/subnets/${name}`, oldValue(ip), ttlSeconds);
const stored = () => cluster.etcd.get(`${prefix}/config`)?.value ?? '';
const OTHER = '10.211.55.99';

beforeEach(async () => {
  cluster = makeCluster({ seed: 11, hosts: 2 });
  [host] = cluster.hosts as [SimHost];
  v2 = new SimV2Etcd(cluster.clock);
  onTestFinished(() => v2.close());
  await host.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '1\n', 0o644);
  for (const each of cluster.hosts) each.start();
  await cluster.clock.until('full mesh', () => cluster.meshed, 60_000);
});

/** What it says of v2: its lines, and those of their remedies. */
async function examine(): Promise<readonly string[]> {
  const client = new V2Client([v2.member('etcd-0')], { clock: cluster.clock });
  const lines = (await examineHost(cluster, host, { v2: client })).text.split('\n');
  return lines.filter(
    (line, at) => /v2 store/.test(line) || (/→/.test(line) && /v2 store/.test(lines[at - 1] ?? '')),
  );
}

const name = async (of: SimHost) => (await of.subnet())?.text.replace('/', '-') ?? '';

describe("the doctor, about etcd's v2 store,", () => {
  it.each<[string, () => unknown]>([
    ['is not served', () => (v2.isServed = false)],
    ['does not answer', () => v2.freeze('etcd-0')],
    ['is down', () => v2.stop('etcd-0')],
    ['lets nobody in', () => (v2.users = new Map())],
    ['has no network there', () => v2.set('/elsewhere/config', '{}')],
  ])('says nothing when it %s', async (_, make) => {
    if (v2.isServed) old('172.20.99.0-24', OTHER, 3600);
    if (_.startsWith('has no')) v2.delete(prefix, { recursive: true });
    make();
    const before = cluster.clock.now();
    expect(await examine()).toEqual([]);
    expect(cluster.clock.now() - before).toBeLessThan(15_000);
  });

  it('names what has not been copied, and the command', async () => {
    v2.set(`${prefix}/config`, stored());
    old('172.20.99.0-24', OTHER, 3600);
    old('172.20.98.0-24', '10.211.55.98');
    expect(await examine()).toEqual([
      `PROBLEM  1 lease is in etcd's v2 store alone, so that hosts which use the v3 store have no route there: 172.20.99.0/24 of ${OTHER}`,
      '         → Copy what is missing: flanneld-ts migrate',
      "note     1 reservation is in etcd's v2 store alone: 172.20.98.0/24 of 10.211.55.98",
      '         → Copy what is missing: flanneld-ts migrate',
    ]);
  });

  it('is content when the v3 store has all of it', async () => {
    v2.set(`${prefix}/config`, stored());
    for (const one of cluster.hosts) old(await name(one), one.address, 3600);
    expect(await examine()).toEqual(["ok       the leases of etcd's v2 store (2) are all in the v3 store"]);
  });

  it('names a subnet that another host has in v3', async () => {
    old(await name(host), OTHER, 3600);
    expect(await examine()).toEqual([
      expect.stringMatching(
        /^PROBLEM {2}1 lease of etcd's v2 store is in conflict with the v3 store: \S+ of 10\.211\.55\.99 \(v3 has it for \S+\)$/,
      ),
      '         → Find out which host uses the subnet: flanneld-ts migrate --dry-run',
    ]);
  });

  it('names reservations that etcdctl migrate has made of leases, and how to mend them', async () => {
    for (let write = 0; write < 50; write++) v2.set('/unrelated', '');
    old('172.20.99.0-24', OTHER, 3600);
    cluster.etcd.put(`${prefix}/subnets/172.20.99.0-24`, oldValue(OTHER));
    cluster.etcd.put(`${prefix}/subnets/172.20.97.0-24`, oldValue('10.211.55.97'));
    expect(await examine()).toEqual([
      "ok       the leases of etcd's v2 store (1) are all in the v3 store",
      `note     1 reservation in the v3 store is a lease in the v2 store, as etcdctl migrate leaves them: they do not end when their hosts are gone: 172.20.99.0/24 of ${OTHER}`,
      '         → Give them leases: flanneld-ts migrate --repair',
    ]);
  });

  it.each([
    ['problem', 3600],
    ['note', undefined],
  ])(
    'names a configuration that means udp to flannel 0.7.1: a %s with leases of %s s',
    async (level, ttl) => {
      v2.set(`${prefix}/config`, stored().replace(/,"Backend":\{[^}]*\}/, ''));
      old(await name(host), host.address, ttl);
      const [line = '', remedy] = await examine();
      expect(line.toLowerCase()).toMatch(
        new RegExp(`^${level} .*is not that of the v3 store: .* backend is missing: flannel then means udp`),
      );
      expect(remedy).toContain('must have the same one');
    },
  );

  it('names the command beside a configuration that v3 lacks, and one that is of no use', async () => {
    for (const one of cluster.hosts) await one.stop();
    v2.set(`${prefix}/config`, stored().replace('host-gw', 'vxlan'));
    cluster.etcd.delete(`${prefix}/config`);
    expect((await examine()).join('\n')).toMatch(
      /the configuration in the v2 store at \S+config is none for flanneld-ts: .*vxlan.*\n +→ Store the one that is meant in v3: etcdctl put /,
    );
  });
});
