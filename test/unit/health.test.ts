import { spawnSync } from 'node:child_process';
import { createServer, request } from 'node:http';
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

interface Answer {
  readonly status: number | undefined;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

function ask(
  port: number,
  path: string,
  options: { method?: string; accept?: string } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = options.accept === undefined ? {} : { accept: options.accept };
    const asked = request(
      { host: '127.0.0.1', port, path, method: options.method ?? 'GET', headers, agent: false },
      (response) => {
        let body = '';
        response.on('data', (part: Buffer) => {
          body += part.toString();
        });
        response.once('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
      },
    );
    asked.once('error', reject).end();
  });
}

describe('/healthz', () => {
  it('is alive however ready the daemon is', async () => {
    const { port } = await start(notReady);
    expect(await ask(port, '/healthz')).toMatchObject({ status: 200, body: 'flanneld is running' });
    expect(await ask(port, '/healthz?verbose')).toMatchObject({ status: 200, body: 'flanneld is running' });
  });
});

describe('/readyz', () => {
  it('says ready', async () => {
    const { port } = await start();
    expect(await ask(port, '/readyz')).toMatchObject({ status: 200, body: 'flanneld is ready' });
  });

  it('says why not, one reason a line', async () => {
    const { port } = await start(notReady);
    const body = 'flanneld is not ready\netcd is away\nno lease yet';
    expect(await ask(port, '/readyz')).toMatchObject({ status: 503, body });
  });

  it('tells the truth of the moment, not that of the start', async () => {
    let ready = true;
    const { port } = await start(() => ({ ready, reasons: [], degraded: [], notices: [] }));
    const statuses = [];
    for (const now of [true, false, true]) {
      ready = now;
      statuses.push((await ask(port, '/readyz')).status);
    }
    expect(statuses).toEqual([200, 503, 200]);
  });

  it('answers in JSON when asked', async () => {
    const { port } = await start(notReady);
    const answer = await ask(port, '/readyz', { accept: 'text/html, application/json;q=0.9' });
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
    const { body: json } = await ask(port, '/readyz', { accept: 'application/json' });
    expect(JSON.parse(json)).toMatchObject({
      ready: true,
      degraded: ['a peer is not on link'],
      notices: ['the configuration was changed'],
    });
  });

  it('outlives a readiness that throws', async () => {
    const { port, entries } = await start(() => {
      throw new Error('broken');
    });
    const body = expect.stringContaining('broken');
    expect(await ask(port, '/readyz')).toMatchObject({ status: 500, body });
    expect(entries.at(-1)).toMatchObject({ level: 'error', message: expect.stringContaining('/readyz') });
    expect(await ask(port, '/healthz')).toMatchObject({ status: 200 });
  });
});

