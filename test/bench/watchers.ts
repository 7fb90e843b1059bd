import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { type ClientHttp2Stream, connect } from 'node:http2';
import { join } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { EtcdMember } from '../../src/subnet/etcd/member.ts';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';
import { startEtcd } from '../testbed/etcd.ts';
import { GrpcProxy } from '../testbed/grpc-proxy.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { enterNamespace, makeNetwork } from '../testbed/netns.ts';
import { tempDir } from '../testbed/run.ts';
import { quantile } from './measure.ts';
import { ENDPOINT, nowMs } from './stage.ts';

// What etcd does for the watches of many hosts. A watcher asks for what the daemon asks for, on a connection of its own as a daemon
// has one, but over HTTP/2 alone: so many of grpc-js's would leave etcd nothing of the machine.

const SUBNETS = '/bench/subnets/';
const PROXY = '127.0.0.1:23790';
const WATCHERS: readonly number[] = [500, 1_000, 2_000];
/** Changes a second, and for how long. None: what it costs to have the watches. */
const LOADS = [
  { rate: 0, seconds: 5 },
  { rate: 1, seconds: 20 },
  { rate: 100, seconds: 5 },
] as const;
const DAY_SECONDS = 86_400;
const TICKS_PER_SECOND = 100;
/** Watchers are spread over so many processes, so that both cores can be theirs. */
const PROCESSES = 2;
const OPENING_AT_ONCE = 50;

interface Row {
  readonly way: 'etcd' | 'proxy';
  readonly watchers: number;
  readonly rate: number;
  /** Changes that etcd did not answer in time. */
  readonly unanswered: number;
  /** Of one core, from the first change until the last watcher has the last one. */
  readonly etcdPercent: number;
  /** etcd's processor time, µs, for one change at one watcher; not known where etcd may have made changes without an answer. */
  readonly etcdEachUs: number;
  readonly etcdMib: number;
  readonly sentKibPerSecond: number;
  readonly proxyPercent: number;
  readonly proxyMib: number;
  /** For each change, ms from the write to the event at the last watcher. */
  readonly delaysMs: readonly number[];
}

/** Measures etcd alone and behind its gRPC proxy, in a network namespace of its own; resolves to a table as Markdown. */
export async function measureWatchers(say: (line: string) => void): Promise<string> {
  const closers: (() => Promise<unknown>)[] = [];
  const rows: Row[] = [];
  try {
    const dir = tempDir('watchers');
    closers.push(async () => rmSync(dir, { recursive: true, force: true }));
    const network = await makeNetwork([{ name: 'etcd', addresses: ['10.211.55.100/24'] }]);
    closers.push(() => network.close());
    const [host] = network.hosts;
    if (host === undefined) throw new Error('no host');
    for (const way of ['etcd', 'proxy'] as const) {
      for (const watchers of way === 'etcd' ? [0, ...WATCHERS] : WATCHERS) {
        // Each with an etcd of its own, because memory that Go once had stays.
        const place = {
          dir: join(dir, `${way}-${watchers}`),
          members: [{ netns: host.namespace, ip: '127.0.0.1' }],
        };
        const etcd = await startEtcd(place);
        const proxy = new GrpcProxy({ dir: place.dir, host, listen: PROXY, endpoints: etcd.endpoints });
        const leave = enterNamespace(host.namespace);
        try {
          if (way === 'proxy') await proxy.start();
          const pids = { etcd: etcd.first.pid, proxy: way === 'proxy' ? proxy.pid : undefined };
          for (const row of await measure(way, watchers, pids)) {
            say(lineOf(row));
            rows.push(row);
          }
        } finally {
          leave();
          await proxy.kill();
          await etcd.close();
        }
      }
    }
  } finally {
    for (const close of closers.toReversed()) await close();
  }
  const titles = [
    'watched at',
    'watchers',
    'changes/s',
    'etcd CPU, % of one core',
    'etcd CPU for a change at a watcher, µs',
    'etcd RSS, MiB',
    'sent by etcd, KiB/s',
    'proxy CPU, %',
    'proxy RSS, MiB',
    'write → last watcher p50, ms',
    'p99, ms',
  ];
  return [`| ${titles.join(' | ')} |`, `|${'---|'.repeat(titles.length)}`, ...rows.map(lineOf)].join('\n');
}

function lineOf(row: Row): string {
  const text = (value: number) => (Number.isFinite(value) ? value.toFixed(value < 10 ? 1 : 0) : '');
  const { etcdPercent, etcdEachUs, etcdMib, sentKibPerSecond, proxyPercent, proxyMib, delaysMs } = row;
  const delays = [quantile(delaysMs, 0.5), quantile(delaysMs, 0.99)];
  const values = [etcdPercent, etcdEachUs, etcdMib, sentKibPerSecond, proxyPercent, proxyMib, ...delays].map(
    text,
  );
  const rate = `${row.rate}${row.unanswered > 0 ? ` (${row.unanswered} unanswered)` : ''}`;
  return `| ${[row.way, row.watchers, rate, ...values].join(' | ')} |`;
}

