import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import { PROGRAM, plainEnvironment } from '../testbed/daemon.ts';
import { onHost, runFolder } from '../testbed/host.ts';
import { until } from '../testbed/netns.ts';
import { NotifySocket } from '../testbed/notify-socket.ts';
import { RunningProcess } from '../testbed/process.ts';

/** A program that does flanneld's work, with flanneld's flags. */
export interface Flannel {
  readonly name: string;
  readonly command: readonly string[];
}

export const OURS: Flannel = { name: 'flanneld-ts', command: [PROGRAM] };

/** The program to stand beside ours: FLANNELD names it, and without that it is ours once more. */
export const THEIRS: Flannel = otherFlannel(process.env['FLANNELD']);

const READY_DEADLINE_MS = 30_000;

/** What runs on one host: the one program, or the other. */
export class FlannelHost {
  readonly host: ClusterHost;
  readonly #endpoints: string;
  readonly #flags: readonly string[];
  #running: { readonly flannel: Flannel; readonly process: RunningProcess } | undefined;

  constructor(host: ClusterHost, endpoints: string, flags: readonly string[] = []) {
    this.host = host;
    this.#endpoints = endpoints;
    this.#flags = flags;
  }

  /** What runs now, if anything does. */
  get flannel(): Flannel | undefined {
    return this.#running?.flannel;
  }

  /** FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET: the first address of the subnet, with the length. */
  gateway(family: 4 | 6): string {
    const file = readFileSync(join(runFolder(this.host), 'flannel/subnet.env'), 'utf8');
    const name = family === 4 ? 'FLANNEL_SUBNET' : 'FLANNEL_IPV6_SUBNET';
    return new RegExp(`^${name}=(.*)$`, 'm').exec(file)?.[1] ?? '';
  }

  subnet(family: 4 | 6): string {
    return this.gateway(family).replace(/^(.*)1\//, family === 4 ? '$10/' : '$1/');
  }

  /** Starts a program and waits until it says READY=1, which is all that two programs say alike. */
  async start(flannel: Flannel): Promise<void> {
    const { host } = this;
    const place = { dir: host.dir, namespace: host.net.namespace, hostname: host.name };
    const socket = new NotifySocket(join(runFolder(host), 'notify.sock'));
    const flags = [
      `-etcd-endpoints=${this.#endpoints}`,
      `-etcd-prefix=${PREFIX}`,
      '-iface=eth0',
      ...this.#flags,
    ];
    const child = new RunningProcess(onHost(place, [...flannel.command, ...flags]), {
      env: { ...plainEnvironment(), NOTIFY_SOCKET: '/run/notify.sock' },
    });
    this.#running = { flannel, process: child };
    const ready = () => {
      if (!child.running) throw new Error(`${host.name}: ${flannel.name} has ended\n${child.tail()}`);
      return socket.messages.some((message) => message.split('\n').includes('READY=1'));
    };
    try {
      await until(
        ready,
        READY_DEADLINE_MS,
        () => `${host.name}: ${flannel.name} is not ready\n${child.tail()}`,
      );
    } finally {
      socket.close();
    }
  }

  /** Asks what runs to stop, and waits for its end. */
  async stop(): Promise<void> {
    await this.#running?.process.stop();
    this.#running = undefined;
  }

  /** Ends what runs, if anything, at once. */
  async close(): Promise<void> {
    if (this.#running?.process.running === true) await this.#running.process.stop('SIGKILL');
  }

  /** The end of its output, for messages. */
  tail(): string {
    return this.#running?.process.tail() ?? 'nothing runs';
  }

  /** The firewall rules of flanneld's chains and the jumps to them, in the words of iptables-save, sorted. */
  async rules(family: 4 | 6): Promise<readonly string[]> {
    const saved = await this.host.net.exec(family === 4 ? 'iptables-save' : 'ip6tables-save');
    const lines = saved.split('\n').map((line) => line.trimEnd());
    return lines.filter((line) => /^-A .*FLANNEL-/.test(line)).toSorted();
  }

  /** All routes to other subnets, `dst via gateway dev`, whoever made them, in order. */
  async routes(family: 4 | 6): Promise<readonly string[]> {
    const routes = await this.host.net.routes(family);
    return routes
      .filter(({ gateway }) => gateway !== undefined)
      .map(({ dst, gateway, dev }) => `${dst} via ${gateway} dev ${dev}`)
      .toSorted();
  }
}

function otherFlannel(path: string | undefined): Flannel {
  if (path === undefined || path === '') return { ...OURS, name: `${OURS.name} (FLANNELD is not set)` };
  if (!existsSync(path)) throw new Error(`FLANNELD=${path}: there is no such file`);
  return { name: path, command: [path] };
}
