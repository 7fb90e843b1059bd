import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { until } from './commands.ts';
import type { Host } from './netns.ts';
import { RunningProcess, runToEnd } from './process.ts';

export interface GrpcProxyOptions {
  /** Folder for its log and data; made when missing, left in place (its owner removes it). */
  readonly dir: string;
  /** Where it runs. */
  readonly host: Host;
  /** The address and port it serves at. */
  readonly listen: string;
  /** The client URLs of the members behind it, comma separated. */
  readonly endpoints: string;
  /** More command line. */
  readonly args?: readonly string[];
}

/** `etcd grpc-proxy`, which merges the watches of its clients into few at etcd: a process that can be ended and started again. */
export class GrpcProxy {
  readonly url: string;
  readonly #options: GrpcProxyOptions;
  #process: RunningProcess | undefined;

  constructor(options: GrpcProxyOptions) {
    this.#options = options;
    this.url = `http://${options.listen}`;
  }

  /** The process id of the current or last process; throws before the first start. */
  get pid(): number {
    if (this.#process === undefined) throw new Error('the proxy was never started');
    return this.#process.pid;
  }

  /** Starts the process and waits until it serves reads from etcd. */
  async start(): Promise<void> {
    const { dir, host, listen, endpoints, args = [] } = this.#options;
    mkdirSync(dir, { recursive: true });
    const place = [`--endpoints=${endpoints}`, `--listen-addr=${listen}`, `--data-dir=${join(dir, 'proxy')}`];
    const child = new RunningProcess(host.command('etcd', 'grpc-proxy', 'start', ...place, ...args), {
      env: { PATH: process.env['PATH'] },
      logFile: join(dir, 'proxy.log'),
    });
    this.#process = child;
    const ask = ['etcdctl', `--endpoints=${listen}`, '--command-timeout=2s', 'get', 'no-such-key'];
    const env = { PATH: process.env['PATH'], ETCDCTL_API: '3' };
    const serves = async () => {
      if (!child.running) throw new Error(`the proxy ended while starting\n${child.tail()}`);
      return (await runToEnd(host.command(...ask), { env })).exit.code === 0;
    };
    await until(serves, 30_000, () => `the proxy does not serve\n${child.tail()}`);
  }

  /** SIGKILL; resolves when it has ended. */
  async kill(): Promise<void> {
    if (this.#process?.running === true) await this.#process.stop('SIGKILL');
  }
}
