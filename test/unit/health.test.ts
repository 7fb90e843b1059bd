import { spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { runHealth } from '../../src/cli/ask-daemon.ts';
import { runHealthServer } from '../../src/daemon/report/health.ts';
import { until } from '../testbed/commands.ts';
import {
  cleanUp,
  cleanups,
  close,
  isListening,
  listen,
  notReady,
  serving,
  start,
} from '../testbed/health-server.ts';

afterEach(cleanUp);

async function ask(port: number, path: string, options: RequestInit = {}) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, options);
  const headers = Object.fromEntries(response.headers);
  return { status: response.status, headers, body: await response.text() };
}

describe('/healthz', () => {
  it('says that the daemon runs, also when it is not ready', async () => {
    const { port } = await start(notReady);
    expect(await ask(port, '/healthz')).toMatchObject({ status: 200, body: 'flanneld is running' });
    expect(await ask(port, '/healthz?verbose')).toMatchObject({ status: 200, body: 'flanneld is running' });
  });
});

describe('/readyz', () => {
  it('says why not, one reason a line', async () => {
    const { port } = await start(notReady);
    const body = 'flanneld is not ready\netcd is away\nno lease yet';
    expect(await ask(port, '/readyz')).toMatchObject({ status: 503, body });
  });

  it('tells the truth of the moment, not that of the start', async () => {
    let ready = true;
    const { port } = await start(() => ({ ready, reasons: [], degraded: [], notices: [] }));
    const said = [];
    for (const now of [true, false, true]) {
      ready = now;
      const { status, body } = await ask(port, '/readyz');
      said.push(`${status} ${body}`);
    }
    expect(said).toEqual(['200 flanneld is ready', '503 flanneld is not ready', '200 flanneld is ready']);
  });

  it('answers in JSON when asked', async () => {
    const { port } = await start(notReady);
    const accept = 'text/html, application/json;q=0.9';
    const answer = await ask(port, '/readyz', { headers: { accept } });
    expect(answer).toMatchObject({ status: 503, headers: { 'content-type': 'application/json' } });
    expect(JSON.parse(answer.body)).toEqual({
      status: 'flanneld is not ready',
      ready: false,
      reasons: ['etcd is away', 'no lease yet'],
      degraded: [],
      notices: [],
    });
  });

  it('stays ready with something to tell, a line each', async () => {
    const degraded = ['a peer is\nnot on link'];
    const notices = ['the configuration\nwas changed'];
    const { port } = await start(() => ({ ready: true, reasons: [], degraded, notices }));
    const body = 'flanneld is ready\na peer is not on link\nthe configuration was changed';
    expect(await ask(port, '/readyz')).toMatchObject({ status: 200, body });
  });
});

describe('/metrics', () => {
  const contentType = 'text/plain; version=0.0.4; charset=utf-8';

  it('is the text of the metrics, in its type', async () => {
    const { port } = await start(notReady, '127.0.0.1', {
      metrics: async () => ({ contentType, text: 'a 1\n' }),
    });
    const headers = { 'content-type': contentType, 'content-length': '4' };
    expect(await ask(port, '/metrics')).toMatchObject({ status: 200, headers, body: 'a 1\n' });
  });

  it('fails alone, with a line in the log', async () => {
    const { port, entries } = await start(notReady, '127.0.0.1', {
      metrics: () => Promise.reject(new Error('broken')),
    });
    expect(await ask(port, '/metrics')).toMatchObject({ status: 500, body: 'cannot answer: broken' });
    expect(entries.at(-1)).toMatchObject({
      level: 'error',
      message: 'cannot answer a request for /metrics: broken',
    });
    expect((await ask(port, '/healthz')).status).toBe(200);
  });
});

describe('the health server', () => {
  it('answers HEAD without a body', async () => {
    const { port } = await start();
    const answer = await ask(port, '/healthz', { method: 'HEAD' });
    expect(answer).toMatchObject({ status: 200, body: '', headers: { 'content-length': '19' } });
  });

  it.each(['POST', 'OPTIONS'])('refuses %s', async (method) => {
    const { port } = await start();
    expect(await ask(port, '/readyz', { method })).toMatchObject({
      status: 405,
      headers: { allow: 'GET, HEAD' },
    });
  });

  it.each(['/', '/healthz/', '/healthzz', '/metrics', '//healthz'])('answers %s with 404', async (path) => {
    const { port } = await start();
    expect((await ask(port, path)).status).toBe(404);
  });

  it('closes idle and half-open connections, and its port, when it is stopped', async () => {
    const { port, stop } = await start();
    const sockets = await Promise.all([open(port), open(port)]);
    sockets[1]?.write('GET /healthz HTTP/1.1\r\nHost: x\r\n');
    const closed = Promise.all(
      sockets.map((socket) => new Promise((resolve) => socket.once('close', resolve))),
    );
    await stop();
    await closed;
    await expect(ask(port, '/healthz')).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } });
  });

  it('ends at once when it is stopped before it began', async () => {
    const { entries, ...parts } = serving();
    const options = { ip: '127.0.0.1', port: 0, ...parts, readiness: notReady };
    await runHealthServer(options, AbortSignal.abort());
    expect(entries).toEqual([]);
  });
});

