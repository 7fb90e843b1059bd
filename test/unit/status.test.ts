import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, lstatSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { PeerRoute } from '../../src/backend/hostgw/status.ts';
import type { StatusView } from '../../src/cli/ask-daemon.ts';
import { runStatus } from '../../src/cli/status.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { runStatusServer } from '../../src/daemon/report/status-server.ts';
import type { Snapshot } from '../../src/daemon/state.ts';
import { until } from '../testbed/commands.ts';
import { cleanUp, cleanups, close, serving } from '../testbed/health-server.ts';
import { tempDir } from '../testbed/run.ts';

// The two ends of `flanneld-ts status`, over real sockets.

let dir: string;
let path: string;

beforeEach(() => {
  dir = tempDir('status');
  path = join(dir, 'run/flannel/subnet.sock');
});

afterEach(async () => {
  await cleanUp();
  rmSync(dir, { recursive: true, force: true });
});

const startedAtMs = Date.UTC(2026, 10, 23, 12);
const nowMs = startedAtMs + (26 * 3_600 + 5 * 60) * 1000;

function peer(
  key: string,
  dst: string,
  gateway: string,
  state: PeerRoute['state'],
  forMs: number,
): PeerRoute {
  return { key, dst, gateway, state, sinceMs: nowMs - forMs };
}

function trouble(message: string, forMs: number, attempts: number): Snapshot['troubles'][number] {
  return { what: 'files', kind: 'own', message, sinceMs: nowMs - forMs, attempts };
}

const snapshot: Snapshot = {
  nowMs,
  startedAtMs,
  ready: false,
  summary: 'subnet 172.20.9.0/24; 1 of 3 peers routed',
  counts: { peers: 3, routed: 1 },
  reasons: ['etcd is away'],
  degraded: [
    "172.20.11.0/24: no route: 192.0.2.9 is not on eth0's network 10.211.55.0/24. Move that host",
    'k4: not routed: its PublicIP 10.211.55.100 is our own address',
  ],
  notices: ['the network configuration was changed'],
  lease: {
    key: '/net/subnets/172.20.9.0-24',
    state: 'held',
    subnets: ['172.20.9.0/24'],
    addresses: ['10.211.55.100'],
    expiresAtMs: nowMs + 3_600_000,
  },
  watching: false,
  leases: 5,
  peers: [
    {
      ...peer('k3', '172.20.112.0/24', '10.211.55.103', 'conflict', 4_000),
      reason: { text: 'evil\u001b[2J\nx', fault: 'own' },
    },
    {
      ...peer('k2', '172.20.11.0/24', '192.0.2.9', 'parked', 120_000),
      reason: {
        text: "192.0.2.9 is not on eth0's network 10.211.55.0/24",
        fault: 'peer',
        remedy: 'Move that host',
      },
    },
    peer('k5', 'fc00:1::/64', 'fd00::2', 'pending', 0),
    peer('k1', '172.20.10.0/24', '10.211.55.101', 'installed', nowMs - startedAtMs),
  ],
  refused: [{ key: 'k4', reason: 'its PublicIP 10.211.55.100 is our own address' }],
  outside: [{ key: 'k6', dst: '192.168.5.0/24', network: '172.20.0.0/16' }],
  junk: { count: 2, first: [{ key: 'junk', reason: 'key junk does not name a subnet' }] },
  syncedAtMs: nowMs - 2_000,
  troubles: [
    { ...trouble('a long time ago', 3_690_000, 1), overMs: nowMs - 3_660_000 },
    { ...trouble('the disk is full', 90_000, 7), overMs: nowMs - 60_000 },
    trouble('etcd is away', 5_000, 2),
  ],
};

const text = `flanneld-ts development, up 1 d 2 h: not ready
own lease    172.20.9.0/24 at 10.211.55.100: held, 1 h left
cluster      5 leases, not watched now
routes       1 of 4 peers routed, checked 2 s ago

not ready:
  etcd is away (for 5 s, 2 times)

degraded:
  172.20.11.0/24: no route: 192.0.2.9 is not on eth0's network 10.211.55.0/24. Move that host
  k4: not routed: its PublicIP 10.211.55.100 is our own address

notices:
  the network configuration was changed

peers:
  SUBNET           GATEWAY        STATE     FOR      REASON
  172.20.10.0/24   10.211.55.101  routed    1 d 2 h
  172.20.11.0/24   192.0.2.9      no route  2 min
  172.20.112.0/24  10.211.55.103  no route  4 s      evil [2J x
  fc00:1::/64      fd00::2        not yet   0 s

over:
  1 min ago, after 30 s, 7 times: the disk is full
`;

