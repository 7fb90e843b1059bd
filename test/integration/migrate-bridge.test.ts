import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { askRaw } from '../contract/v2-store-real.ts';
import { quoted, run } from '../testbed/commands.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { type EtcdCluster, freePorts, startEtcd } from '../testbed/etcd.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { until, untilLines } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';
import { BridgeProcess } from './bridge-process.ts';

const DEADLINE_MS = 20_000;
const prefix = '/coreos.com/network';
const config = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';
const dir = tempDir('migrate-bridge');

/** Serves both stores. */
let etcd: EtcdCluster;
let bridges: readonly [BridgeProcess, BridgeProcess];

beforeAll(async () => {
  etcd = await startEtcd({ dir: join(dir, 'etcd'), args: ['--enable-v2'] });
  const ports = await freePorts(2);
  const bridge = (at: number) =>
    new BridgeProcess({
      dir: join(dir, `bridge-${at}`),
      endpoints: etcd.endpoints,
      prefix,
      port: ports[at] ?? 0,
    });
  bridges = [bridge(0), bridge(1)];
  await v2Put('config', config);
  await v2Put('subnets/10.5.1.0-24', oldValue(1), 86_400);
  await v2Put('subnets/10.5.2.0-24', oldValue(2), 86_400);
  await v3Put(3);
});
afterAll(async () => {
  await Promise.all(bridges?.map((bridge) => bridge.close()) ?? []);
  await etcd?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** As flannel 0.7.1 writes it. */
const oldValue = (host: number) => `{"PublicIP":"10.0.0.${host}","BackendType":"host-gw"}`;

async function v2Put(key: string, value: string, ttlSeconds?: number, below = prefix): Promise<void> {
  const form = { value, ...(ttlSeconds === undefined ? {} : { ttl: String(ttlSeconds) }) };
  const url = new URL(`/v2/keys${below}/${key}`, etcd.endpoints);
  await askRaw(url, 'PUT', { form: new URLSearchParams(form).toString() });
}

/** Takes 10.5.N.0/24 in v3 for 10.0.0.N, or the host given, as a daemon does. */
async function v3Put(subnet: number, host = subnet): Promise<void> {
  const lease = await etcd.grant(86_400);
  const key = `${prefix}/subnets/10.5.${subnet}.0-24`;
  await etcd.ctl('put', `--lease=${lease}`, key, leaseValue(`10.0.0.${host}`));
}

const v3Delete = (subnet: number) => etcd.ctl('del', `${prefix}/subnets/10.5.${subnet}.0-24`);

/** Waits until both stores have 10.5.N.0/24 for 10.0.0.N for each of these, and nothing else. */
async function untilBothHave(hosts: readonly number[]): Promise<void> {
  const read = async () => {
    const url = `${etcd.endpoints}/v2/keys${prefix}/subnets?recursive=true&quorum=true`;
    const { node } = (await (await fetch(url)).json()) as { node: { nodes?: readonly V2Key[] } };
    const old = (node.nodes ?? []).map(({ key, value }) => `v2 ${key} ${value}`);
    const lines = (await etcd.ctl('get', '--prefix', `${prefix}/subnets/`)).split('\n');
    const kept = lines.flatMap((key, at) =>
      at % 2 === 0 && key !== '' ? [`v3 ${key} ${lines[at + 1]}`] : [],
    );
    return [...old, ...kept].map((line) => line.replace(/\{"PublicIP":"([\d.]+)".*/, '$1')).toSorted();
  };
  const wanted = (['v2', 'v3'] as const).flatMap((store) =>
    hosts.map((host) => `${store} ${prefix}/subnets/10.5.${host}.0-24 10.0.0.${host}`),
  );
  await untilLines(read, wanted.toSorted(), DEADLINE_MS);
}

interface V2Key {
  readonly key: string;
  readonly value: string;
}

/** The tests are steps, in this order. */
describe('a bridge on a real etcd', () => {
  it('says where the network is when it was told a wrong prefix, and writes nothing until there is one', async () => {
    const [port = 0] = await freePorts(1);
    const wrong = '/nowhere';
    const bridge = new BridgeProcess({
      dir: join(dir, 'wrong'),
      endpoints: etcd.endpoints,
      prefix: wrong,
      port,
    });
    onTestFinished(() => bridge.close());
    const before = await v3Revision();
    bridge.launch();
    const { msg } = await bridge.waitForLog('trouble');
    expect(msg).toBe(
      `the v2 store at ${etcd.endpoints} has no network here: neither /nowhere/config nor a lease. There is one with --from-prefix=${prefix}`,
    );
    const saysSo = async () =>
      (await bridge.ask('readyz'))?.join(' ') === `503 flanneld is not ready\n${msg}`;
    await until(saysSo, DEADLINE_MS, () => bridge.process.tail());
    // Its lock is all that it has put.
    expect(await v3Revision()).toBe(before + 1);
    await v2Put('config', config, undefined, wrong);
    await bridge.inStep(0, 0);
    expect(await etcd.ctl('get', '--print-value-only', `${wrong}/config`)).toBe(`${config}\n`);
    expect(await bridge.stop()).toEqual({ code: 0, signal: null });
  });

  it('shows on a terminal how many hosts use each store, and which subnets are in conflict', async () => {
    const [input, shown] = [join(dir, 'input'), join(dir, 'shown')];
    await run('mkfifo', [input]);
    const line = quoted(PROGRAM, 'migrate', '--follow', `--etcd-endpoints=${etcd.endpoints}`);
    const terminal = ['sh', '-c', 'exec script -qefc "exec $1" "$2" <>"$3"', 'sh', line, shown, input];
    const child = new RunningProcess(terminal, { env: { PATH: process.env['PATH'] } });
    onTestFinished(async () => void (await child.stop('SIGKILL')));
    const screen = () => (existsSync(shown) ? screenOf(readFileSync(shown, 'utf8')) : []);
    const untilShown = (text: string) =>
      until(
        () => screen().at(-1) === text,
        DEADLINE_MS,
        () => screen().join('\n'),
      );
    await untilShown('2 hosts on v2, 1 on v3, 0 conflicts');
    await v3Put(4);
    await untilShown('2 hosts on v2, 2 on v3, 0 conflicts');
    await v3Put(1, 9);
    await untilShown('1 host on v2, 2 on v3, 1 conflict');
    const conflict = /WARN.* 10\.5\.1\.0\/24 is in conflict: v2 has it for 10\.0\.0\.1, v3 for 10\.0\.0\.9\./;
    await until(
      () => screen().some((text) => conflict.test(text)),
      DEADLINE_MS,
      () => screen().join('\n'),
    );
    await v3Delete(1);
    await untilShown('2 hosts on v2, 2 on v3, 0 conflicts');
    await untilBothHave([1, 2, 3, 4]);
    writeFileSync(input, '\u0003');
    expect(await child.exit).toEqual({ code: 0, signal: null });
    expect(screen().at(-1)).toBe('');
    for (const text of screen().slice(0, -1)) expect(text).toMatch(/(INFO|WARN)/);
  });

  it('answers probes and metrics; a second one waits until it ends, and goes on', async () => {
    const [first, second] = bridges;
    first.launch();
    await first.inStep(2, 2);
    expect(await first.ask('healthz')).toEqual([200, 'flanneld is running']);
    expect(await first.ask('readyz')).toEqual([200, 'flanneld is ready']);
    second.launch();
    const holder = `${hostname()}, process ${first.pid}`;
    const { msg } = await second.waitForLog('bridge-waits');
    expect(msg).toBe(`another bridge (${holder}) is at work: this one waits until that one ends`);
    await second.untilMetrics({ flannel_bridge_in_step: 0, flannel_bridge_waiting: 1 });
    expect(await second.ask('healthz')).toEqual([200, 'flanneld is running']);
    const waits = `flanneld is not ready\nanother bridge (${holder}) is at work; waiting until it ends`;
    expect(await second.ask('readyz')).toEqual([503, waits]);
    // What happens is the first one's business.
    await v2Put('subnets/10.5.5.0-24', oldValue(5), 86_400);
    await first.inStep(3, 2);
    await untilBothHave([1, 2, 3, 4, 5]);
    expect(second.logs.filter(({ event }) => event === 'bridge')).toEqual([]);
    expect(await first.stop()).toEqual({ code: 0, signal: null });
    const stoppedMs = performance.now();
    await second.inStep(3, 2);
    // The lock of one that was killed would last for 15 s.
    expect(performance.now() - stoppedMs).toBeLessThan(10_000);
    await v3Put(6);
    await second.inStep(3, 3);
    await untilBothHave([1, 2, 3, 4, 5, 6]);
  });

  it('finds what it has missed when more than the v2 store remembers has happened elsewhere', async () => {
    const [, bridge] = bridges;
    bridge.process.signal('SIGSTOP');
    // This one answers its poll, and the next poll begins there.
    await v2Put('subnets/10.5.7.0-24', oldValue(7), 86_400);
    const next = (await v2Index()) + 1;
    await v2Remove(2);
    for (let round = 0; round < 26; round++)
      await Promise.all(Array.from({ length: 40 }, (_, at) => v2Put(`elsewhere/${at}`, `${round}`)));
    const poll = `${etcd.endpoints}/v2/keys${prefix}/subnets?recursive=true&wait=true&waitIndex=${next}`;
    expect(await (await fetch(poll)).json()).toMatchObject({ errorCode: 401 });
    bridge.process.signal('SIGCONT');
    await untilBothHave([1, 3, 4, 5, 6, 7]);
    await bridge.inStep(3, 3);
  });

  it('finds what it has missed when etcd was away, and v3 has compacted its history since', async () => {
    const [, bridge] = bridges;
    bridge.process.signal('SIGSTOP');
    // Its watch is cut off, so that it has to begin where it was.
    await etcd.first.stop();
    await etcd.first.start();
    await v3Put(8);
    await v3Delete(4);
    await etcd.ctl('compact', String(await v3Revision()));
    bridge.process.signal('SIGCONT');
    await untilBothHave([1, 3, 5, 6, 7, 8]);
    await bridge.inStep(3, 3);
    // And it hears what comes next.
    await v2Put('subnets/10.5.9.0-24', oldValue(9), 86_400);
    await v3Put(10);
    await untilBothHave([1, 3, 5, 6, 7, 8, 9, 10]);
    expect(bridge.logs.filter(({ event }) => event === 'bridge-restored')).toEqual([]);
    expect(await bridge.stop()).toEqual({ code: 0, signal: null });
  });
});

/** The lines of a terminal that has got this text: what is erased is gone, and colours do not count. */
function screenOf(text: string): readonly string[] {
  const plain = stripVTControlCharacters(text.replaceAll('\r\u001b[2K', '\u0000'));
  const shown = plain.replace(/^Script started.*\n/, '').replace(/\nScript done.*\n$/, '');
  return shown.split('\n').map((line) => line.split('\u0000').at(-1)?.replaceAll('\r', '') ?? '');
}

const v2Remove = (subnet: number) =>
  askRaw(new URL(`/v2/keys${prefix}/subnets/10.5.${subnet}.0-24`, etcd.endpoints), 'DELETE');

async function v2Index(): Promise<number> {
  const answer = await fetch(`${etcd.endpoints}/v2/keys/`);
  await answer.text();
  return Number(answer.headers.get('x-etcd-index'));
}

async function v3Revision(): Promise<number> {
  const answer = await etcd.ctl('get', '/', '-w', 'json');
  return (JSON.parse(answer) as { header: { revision: number } }).header.revision;
}
