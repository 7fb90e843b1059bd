import { connect, createServer, type Socket } from 'node:net';
import process from 'node:process';
import type { ClusterHost } from '../testbed/cluster.ts';
import { RunningProcess } from '../testbed/process.ts';

/**
 * A way to etcd that is long: a TCP proxy on the host's loopback, which holds every byte back for `delayMs` in each
 * direction. Every step that waits for etcd then takes long enough to be interrupted in the middle.
 */
export async function startLongWay(
  host: ClusterHost,
  targetUrl: string,
  delayMs: number,
): Promise<{ readonly url: string; close(): Promise<void> }> {
  const { host: target } = new URL(targetUrl);
  const proxy = new RunningProcess(
    host.net.command(process.execPath, import.meta.filename, target, String(delayMs)),
  );
  const find = (lines: readonly string[]) => lines.find((line) => line.startsWith('http://'));
  const url = await proxy.waitFor(find, 10_000, 'the proxy');
  return { url, close: async () => void (await proxy.stop('SIGKILL')) };
}

/** Whether the frozen member of etcd on the host has been sent something: the second column is what waits to be read. */
export async function requestIsUnread(host: ClusterHost): Promise<boolean> {
  const sockets = await host.net.exec('ss', '-Htn', 'sport = :2379');
  return sockets.split('\n').some((line) => Number(line.trim().split(/\s+/)[1]) > 0);
}

function relay(from: Socket, to: Socket, delayMs: number): void {
  from.on('data', (bytes) => setTimeout(() => to.write(bytes), delayMs));
  from.on('close', () => setTimeout(() => to.destroy(), delayMs));
  from.on('error', () => undefined);
}

if (process.argv[1] === import.meta.filename) {
  const [target = '', delay = '0'] = process.argv.slice(2);
  const [host = '', port = ''] = target.split(':');
  const server = createServer((near) => {
    const far = connect(Number(port), host);
    relay(near, far, Number(delay));
    relay(far, near, Number(delay));
  });
  server.listen(0, '127.0.0.1', () => {
    const address = server.address();
    if (address !== null && typeof address === 'object') console.log(`http://127.0.0.1:${address.port}`);
  });
}