describe('a port that another program has', () => {
  it('is a notice, is tried again and again, and served when it is free', async () => {
    const blocker = await listen(createServer());
    const { port } = blocker.address() as AddressInfo;
    const clock = new VirtualClock();
    const { entries, ...parts } = serving(clock);
    const { notices } = parts;
    const controller = new AbortController();
    const options = { ip: '127.0.0.1', port, ...parts, readiness: notReady };
    const run = runHealthServer(options, controller.signal);
    cleanups.push(async () => {
      controller.abort();
      await run;
    });
    for (const seconds of [1, 2, 4, 8, 16, 30, 30]) {
      await until(() => clock.pending === 1, 10_000, 'a wait is missing');
      await clock.advance(seconds * 1000 - 1);
      expect(clock.pending).toBe(1);
      await clock.advance(1);
    }
    await until(() => clock.pending === 1, 10_000, 'a wait is missing');
    const message = expect.stringContaining('another program has this port; stop it');
    expect(entries).toMatchObject([{ level: 'warn', message }]);
    expect(notices.current).toEqual([
      expect.stringContaining(`cannot serve health checks at 127.0.0.1 port ${port}`),
    ]);
    // Said again now and then, as all that lasts.
    await clock.advance(600_000);
    await until(() => clock.pending === 1, 10_000, 'a wait is missing');
    expect(entries.slice(1)).toMatchObject([{ level: 'warn', message: entries[0]?.message }]);
    await close(blocker);
    await clock.advance(30_000);
    await until(() => isListening(entries), 10_000, 'the port is missing');
    await until(() => notices.current.length === 0, 10_000, 'the end of it is missing');
    expect(entries.at(-1)).toMatchObject({
      level: 'info',
      fields: { event: 'trouble-over', what: 'health-port' },
    });
    expect((await ask(port, '/healthz')).status).toBe(200);
  });

  it('is given up when the daemon stops, like an address that this host does not have', async () => {
    const { entries, ...parts } = serving();
    const controller = new AbortController();
    // An address of the documentation's range: no host has it.
    const options = { ip: '192.0.2.1', port: 0, ...parts, readiness: notReady };
    const run = runHealthServer(options, controller.signal);
    await until(() => entries.length > 0, 10_000, 'the warning is missing');
    expect(entries[0]?.message).toContain('this host does not have that address');
    controller.abort();
    await run;
  });
});

function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket));
    socket.once('error', reject);
  });
}

async function health(
  ip: string,
  port: number,
  timeoutMs?: number,
): Promise<{ code: number; output: string }> {
  let output = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    output += String(text);
    return true;
  });
  try {
    return { code: await runHealth({ ip, port }, timeoutMs), output };
  } finally {
    write.mockRestore();
  }
}

describe('flanneld-ts health', () => {
  const module = new URL('../../src/cli/ask-daemon.ts', import.meta.url).href;

  it.each(['127.0.0.1', '0.0.0.0'])(
    'asks the daemon that listens at %s, and waits 3 s for it',
    async (ip) => {
      const limits = vi.spyOn(AbortSignal, 'timeout');
      onTestFinished(() => limits.mockRestore());
      const { port } = await start(notReady, ip);
      expect(await health(ip, port)).toEqual({ code: 0, output: 'flanneld is running\n' });
      expect(limits.mock.calls).toEqual([[3_000]]);
    },
  );

  it('exits 1 with one line when nobody listens', async () => {
    const { port, stop } = await start();
    await stop();
    const said = /^unhealthy: no answer from http:\/\/127.*: connection refused\..*--healthz-port\?\n$/;
    expect(await health('127.0.0.1', port)).toEqual({ code: 1, output: expect.stringMatching(said) });
  });

  it('exits 1 with one line when something else listens', async () => {
    const server = createServer((_, response) => response.writeHead(404).end('no\nsuch\npage'));
    const { port } = (await listen(server)).address() as AddressInfo;
    const output = `unhealthy: http://127.0.0.1:${port}/healthz answered 404: no such page\n`;
    expect(await health('127.0.0.1', port)).toEqual({ code: 1, output });
  });

  it('reads only the beginning of an answer without an end', async () => {
    const server = createServer((_, response) => {
      const sending = setInterval(() => response.write('spam\n'.repeat(10)), 1);
      response.once('close', () => clearInterval(sending));
    });
    const { port } = (await listen(server)).address() as AddressInfo;
    const output = `${'spam '.repeat(40).trim()}\n`;
    expect(await health('127.0.0.1', port)).toEqual({ code: 0, output });
  });

  it('gives up when no answer comes in time', async () => {
    const { port } = (await listen(createServer(() => {}))).address() as AddressInfo;
    const output = expect.stringContaining('did not answer within 0.1 s');
    expect(await health('127.0.0.1', port, 100)).toEqual({ code: 1, output });
  });

  it('ends its process', async () => {
    const { port, stop } = await start();
    await stop();
    const script = `import { runHealth } from ${JSON.stringify(module)};
      process.exitCode = await runHealth({ ip: '::', port: ${port} });`;
    const { status, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      timeout: 20_000,
    });
    expect([status, stdout.toString()]).toEqual([1, expect.stringContaining(`http://[::1]:${port}/healthz`)]);
  });
});
