import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { limitedServer } from '../../src/daemon/report/http.ts';
import { cleanUp, cleanups, notReady, serving, start } from '../testbed/health-server.ts';

afterEach(cleanUp);

/** One who wants no good: writes what it likes and keeps what it is told. */
interface Client {
  readonly socket: Socket;
  readonly closed: Promise<void>;
  readonly answer: () => string;
}

async function client(port: number): Promise<Client> {
  const socket = connect(port, '127.0.0.1');
  let answer = '';
  socket.on('data', (part: Buffer) => {
    answer += part.toString('latin1');
  });
  socket.on('error', () => undefined);
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
  });
  cleanups.push(async () => {
    socket.destroy();
    await closed;
  });
  await Promise.race([once(socket, 'connect'), closed]);
  return { socket, closed, answer: () => answer };
}

/** What is answered to these bytes after which nothing more comes. */
async function say(port: number, bytes: string | Uint8Array): Promise<string> {
  const { socket, closed, answer } = await client(port);
  socket.end(bytes);
  await closed;
  return answer();
}

const statuses = (answer: string) => [...answer.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => status);
const probe = (port: number) =>
  say(port, 'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n').then((answer) =>
    statuses(answer),
  );

describe('the health server goes on', () => {
  it('after any bytes, and any method and path: nothing but GET and HEAD of what there is is a success', async () => {
    const { port } = await start();
    const word = fc.string({
      unit: fc.constantFrom(...'ACDEGHLNOPRSTUXget-_!*\u00ff'.split('')),
      maxLength: 9,
    });
    const method = fc.oneof(
      word,
      fc.constantFrom('GET', 'CONNECT', 'TRACE', 'M-SEARCH', 'PRI', 'QUERY', 'SOURCE', 'get'),
    );
    const path = fc.oneof(
      fc.constantFrom(
        '/readyz',
        '*',
        'http://x/healthz',
        '/../healthz',
        '/healthz#',
        '/%68ealthz',
        '/healthz\0',
      ),
      fc.webPath(),
      fc.string({ maxLength: 20 }),
    );
    const header = fc.constantFrom(
      'Expect: 100-continue',
      'Expect: magic',
      'Upgrade: websocket\r\nConnection: Upgrade',
      'Content-Length: 5',
      'Content-Length: -1',
      'Content-Length: 99999999999999999999',
      'Transfer-Encoding: chunked',
      'Transfer-Encoding: chunked\r\nContent-Length: 3',
      '__proto__: 1\r\nconstructor: 2',
      'Accept: application/json\r\nAccept: __proto__',
      'Host: y',
      ': none',
    );
    const request = fc
      .tuple(method, path, fc.array(header, { maxLength: 2 }))
      .map(([m, p, more]) => `${m} ${p} HTTP/1.1\r\n${['Host: x', ...more].join('\r\n')}\r\n\r\n`);
    const bytes = fc.oneof(request, fc.uint8Array({ maxLength: 300 }));
    await fc.assert(
      fc.asyncProperty(bytes, async (given) => {
        const answer = await say(port, given);
        for (const status of statuses(answer)) expect(status).toMatch(/^(100|200|4\d\d)$/);
        if (/^HTTP\/1\.1 200/m.test(answer)) expect(given).toMatch(/^(GET|HEAD) \S*(health|ready)z/);
      }),
      { numRuns: 150 },
    );
    expect(await probe(port)).toEqual(['200']);
  }, 30_000);

  it.each([
    ['a path', `GET /${'x'.repeat(100_000)} HTTP/1.1\r\n\r\n`],
    ['a method', `${'GET'.repeat(100_000)} / HTTP/1.1\r\n\r\n`],
    ['a header', `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(1_000_000)}\r\n\r\n`],
    ['a list of headers', `GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(100_000)}\r\n`],
    ['a chunk’s extension', `GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;${'x'.repeat(1_000_000)}`],
  ])('after %s of a megabyte, which it does not take', async (_what, text) => {
    const { port } = await start();
    const { socket, closed, answer } = await client(port);
    socket.write(text);
    await closed;
    expect(statuses(answer()).every((status) => status?.startsWith('4'))).toBe(true);
    expect(await probe(port)).toEqual(['200']);
  });

  it('with many requests in one go: each is answered, in their order', async () => {
    const { port } = await start();
    const paths = Array.from({ length: 500 }, (_, index) => (index % 3 === 0 ? '/healthz' : '/none'));
    const texts = paths.map((path) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    const answer = await say(port, texts.join(''));
    expect(statuses(answer)).toEqual(paths.map((path) => (path === '/healthz' ? '200' : '404')));
  });

  it('without reading a body that never ends', async () => {
    const { port } = await start();
    const { socket, closed, answer } = await client(port);
    socket.write('POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n');
    const part = Buffer.alloc(1 << 20);
    const pour = () => {
      while (socket.writable && socket.write(part));
    };
    socket.on('drain', pour);
    pour();
    const startedMs = performance.now();
    await closed;
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    expect(statuses(answer())).toEqual(['405']);
    expect(await probe(port)).toEqual(['200']);
  });

  it('with a hundred connections held, and turns the rest away at once', async () => {
    const { port } = await start();
    const held = await Promise.all(Array.from({ length: 100 }, () => client(port)));
    const late = await Promise.all(Array.from({ length: 50 }, () => client(port)));
    await Promise.all(late.map(({ closed }) => closed));
    expect(held.filter(({ socket }) => !socket.closed)).toHaveLength(100);
    for (const { socket } of held) socket.destroy();
    await Promise.all(held.map(({ closed }) => closed));
    await expect.poll(() => probe(port), { timeout: 5_000 }).toEqual(['200']);
  });
});

it('whoever is slow loses the connection: silent, in the middle of a request, or not listening to the answers', async () => {
  const { port } = await start(notReady, '127.0.0.1', { timeoutMs: 250 });
  const [silent, dripping, half, deaf] = await Promise.all([
    client(port),
    client(port),
    client(port),
    client(port),
  ]);
  dripping.socket.write('GET /healthz HTTP/1.1\r\n');
  const drip = setInterval(() => dripping.socket.write('X: y\r\n'), 10);
  half.socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf');
  // More answers than any buffer on the way holds.
  deaf.socket.pause();
  deaf.socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(300_000));
  try {
    await Promise.all([silent, dripping, half, deaf].map(({ closed }) => closed));
  } finally {
    clearInterval(drip);
  }
  expect(await probe(port)).toEqual(['200']);
});

it('a request may take 5 s when nothing else is said', () => {
  const { headersTimeout, requestTimeout, keepAliveTimeout } = limitedServer(serving().log, () => {});
  expect([headersTimeout, requestTimeout, keepAliveTimeout]).toEqual([5_000, 5_000, 5_000]);
});
