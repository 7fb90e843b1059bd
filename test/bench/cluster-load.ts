import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Calls } from '../../sim/etcd-member.ts';
import { LoadWorld } from '../../sim/load/load-world.ts';
import type { Figures } from '../../sim/load/meter.ts';
import { type Cluster, makeHosts, PREFIX } from '../testbed/cluster.ts';
import { until } from '../testbed/commands.ts';
import { loggedAtMs, OUR_PROTOCOL } from '../testbed/daemon.ts';
import { startEtcd } from '../testbed/etcd.ts';
import { enterNamespace } from '../testbed/netns.ts';

/** Calls by kind, and what went to and from etcd in them. */
export type EtcdLoad = Calls & { readonly receivedBytes: number; readonly sentBytes: number };

export interface Compared {
  readonly phase: string;
  readonly seconds: number;
  readonly real: EtcdLoad;
  readonly simulated: EtcdLoad;
}

/** How long a phase took, and when in it each daemon began; none did in a phase of rest. */
interface Course {
  readonly ms: number;
  readonly startsMs?: readonly number[];
}

/** The addresses of the testbed's hosts end with their segment. */
export const MOST_HOSTS = 150;
/** Wide enough that two hosts rarely choose the same subnet, and beside the hosts' own addresses. */
const CONFIG = '{"Network":"172.16.0.0/12","Backend":{"Type":"host-gw"}}';
const REST_MS = 60_000;
const METHODS: Readonly<Record<keyof Calls, string>> = {
  range: 'Range',
  txn: 'Txn',
  leaseGrant: 'LeaseGrant',
  leaseKeepAlive: 'LeaseKeepAlive',
  leaseTimeToLive: 'LeaseTimeToLive',
  leaseRevoke: 'LeaseRevoke',
  watch: 'Watch',
};
const KINDS = Object.keys(METHODS) as (keyof Calls)[];

/**
 * Starts so many daemons, each in a namespace of its own, on one etcd; leaves them at rest for a minute; restarts all. Counts by
 * etcd's own metrics, and has the simulation do the same at the same moments.
 */
export async function compareLoad(hosts: number, say: (line: string) => void): Promise<readonly Compared[]> {
  const real: { readonly phase: string; readonly load: EtcdLoad; readonly course: Course }[] = [];
  const cluster = await makeHosts({ hosts, flags: ['--iface=eth0', `--etcd-endpoints=${ENDPOINT}`] });
  try {
    const { net } = cluster.at(0);
    const members = [{ netns: net.namespace, ip: net.address }];
    const etcd = await startEtcd({ dir: join(cluster.dir, 'etcd'), members });
    cluster.onClose(() => etcd.close());
    await etcd.ctl('put', `${PREFIX}/config`, CONFIG);
    const leave = enterNamespace(net.namespace);
    cluster.onClose(async () => leave());
    const measure = async (phase: string, happen: () => Promise<Course>) => {
      say(`${phase} …`);
      const before = await readMetrics();
      const course = await happen();
      real.push({ phase, course, load: difference(await readMetrics(), before) });
    };
    await measure('all start', () => startAll(cluster));
    await measure('at rest for a minute', async () => {
      await sleep(REST_MS);
      return { ms: REST_MS };
    });
    await measure('all are restarted', async () => {
      const startedMs = Date.now();
      await Promise.all(cluster.hosts.map(({ daemon }) => daemon.stop()));
      return await startAll(cluster, startedMs);
    });
  } finally {
    await cluster.close();
  }
  const simulated = await simulate(
    hosts,
    real.map(({ course }) => course),
  );
  return real.map(({ phase, load, course }, index) => {
    const figures = simulated[index];
    if (figures === undefined) throw new Error(`${phase} was not simulated`);
    return { phase, seconds: course.ms / 1_000, real: load, simulated: loadOf(figures) };
  });
}

/** Of the first host, which has etcd beside its daemon. */
const ENDPOINT = 'http://10.211.55.100:2379';