describe('/metrics', () => {
  const contentType = 'text/plain; version=0.0.4; charset=utf-8';

  it('is what it is given, in the type that goes with it', async () => {
    const { port } = await start(notReady, '127.0.0.1', {
      metrics: async () => ({ contentType, text: 'a 1\n' }),
    });
    const headers = { 'content-type': contentType, 'content-length': '4' };
    expect(await ask(port, '/metrics')).toMatchObject({ status: 200, headers, body: 'a 1\n' });
    expect(await ask(port, '/metrics', { method: 'HEAD' })).toMatchObject({ status: 200, headers, body: '' });
    expect((await ask(port, '/metrics', { method: 'POST' })).status).toBe(405);
  });

  it('fails alone when it cannot be told', async () => {
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

  it.each(['POST', 'PUT', 'DELETE', 'OPTIONS'])('refuses %s', async (method) => {
    const { port } = await start();
    expect(await ask(port, '/readyz', { method })).toMatchObject({
      status: 405,
      headers: { allow: 'GET, HEAD' },
    });
  });

  it.each(['/', '/healthz/', '/healthzz', '/metrics', '//healthz'])('knows nothing at %s', async (path) => {
    const { port } = await start();
    expect((await ask(port, path)).status).toBe(404);
  });

  it('refuses endless headers and garbage, and goes on', async () => {
    const { port } = await start();
    expect(await raw(port, `GET /healthz HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 431/,
    );
    expect(await raw(port, '\u0016\u0003\u0001 not http\r\n\r\n')).toMatch(/^HTTP\/1.1 400/);
    expect((await ask(port, '/healthz')).status).toBe(200);
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
    await expect(ask(port, '/healthz')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  it('ends at once when it is stopped before it began', async () => {
    const { entries, ...parts } = serving();
    const options = { ip: '127.0.0.1', port: 0, ...parts, readiness: notReady };
    await runHealthServer(options, AbortSignal.abort());
    expect(entries).toEqual([]);
  });
});

describe('a port that cannot be had', () => {
  it('is a notice, tried again for ever, and served when it is free', async () => {
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
    expect(entries).toEqual([
      expect.objectContaining({
        level: 'warn',
        message: expect.stringContaining('another program has this port; stop it'),
      }),
    ]);
    expect(notices.current).toEqual([
      expect.stringContaining(`cannot serve health checks at 127.0.0.1 port ${port}`),
    ]);
    // Said again now and then, as all that lasts.
    await clock.advance(600_000);
    await until(() => clock.pending === 1, 10_000, 'a wait is missing');
    expect(entries.slice(1)).toEqual([
      expect.objectContaining({ level: 'warn', message: entries[0]?.message }),
    ]);
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

  it('is given up when the daemon stops', async () => {
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

async function raw(port: number, text: string): Promise<string> {
  const socket = await open(port);
  let answer = '';
  socket.on('data', (part) => {
    answer += part.toString();
  });
  socket.on('error', () => {});
  socket.write(text);
  await new Promise((resolve) => socket.once('close', resolve));
  return answer;
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

  it.each(['127.0.0.1', '0.0.0.0'])('asks the daemon that listens at %s', async (ip) => {
    const { port } = await start(notReady, ip);
    expect(await health(ip, port)).toEqual({ code: 0, output: 'flanneld is running\n' });
  });

  it('exits 1 with one line when nobody listens', async () => {
    const { port, stop } = await start();
    await stop();
    const { code, output } = await health('127.0.0.1', port);
    expect([code, output]).toEqual([
      1,
      expect.stringMatching(
        /^unhealthy: no answer from http:\/\/127.*: connection refused\..*--healthz-port\?\n$/,
      ),
    ]);
  });

  it('exits 1 with one line when something else listens', async () => {
    const server = createServer((_, response) => response.writeHead(404).end('no\nsuch\npage'));
    const { port } = (await listen(server)).address() as AddressInfo;
    const { code, output } = await health('127.0.0.1', port);
    expect([code, output]).toEqual([
      1,
      `unhealthy: http://127.0.0.1:${port}/healthz answered 404: no such page\n`,
    ]);
  });

  it('has read enough of an answer that has no end', async () => {
    const server = createServer((_, response) => {
      const sending = setInterval(() => response.write('spam\n'.repeat(10)), 1);
      response.once('close', () => clearInterval(sending));
    });
    const { port } = (await listen(server)).address() as AddressInfo;
    const { code, output } = await health('127.0.0.1', port);
    expect([code, output]).toEqual([0, `${'spam '.repeat(40).trim()}\n`]);
  });

  it('gives up when no answer comes in time', async () => {
    const { port } = (await listen(createServer(() => {}))).address() as AddressInfo;
    const { code, output } = await health('127.0.0.1', port, 100);
    expect([code, output]).toEqual([1, expect.stringContaining('did not answer within 0.1 s')]);
  });

  it('waits 3 s when nothing else is said', async () => {
    const limits = vi.spyOn(AbortSignal, 'timeout');
    onTestFinished(() => limits.mockRestore());
    const { port } = await start();
    await health('127.0.0.1', port);
    expect(limits.mock.calls).toEqual([[3_000]]);
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