/** A daemon's end; resolves once it answers, or has said that it cannot. */
async function serve(at = path, answer: () => Snapshot = () => snapshot) {
  const { entries, ...parts } = serving();
  const { notices } = parts;
  const controller = new AbortController();
  const run = runStatusServer({ path: at, ...parts, snapshot: answer }, controller.signal);
  const stop = async () => {
    controller.abort();
    await run;
  };
  cleanups.push(stop);
  // The mode is set before the socket can be seen to be there for long.
  const isServed = () => {
    // One that nobody listens at goes before ours is there.
    const status = existsSync(at) ? lstatSync(at, { throwIfNoEntry: false }) : undefined;
    const there = status?.isSocket() === true && (status.mode & 0o777) === 0o600;
    return there || entries.length > 0;
  };
  await until(isServed, 10_000, 'no socket');
  return { entries, notices, stop };
}

async function ask({ json = false } = {}) {
  const said = { out: '', err: '' };
  const out = (part: string) => {
    said.out += part;
  };
  const err = (line: string) => {
    said.err += line;
  };
  const parts = { socketPath: path, json, watch: false, clock: systemClock, onTerminal: false, out, err };
  const code = await runStatus(parts, new AbortController().signal);
  return { code, ...said };
}

describe('flanneld-ts status', () => {
  it.each<[number, string, Partial<Snapshot>]>([
    [0, 'ready', { ready: true, reasons: [], degraded: [] }],
    [3, 'ready, degraded', { ready: true, reasons: [] }],
    [4, 'not ready', { reasons: ['etcd is away'], degraded: [] }],
  ])('exits %i when it says %j', async (expected, state, over) => {
    await serve(path, () => ({ ...snapshot, ...over }));
    const { code, out } = await ask();
    expect([code, out.split('\n')[0]]).toEqual([expected, expect.stringMatching(new RegExp(`: ${state}$`))]);
  });

  it('shows what the daemon tells, in lines of its own making', async () => {
    await serve();
    expect(await ask()).toEqual({ code: 4, out: text, err: '' });
  });

  it('shows the same as JSON', async () => {
    await serve();
    const { code, out } = await ask({ json: true });
    expect([code, out.split('\n').length]).toEqual([4, 2]);
    const view: StatusView = JSON.parse(out);
    expect(view).toMatchObject({
      ready: false,
      now: '2026-11-24T14:05:00.000Z',
      lastSync: '2026-11-24T14:04:58.000Z',
      lease: { subnets: ['172.20.9.0/24'], secondsLeft: 3_600 },
      errors: [{}, { over: '2026-11-24T14:04:00.000Z' }, { over: null }],
    });
    expect(view.peers).toMatchObject([
      { state: 'installed', reason: null, fault: null, remedy: null },
      { state: 'parked', fault: 'peer', remedy: 'Move that host', since: '2026-11-24T14:03:00.000Z' },
      { state: 'conflict' },
      { state: 'pending' },
    ]);
    expect(view).toMatchObject({
      conflicts: [{ subnet: '172.20.112.0/24' }],
      outside: [{ key: 'k6', subnet: '192.168.5.0/24', network: '172.20.0.0/16' }],
      junk: { count: 2, first: [{ key: 'junk' }] },
    });
  });

  it('shows a reservation, an expired lease, and a boot that goes on', async () => {
    const { lease, syncedAtMs: _, ...rest } = snapshot;
    if (lease === undefined) throw new Error('no lease');
    const { expiresAtMs: __, ...reservation } = lease;
    let now: Snapshot = { ...snapshot, ready: true, lease: reservation };
    await serve(path, () => now);
    expect((await ask()).out).toMatch(/up 1 d 2 h: ready, degraded\nown lease .*: held, a reservation\n/);
    now = { ...snapshot, lease: { ...lease, expiresAtMs: nowMs - 61_000 } };
    expect((await ask()).out).toContain('held, expired 1 min 1 s ago\n');
    const { leases: ___, ...unlisted } = rest;
    now = { ...unlisted, peers: [], refused: [], troubles: [], notices: [] };
    expect((await ask()).out).toMatch(
      /own lease +none yet\ncluster +leases not known yet, .*\nroutes +peers not known yet, not checked yet\n/,
    );
    now = { ...snapshot, leases: 1, peers: [] };
    expect((await ask()).out).toMatch(/\nroutes +no other host has joined yet, checked /);
  });

  it('exits 1 with a line when there is no daemon, another program or a file', async () => {
    const nobody =
      `No daemon answers at ${path}. Is it running? systemctl status flanneld. ` +
      'If it was started with another --subnet-file or --status-socket, pass the same flag.';
    expect(await ask()).toEqual({ code: 1, out: '', err: nobody });
    expect(await ask({ json: true })).toEqual({
      code: 1,
      out: `${JSON.stringify({ error: nobody })}\n`,
      err: '',
    });
    const other = createServer((socket) => socket.resume().end('HTTP/1.1 200 OK\r\n\r\n["no"]'));
    mkdirSync(dirname(path), { recursive: true });
    await once(other.listen(path), 'listening');
    expect(await ask()).toEqual({ code: 1, out: '', err: `The program at ${path} is not flanneld-ts` });
    await close(other);
    writeFileSync(path, '');
    expect(await ask()).toEqual({ code: 1, out: '', err: `${path} is not a socket` });
  });

  it('asks again and again with --watch, also while no daemon answers', async () => {
    const { stop } = await serve();
    const shown: string[] = [];
    const controller = new AbortController();
    const show = async (line: string) => {
      shown.push(line);
      if (shown.length === 4) controller.abort(new Error('enough'));
    };
    const sleep = async (_ms: number, signal?: AbortSignal) => {
      signal?.throwIfAborted();
      if (shown.length === 2) await stop();
    };
    const parts = { socketPath: path, json: false, watch: true, onTerminal: true, out: show, err: show };
    const watching = runStatus({ ...parts, clock: { ...systemClock, sleep } }, controller.signal);
    await expect(watching).rejects.toThrow('enough');
    const wipe = '\u001b[H\u001b[2J\u001b[3J';
    const gone = expect.stringContaining('No daemon answers');
    expect(shown).toEqual([wipe + text, wipe + text, gone, gone]);
  });
});