/** Starts all daemons at once; until each routes to all others. */
async function startAll({ hosts }: Cluster, fromMs = Date.now()): Promise<Course> {
  const limitMs = 60_000 + hosts.length * 2_000;
  for (const { daemon } of hosts) daemon.launch();
  await Promise.all(hosts.map(({ daemon }) => daemon.ready(limitMs)));
  for (const { net, name } of hosts) {
    const isRouted = async () => {
      const own = (await net.routes()).filter(({ protocol }) => protocol === OUR_PROTOCOL);
      return own.length === hosts.length - 1;
    };
    await until(isRouted, limitMs, `${name} does not route to all others`);
  }
  const startsMs = hosts.map(({ daemon: { logs } }) => {
    const [first] = logs;
    return first === undefined ? 0 : Math.max(0, loggedAtMs(first) - fromMs);
  });
  return { ms: Date.now() - fromMs, startsMs };
}

/** The same in a simulated cluster, at the same moments. */
async function simulate(hosts: number, courses: readonly Course[]): Promise<readonly Figures[]> {
  const world = new LoadWorld({ hosts, members: 1, latencyMs: 1, config: CONFIG });
  const all: Figures[] = [];
  for (const { ms, startsMs } of courses) {
    all.push(
      await world.during(async () => {
        const endMs = world.clock.monotonic() + ms;
        if (startsMs !== undefined) {
          await Promise.all(world.hosts.map((host) => host.stop()));
          await world.startAt(world.hosts, startsMs);
        }
        await world.clock.advance(endMs - world.clock.monotonic());
      }),
    );
  }
  await world.close();
  return all;
}

async function readMetrics(): Promise<EtcdLoad> {
  const text = await (await fetch(`${ENDPOINT}/metrics`)).text();
  const value = (name: string, labels = '') => {
    const line = text.split('\n').find((one) => one.startsWith(name) && one.includes(labels));
    if (line === undefined) throw new Error(`etcd tells nothing of ${name} ${labels}`);
    return Number(line.slice(line.lastIndexOf(' ') + 1));
  };
  const calls = KINDS.map((kind) => {
    return [kind, value('grpc_server_started_total{', `grpc_method="${METHODS[kind]}"`)] as const;
  });
  return {
    ...(Object.fromEntries(calls) as Calls),
    receivedBytes: value('etcd_network_client_grpc_received_bytes_total '),
    sentBytes: value('etcd_network_client_grpc_sent_bytes_total '),
  };
}

function difference(after: EtcdLoad, before: EtcdLoad): EtcdLoad {
  const names = Object.keys(after) as (keyof EtcdLoad)[];
  return Object.fromEntries(names.map((name) => [name, after[name] - before[name]])) as unknown as EtcdLoad;
}

function loadOf({ byKind, receivedBytes, sentBytes }: Figures): EtcdLoad {
  return { ...byKind, receivedBytes: receivedBytes.sum, sentBytes: sentBytes.sum };
}

/** As Markdown: each phase by method, then all calls and the bytes, with what the simulation counts. */
export function comparedTable(compared: readonly Compared[]): string {
  const lines = ['| | real etcd | simulated | difference |', '|---|---|---|---|'];
  for (const { phase, seconds, real, simulated } of compared) {
    const add = (name: string, [found, expected]: readonly [number, number]) => {
      const off = found === 0 ? (expected === 0 ? 0 : 100) : (100 * (expected - found)) / found;
      lines.push(
        `| ${phase} (${seconds.toFixed(0)} s): ${name} | ${found} | ${expected} | ${off.toFixed(1)} % |`,
      );
    };
    const sum = (load: EtcdLoad) => KINDS.reduce((total, kind) => total + load[kind], 0);
    for (const kind of KINDS)
      if (real[kind] + simulated[kind] > 0) add(METHODS[kind], [real[kind], simulated[kind]]);
    add('all calls', [sum(real), sum(simulated)]);
    add('bytes received', [real.receivedBytes, simulated.receivedBytes]);
    add('bytes sent', [real.sentBytes, simulated.sentBytes]);
  }
  return lines.join('\n');
}