interface Pids {
  readonly etcd: number;
  readonly proxy: number | undefined;
}

async function measure(way: Row['way'], watchers: number, pids: Pids): Promise<readonly Row[]> {
  const registry = new EtcdMember(ENDPOINT, { clock: systemClock, deadlineMs: 60_000 });
  const crowd = new Crowd();
  const rows: Row[] = [];
  try {
    const { header } = await registry.range({ key: SUBNETS });
    await crowd.open(watchers, way === 'proxy' ? `http://${PROXY}` : ENDPOINT, header.revision);
    const { id } = await registry.leaseGrant(DAY_SECONDS);
    let change = 0;
    for (const { rate, seconds } of LOADS) {
      const first = change + 1;
      const last = change + rate * seconds;
      const before = await usageOf(pids);
      const sent = await write(registry, id, { first, last, rate, seconds });
      const unanswered = rate * seconds - sent.size;
      const arrivedMs = await crowd.arrivals([...sent.keys()]);
      // All of it: also what is done after the last write.
      const after = await usageOf(pids);
      const ms = after.atMs - before.atMs;
      const percent = (cpuSeconds: (usage: Usage) => number) =>
        (100_000 * (cpuSeconds(after) - cpuSeconds(before))) / ms;
      rows.push({
        way,
        watchers,
        rate,
        unanswered,
        etcdPercent: percent(({ etcd }) => etcd.cpuSeconds),
        etcdEachUs:
          (1e6 * (after.etcd.cpuSeconds - before.etcd.cpuSeconds)) /
          (unanswered > 0 ? 0 : watchers * sent.size),
        etcdMib: after.etcd.rssMib,
        sentKibPerSecond: (1_000 * (after.sentBytes - before.sentBytes)) / 1_024 / ms,
        proxyPercent: percent(({ proxy }) => proxy.cpuSeconds),
        proxyMib: after.proxy.rssMib,
        delaysMs:
          watchers === 0
            ? []
            : [...sent.values()].map((sentMs, index) => (arrivedMs[index] ?? Number.NaN) - sentMs),
      });
      change = last;
    }
    return rows;
  } finally {
    await crowd.close();
    registry.close();
  }
}

type Load = Readonly<Record<'first' | 'last' | 'rate' | 'seconds', number>>;

/** Moves leases at a fixed rate, whatever the answers; resolves to when each change was sent that etcd has answered. */
async function write(
  registry: EtcdMember,
  lease: string,
  { first, last, rate, seconds }: Load,
): Promise<ReadonlyMap<number, number>> {
  const startedMs = nowMs();
  const sent = new Map<number, number>();
  const answers: Promise<unknown>[] = [];
  for (let change = first; change <= last; change++) {
    await sleep(Math.max(0, startedMs + ((change - first) * 1_000) / rate - nowMs()));
    const key = `${SUBNETS}10.200.${change & 255}.0-24`;
    sent.set(change, nowMs());
    const put = { op: 'put', key, value: leaseValue(addressOf(change)), lease } as const;
    const answer = registry.txn({ compare: [], success: [put] });
    answers.push(answer.catch(() => sent.delete(change)));
  }
  await Promise.all(answers);
  await sleep(Math.max(0, startedMs + 1_000 * seconds - nowMs()));
  return sent;
}

/** The number of a change as an address, which watchers read it from: nothing else is in the value of a lease. */
const addressOf = (change: number): string => `172.17.${change >> 8}.${change & 255}`;

interface Usage {
  readonly atMs: number;
  readonly etcd: ProcessUsage;
  readonly proxy: ProcessUsage;
  /** By etcd's own count: the messages to all clients, without the framing. */
  readonly sentBytes: number;
}

interface ProcessUsage {
  readonly cpuSeconds: number;
  readonly rssMib: number;
}

async function usageOf(pids: Pids): Promise<Usage> {
  const metrics = await (await fetch(`${ENDPOINT}/metrics`)).text();
  const sentBytes = Number(/^etcd_network_client_grpc_sent_bytes_total (\S+)$/m.exec(metrics)?.[1]);
  return { atMs: nowMs(), etcd: processUsage(pids.etcd), proxy: processUsage(pids.proxy), sentBytes };
}

function processUsage(pid: number | undefined): ProcessUsage {
  if (pid === undefined) return { cpuSeconds: Number.NaN, rssMib: Number.NaN };
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // After the name, which may hold spaces: utime and stime are the 12th and 13th.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const rss = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return {
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
    rssMib: Number(rss) / 1_024,
  };
}

type Order =
  | { readonly open: number; readonly url: string; readonly revision: number }
  | { readonly changes: readonly number[] };

/** The watchers, in processes of their own. */
class Crowd {
  #children: readonly ChildProcess[] = [];

  /** Resolves when all watches are confirmed. */
  async open(watchers: number, url: string, revision: number): Promise<void> {
    if (watchers === 0) return;
    this.#children = Array.from({ length: PROCESSES }, () => fork(import.meta.filename));
    await this.#order({ open: watchers / PROCESSES, url, revision });
  }

