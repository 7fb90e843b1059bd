import { spawnSync } from 'node:child_process';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { runHealth } from '../../src/cli/ask-daemon.ts';
import { cleanUp, listen, notReady, start } from './health-support.ts';

afterEach(cleanUp);

async function health(ip: string, port: number): Promise<{ code: number; output: string }> {
  let output = '';
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    output += String(text);
    return true;
  });
  try {
    return { code: await runHealth({ ip, port }), output };
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
        /^unhealthy: no answer from http:\/\/127.*: connection refused\. Is the daemon .*--healthz-port\?\n$/,
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

  it('does not wait for ever for an answer that never comes', async () => {
    const { port } = (await listen(createServer(() => {}))).address() as AddressInfo;
    const { code, output } = await health('127.0.0.1', port);
    expect([code, output]).toEqual([1, expect.stringContaining('did not answer within 3 s')]);
  }, 30_000);

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
