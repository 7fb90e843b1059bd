import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { EtcdMember } from '../../src/subnet/etcd/member.ts';
import { type EtcdCluster, freePorts, startEtcd } from '../testbed/etcd.ts';
import { registryContract } from './registry.ts';
import { connect, realRegistry, temporaryFolder } from './registry-real.ts';
import { collect, put } from './registry-suite.ts';

const dir = temporaryFolder();

registryContract('etcd', async () => {
  const etcd = await startEtcd({ dir: join(dir, 'contract') });
  return realRegistry(etcd, `${etcd.endpoints}/metrics`);
});

describe('a lot of data', () => {
  let etcd: EtcdCluster;
  const prefix = '/big/subnets/';
  const count = 12_000;
  let firstRevision = 0;

  beforeAll(async () => {
    etcd = await startEtcd({ dir: join(dir, 'big') });
    const registry = new EtcdMember(etcd.first.clientUrl, { clock: systemClock });
    const value = JSON.stringify({
      PublicIP: '10.211.55.101',
      BackendType: 'vxlan',
      BackendData: 'x'.repeat(380),
    });
    for (let start = 0; start < count; start += 100) {
      const success = Array.from({ length: 100 }, (_, offset) =>
        put(`${prefix}10.${(start + offset) >> 8}.${(start + offset) & 255}.0-24`, value),
      );
      const { header } = await registry.txn({ compare: [], success });
      if (start === 0) firstRevision = header.revision;
    }
    registry.close();
  });
  afterAll(() => etcd.close());

  it('12,000 keys, over 5 MB, come in one answer', async () => {
    const { kvs, more } = await connect(etcd.first.clientUrl).range({
      key: prefix,
      rangeEnd: '/big/subnets0',
    });
    expect([kvs.length, more]).toEqual([count, false]);
    expect(kvs.reduce((bytes, kv) => bytes + kv.value.length, 0)).toBeGreaterThan(5_000_000);
  });

  it('a backlog of over 5 MB comes in fragments, complete and in order', async () => {
    const read = async () => {
      let seen = 0;
      return await collect(connect(etcd.first.clientUrl), prefix, firstRevision, (all) => {
        seen += all.at(-1)?.events.length ?? 0;
        return seen >= count;
      });
    };
    // etcd notes that a watch wants fragments after it was created: under load its backlog may be faster, and come whole.
    const backlogs = await Promise.all([read(), read(), read()]);
    for (const batches of backlogs) {
      const events = batches.flatMap((batch) => batch.events);
      expect(events).toHaveLength(count);
      expect(new Set(events.map((event) => event.type === 'put' && event.kv.key)).size).toBe(count);
      const revisions = events.map((event) => (event.type === 'put' ? event.kv.modRevision : 0));
      expect(revisions).toEqual(revisions.toSorted((a, b) => a - b));
      expect(batches.at(-1)?.fragment).toBe(false);
    }
    const fragments = backlogs.map((batches) => batches.filter((batch) => batch.fragment).length);
    expect(Math.max(...fragments)).toBeGreaterThan(1);
  });

  it('leaves nothing half-read when the reader stops in the middle of a backlog', async () => {
    const registry = connect(etcd.first.clientUrl);
    await collect(registry, prefix, firstRevision, (all) => (all.at(-1)?.events.length ?? 0) > 0);
    expect((await registry.range({ key: prefix })).kvs).toEqual([]);
  });
});

describe('a process that has closed its registries ends by itself', () => {
  const member = fileURLToPath(new URL('../../src/subnet/etcd/member.ts', import.meta.url));
  const clock = fileURLToPath(new URL('../../src/daemon/host/clock.ts', import.meta.url));

  /** A program that calls every endpoint, closes all after a while, and prints the outcomes and how long it lingered. */
  const program = (endpoints: readonly string[]) => `
    import { setTimeout as sleep } from 'node:timers/promises';
    import { EtcdMember } from ${JSON.stringify(member)};
    import { systemClock as clock } from ${JSON.stringify(clock)};
    const members = ${JSON.stringify(endpoints)}.map((endpoint) => new EtcdMember(endpoint, { clock }));
    const outcomes = [];
    const note = (promise) => promise.then(() => outcomes.push('done'), (error) => outcomes.push(error.kind));
    const watch = async (member) => {
      const request = { key: 'a', rangeEnd: 'b', startRevision: 1 };
      for await (const { kind } of member.watch(request, new AbortController().signal)) outcomes.push(kind);
    };
    const calls = members.flatMap((m) => [note(m.range({ key: 'a' })), note(m.leaseKeepAlive('1')), note(watch(m))]);
    await sleep(1000);
    for (const member of members) member.close();
    await Promise.all(calls);
    const closedAt = performance.now();
    process.on('exit', () => console.log(JSON.stringify([outcomes.sort(), Math.round(performance.now() - closedAt)])));
  `;

  async function run(command: readonly string[], endpoints: readonly string[]) {
    const [file, ...args] = [...command, process.execPath, '--input-type=module', '-e', program(endpoints)];
    const { stdout } = await promisify(execFile)(file, args, { timeout: 30_000 });
    const [outcomes, lingeredMs] = JSON.parse(stdout) as [string[], number];
    return { outcomes, lingeredMs };
  }

  it('whether a member answers, refuses, or is frozen', async () => {
    const etcd = await startEtcd({ dir: join(dir, 'exit') });
    const frozen = await startEtcd({ dir: join(dir, 'exit-frozen') });
    onTestFinished(() => Promise.all([etcd.close(), frozen.close()]).then(() => undefined));
    frozen.first.pause();
    const [port] = await freePorts(1);
    const handshake = frozen.endpoints.replace('http:', 'https:');
    const endpoints = [etcd.endpoints, frozen.endpoints, handshake, `http://127.0.0.1:${port}`];
    const { outcomes, lingeredMs } = await run([], endpoints);
    const lost = Array.from({ length: 10 }, () => 'UNAVAILABLE');
    expect(outcomes).toEqual([...lost, 'created', 'done', 'done']);
    expect(lingeredMs).toBeLessThan(3_000);
  });

  it('when a filter swallows everything', async () => {
    const setUp = 'ip link set lo up; iptables -A INPUT -p tcp --dport 2379 -j DROP; exec "$@"';
    const { outcomes, lingeredMs } = await run(
      ['unshare', '-n', 'sh', '-ec', setUp, 'sh'],
      ['http://127.0.0.1:2379'],
    );
    expect(outcomes).toEqual(['UNAVAILABLE', 'UNAVAILABLE', 'UNAVAILABLE']);
    expect(lingeredMs).toBeLessThan(3_000);
  });
});