  /** Resolves to when the last watcher had each of the changes, once it has all. */
  async arrivals(changes: readonly number[]): Promise<readonly number[]> {
    const answers = await this.#order({ changes });
    return changes.map((_, index) => Math.max(...answers.map((times) => times[index] ?? Number.NaN)));
  }

  async #order(order: Order): Promise<readonly (readonly number[])[]> {
    const answerOf = async (child: ChildProcess) => {
      const ended = once(child, 'exit').then(([code]) => {
        throw new Error(`a process of watchers ended with ${code}`);
      });
      const answered = once(child, 'message');
      child.send(order);
      const [answer]: unknown[] = await Promise.race([answered, ended]);
      return answer as readonly number[];
    };
    return await Promise.all(this.#children.map(answerOf));
  }

  async close(): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
    }
  }
}

/** The watchers of one process, and when the last of them had each change. */
class Watchers {
  #streams = 0;
  /** By the number of the change: how many watchers do not have it yet, and when the last one had it. */
  readonly #missing: number[] = [];
  readonly #atMs: number[] = [];
  #onChange: () => void = () => {};

  async open(count: number, url: string, revision: number): Promise<void> {
    this.#streams = count;
    for (let left = count; left > 0; left -= OPENING_AT_ONCE)
      await Promise.all(
        Array.from({ length: Math.min(left, OPENING_AT_ONCE) }, () => this.#watch(url, revision)),
      );
  }

  /** Resolves to when the last watcher had each of the changes, once it has all. */
  async arrivals(changes: readonly number[]): Promise<readonly number[]> {
    await new Promise<void>((resolve) => {
      this.#onChange = () => {
        if (changes.every((change) => this.#missing[change] === 0)) resolve();
      };
      this.#onChange();
    });
    return changes.map((change) => this.#atMs[change] ?? Number.NaN);
  }

  /** One connection with one watch; resolves when it is confirmed. It is opened again from where it was, as the daemon does. */
  async #watch(url: string, revision: number, seen = new Set<number>()): Promise<void> {
    const session = connect(url);
    session.on('error', fail);
    const stream = session.request({
      ':method': 'POST',
      ':path': '/etcdserverpb.Watch/Watch',
      'content-type': 'application/grpc',
      te: 'trailers',
      hasleader: 'true',
    });
    stream.on('error', fail);
    stream.on('end', () => {
      session.close();
      console.error('a watch was cut, and is opened again');
      void this.#watch(url, revision, seen);
    });
    // Each change is a revision of its own, and nothing else is written.
    stream.write(createRequest(revision + seen.size));
    await new Promise<void>((resolve) => {
      onMessages(stream, (message) => {
        resolve();
        for (const change of changesIn(message)) {
          // A proxy may send the value from before as well.
          if (seen.has(change)) continue;
          seen.add(change);
          this.#note(change);
        }
      });
    });
  }

  #note(change: number): void {
    const missing = (this.#missing[change] ?? this.#streams) - 1;
    this.#missing[change] = missing;
    if (missing > 0) return;
    this.#atMs[change] = nowMs();
    this.#onChange();
  }
}

/** Calls back with each message of a gRPC stream: a byte that says that it is not compressed, its length, and itself. */
function onMessages(stream: ClientHttp2Stream, take: (message: Buffer) => void): void {
  let rest: Buffer = Buffer.alloc(0);
  stream.on('data', (chunk: Buffer) => {
    let bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
      const end = 5 + bytes.readUInt32BE(1);
      take(bytes.subarray(5, end));
      bytes = bytes.subarray(end);
    }
    rest = bytes;
  });
}

/** The numbers of the changes that a message tells of, by the addresses in the values. */
function* changesIn(message: Buffer): Generator<number> {
  for (const [, high, low] of message.toString('latin1').matchAll(/"PublicIP":"172\.17\.(\d+)\.(\d+)"/g))
    yield Number(high) * 256 + Number(low);
}

/** etcd's WatchRequest as the daemon sends it: key, range_end, start_revision, progress_notify, fragment. */
function createRequest(revision: number): Buffer {
  const text = (field: number, value: string) => [field * 8 + 2, value.length, ...Buffer.from(value)];
  const varint = (value: number): number[] =>
    value < 128 ? [value] : [(value & 127) | 128, ...varint(value >> 7)];
  const create = [
    ...text(1, SUBNETS),
    ...text(2, prefixEnd(SUBNETS)),
    3 * 8,
    ...varint(revision),
    4 * 8,
    1,
    8 * 8,
    1,
  ];
  const message = Buffer.from([8 + 2, create.length, ...create]);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

function fail(error: Error): never {
  console.error(`a watcher failed: ${error.message}`);
  process.exit(1);
}

if (process.argv[1] === import.meta.filename) {
  const watchers = new Watchers();
  process.on('disconnect', () => process.exit(0));
  process.on('message', (order: Order) => {
    const done =
      'open' in order
        ? watchers.open(order.open, order.url, order.revision).then(() => [])
        : watchers.arrivals(order.changes);
    void done.then((answer) => process.send?.(answer), fail);
  });
}