describe('the status socket', () => {
  it('is open to its owner alone, and goes when the daemon stops', async () => {
    const { entries, stop } = await serve();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(join(dir, 'run/flannel')).mode & 0o777).toBe(0o755);
    await stop();
    expect([existsSync(path), entries]).toEqual([false, []]);
  });

  it('takes the place of one that nobody listens at', async () => {
    mkdirSync(dirname(path), { recursive: true });
    // Ended before it could clean up.
    const code = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', code]);
    expect(lstatSync(path).isSocket()).toBe(true);
    const { entries } = await serve();
    expect(entries).toEqual([]);
    expect((await ask()).code).toBe(4);
  });

  it('is left to another daemon that lives, and taken when that one is gone', async () => {
    const first = await serve();
    const { entries, notices } = await serve();
    await until(() => entries.length > 0, 10_000, 'the warning is missing');
    const message = expect.stringContaining('another program answers there');
    expect(entries).toMatchObject([{ level: 'warn', message }]);
    expect(notices.current).toEqual([entries[0]?.message]);
    expect((await ask()).code).toBe(4);
    await first.stop();
    await until(() => existsSync(path), 10_000, 'the socket is missing');
    expect((await ask()).code).toBe(4);
    expect(notices.current).toEqual([]);
  }, 30_000);

  it.each(['socket', 'folder'])('comes back when another program removes the %s', async (what) => {
    const { entries } = await serve();
    rmSync(what === 'socket' ? path : join(dir, 'run'), { recursive: true });
    await until(() => entries.length > 0 && existsSync(path), 10_000, 'the socket is missing');
    expect((await ask()).code).toBe(4);
    expect(entries.map(({ message }) => message)).toEqual([
      `another program removed the status socket ${path}; recreating it`,
    ]);
  });

  it.each([
    ['subnet.env', 'the path is a file; choose another --status-socket'],
    ['x'.repeat(108), 'longer than 107 bytes'],
    ['/proc/flannel/x', 'there is no such file or folder (ENOENT); choose another place'],
    ['/proc/version/x', 'a part of its path is not a folder (ENOTDIR); choose another place'],
  ])('says why it cannot be at %s, and leaves alone what is there', async (name, why) => {
    writeFileSync(join(dir, 'subnet.env'), 'mine');
    const at = resolve(dir, name);
    const { entries } = await serve(at);
    expect(entries[0]?.message).toContain(`cannot serve flanneld-ts status at ${at}: `);
    expect(entries[0]?.message).toContain(why);
    expect(readFileSync(join(dir, 'subnet.env'), 'utf8')).toBe('mine');
  });

  it('answers again after an answer that failed', async () => {
    let broken = true;
    const { entries } = await serve(path, () => {
      if (broken) throw new Error('broken');
      return snapshot;
    });
    expect(await ask()).toMatchObject({
      code: 1,
      err: expect.stringMatching(/^The daemon at .* returned no status: cannot answer: broken$/),
    });
    const message = 'cannot answer a request for /status: broken';
    expect(entries).toMatchObject([{ level: 'error', message }]);
    broken = false;
    expect((await ask()).code).toBe(4);
  });

  it.each([
    ['POST', '/status', 405],
    ['GET', '/', 404],
    ['GET', '/../status', 404],
    ['HEAD', '/status', 200],
  ])('answers %s %s with %i', async (method, target, expected) => {
    await serve();
    const asked = request({ socketPath: path, method, path: target, agent: false }).end();
    const [{ statusCode: status }] = await once(asked, 'response');
    expect(status).toBe(expected);
  });
});
