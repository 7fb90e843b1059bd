import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, test } from 'vitest';
import { CONFIG } from '../testbed/cluster.ts';
import type { DaemonProcess } from '../testbed/daemon.ts';
import { startEtcd } from '../testbed/etcd.ts';
import { RunningProcess } from '../testbed/process.ts';
import { useBench } from './bench.ts';

interface NotEtcd {
  readonly what: string;
  readonly endpoint: string;
  /** A statement that makes it, on port 2379 of `ip`. */
  readonly server?: string;
  readonly said: readonly string[];
}

const KINDS: readonly NotEtcd[] = [
  { what: 'nobody', endpoint: 'http://127.0.1.1:2379', said: ['127.0.1.1:2379', 'nothing listens there'] },
  {
    what: 'an HTTP server',
    endpoint: 'http://127.0.1.2:2379',
    server: "require('http').createServer((q, r) => r.end('<html>It works!</html>')).listen(2379, ip)",
    said: ['127.0.1.2:2379', 'not etcd'],
  },
  {
    what: 'a silent TCP server',
    endpoint: 'http://127.0.1.3:2379',
    server: "require('net').createServer(() => {}).listen(2379, ip)",
    said: ['127.0.1.3:2379', 'no answer'],
  },
  {
    what: 'a server that answers with a TLS alert',
    endpoint: 'http://127.0.1.4:2379',
    server:
      "require('net').createServer((c) => { c.on('error', () => {}); c.end(Buffer.from([21, 3, 3, 0, 2, 2, 70])) }).listen(2379, ip)",
    said: ['127.0.1.4:2379', 'closed', 'https://'],
  },
];
/** etcd without TLS, spoken to with it. */
const TLS: NotEtcd = {
  what: 'etcd, but https asked for',
  endpoint: 'https://127.0.1.7:2379',
  said: ['https://127.0.1.7:2379', 'TLS'],
};

const ALL = [...KINDS, TLS];
const WAIT_MS = 15_000;

const bench = useBench({ config: null });
const daemons = new Map<NotEtcd, DaemonProcess>();
const servers: RunningProcess[] = [];

const ipOf = ({ endpoint }: NotEtcd) => new URL(endpoint).hostname;
const prefixOf = (kind: NotEtcd) => `/${ipOf(kind)}`;

beforeAll(async () => {
  for (const kind of KINDS) {
    if (kind.server === undefined) continue;
    const code = `const ip = '${ipOf(kind)}'; ${kind.server}.on('listening', () => console.log('listening'))`;
    const server = new RunningProcess(bench.host.command(process.execPath, '-e', code));
    bench.onClose(async () => void (await server.stop('SIGKILL')));
    servers.push(server);
  }
  for (const server of servers) await server.waitFor((lines) => lines[0], 10_000, 'listening');
  for (const kind of ALL) {
    const daemon = bench.makeDaemon(ipOf(kind), { endpoints: kind.endpoint, prefix: prefixOf(kind) });
    daemon.launch();
    daemons.set(kind, daemon);
  }
  await sleep(WAIT_MS);
});

function daemonOf(kind: NotEtcd): DaemonProcess {
  const daemon = daemons.get(kind);
  if (daemon === undefined) throw new Error(kind.what);
  return daemon;
}

test.each(ALL.slice(0, -1))(
  '$what in etcd’s place: the daemon says so in at most four lines within 15 s, and keeps running',
  (kind) => {
    const daemon = daemonOf(kind);
    expect(daemon.running).toBe(true);
    const said = daemon.logs.filter(({ event }) => event !== 'options');
    expect(said.length).toBeGreaterThan(0);
    expect(said.length).toBeLessThanOrEqual(4);
    expect(said.every(({ level, event }) => level === 'warn' && event === 'trouble')).toBe(true);
    const lines = said.map(({ msg }) => msg ?? '');
    expect(lines.every((line) => line.startsWith('waiting for etcd: ') && !/[\p{Cc}]/u.test(line))).toBe(
      true,
    );
    for (const text of kind.said) expect(lines.join(' | ')).toContain(text);
  },
);

test('each daemon starts by itself once a real etcd is there; the one with https:// says why it cannot connect', async () => {
  for (const server of servers) await server.stop('SIGKILL');
  const urls = ALL.map((kind) => `http://${ipOf(kind)}:2379`);
  const etcd = await startEtcd({
    dir: join(bench.dir, 'another'),
    members: [{ netns: bench.host.namespace, ip: '127.0.0.3' }],
    args: [`--listen-client-urls=${['http://127.0.0.3:2379', ...urls].join(',')}`],
  });
  bench.onClose(() => etcd.close());
  for (const kind of ALL) await etcd.ctl('put', `${prefixOf(kind)}/config`, JSON.stringify(CONFIG));
  for (const kind of KINDS) {
    const daemon = daemonOf(kind);
    await daemon.ready();
    expect(daemon.logs.filter(({ event, what }) => event === 'trouble-over' && what === 'etcd')).toHaveLength(
      1,
    );
    expect((await daemon.stop()).code).toBe(0);
  }
  const tls = daemonOf(TLS);
  const line = await tls.waitForLog(({ event, msg }) => event === 'trouble' && msg?.includes('TLS') === true);
  for (const text of TLS.said) expect(line.msg).toContain(text);
  expect((await tls.stop()).code).toBe(0);
});
