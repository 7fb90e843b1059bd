import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import { DaemonProcess, OUR_PROTOCOL } from '../testbed/daemon.ts';
import { type EtcdCluster, type EtcdTls, startEtcd } from '../testbed/etcd.ts';
import type { KernelMonitor } from '../testbed/kernel-monitor.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { type Host, type ListedRoute, makeNetwork, until, untilLines } from '../testbed/netns.ts';
import { runToEnd } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';

/** Where etcd listens beside 127.0.0.1, which is left to the daemon: so one of the two ways can be cut. */
const ETCD_ADDRESS = '127.0.0.2';
/** The etcd endpoint of the daemon. */
export const ENDPOINT = 'http://127.0.0.1:2379';
const HEALTHZ = { ip: '127.0.0.1', port: 8471 } as const;
/** The flags with which {@link Bench.ask} finds the daemon. */
export const HEALTH = [`--healthz-ip=${HEALTHZ.ip}`, `--healthz-port=${HEALTHZ.port}`];

export interface BenchOptions {
  /** Addresses of eth0; default 10.211.55.100/24. */
  readonly addresses?: readonly string[];
  /** The network configuration; null: none is stored. Default: the scenario's. */
  readonly config?: object | null;
  readonly flags?: readonly string[];
  readonly etcdArgs?: readonly string[];
  /** Default: etcd is asked without TLS. */
  readonly tls?: EtcdTls;
  /** The daemon is started among peers with these (`subnet via gateway`), and has them. Default: it is not started yet. */
  readonly routes?: readonly string[];
}

/**
 * One host with an etcd of its own on loopback, so that nothing done to eth0 touches etcd, and a daemon. The peers are leases alone: a route needs its gateway on link, not alive.
 */
export class Bench {
  readonly dir = tempDir('bench');
  readonly #options: BenchOptions;
  #parts: { readonly host: Host; readonly etcd: EtcdCluster; readonly daemon: DaemonProcess } | undefined;
  readonly #closers: (() => Promise<void>)[] = [];

  constructor(options: BenchOptions = {}) {
    this.#options = options;
  }

  /** Makes the host and starts its etcd; with `routes` the daemon as well. */
  async start(): Promise<void> {
    const { addresses = ['10.211.55.100/24'], config = CONFIG, flags = ['--iface=eth0'] } = this.#options;
    const { etcdArgs = [], tls, routes } = this.#options;
    const network = await makeNetwork([{ name: 'host', addresses }]);
    this.onClose(() => network.close());
    const [host] = network.hosts;
    if (host === undefined) throw new Error('no host');
    // Link-local addresses, and with them routes, would come seconds later into what is compared.
    await host.exec('sh', '-c', 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6');
    const members = [{ netns: host.namespace, ip: ETCD_ADDRESS }];
    const etcd = await startEtcd({
      dir: join(this.dir, 'etcd'),
      members,
      args: etcdArgs,
      ...(tls && { tls }),
    });
    this.onClose(() => etcd.close());
    const endpoints = tls === undefined ? ENDPOINT : ENDPOINT.replace('http:', 'https:');
    this.#parts = { host, etcd, daemon: this.#makeDaemon(host, 'host', { endpoints, flags }) };
    if (config !== null) await etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(config));
    if (routes === undefined) return;
    await this.putRoutes(routes);
    await this.daemon.start();
    await this.haveRoutes(routes);
  }

  get host(): Host {
    return this.#started.host;
  }

  get etcd(): EtcdCluster {
    return this.#started.etcd;
  }

  get daemon(): DaemonProcess {
    return this.#started.daemon;
  }

  get #started() {
    if (this.#parts === undefined) throw new Error('the bench is not started');
    return this.#parts;
  }

  /** Runs `close` at the end, before what it was made on goes; the last one first. */
  onClose(close: () => Promise<void>): void {
    this.#closers.push(close);
  }

  /** Puts a lease for each `subnet via gateway`: the routes that follow from them read the same. */
  async putRoutes(routes: readonly string[]): Promise<void> {
    for (const route of routes) {
      const [subnet = '', , publicIP = ''] = route.split(' ');
      await this.putLease(subnet, publicIP);
    }
  }

  /** Stores a peer's lease. Subnets below SubnetMin (172.20.1.0 to 172.20.9.0) are never taken by the daemon itself. */
  async putLease(subnet: string, publicIP: string): Promise<void> {
    await this.etcd.ctl('put', leaseKey(subnet), leaseValue(publicIP));
  }

  /** Has the daemon take this subnet, by a reservation: one taken by chance could be one that the test has something else in. */
  async reserveSubnet(subnet = '172.20.30.0/24'): Promise<void> {
    await this.putLease(subnet, this.host.address);
  }

  async removeLease(subnet: string): Promise<void> {
    await this.etcd.ctl('del', leaseKey(subnet));
  }

  /** Another daemon on the same host, with its own /run and, as a rule, its own prefix. */
  makeDaemon(name: string, options: Partial<DaemonProcess['options']> = {}): DaemonProcess {
    return this.#makeDaemon(this.host, name, options);
  }

  #makeDaemon(host: Host, name: string, options: Partial<DaemonProcess['options']>): DaemonProcess {
    const place = { namespace: host.namespace, dir: join(this.dir, name) };
    const told = { endpoints: ENDPOINT, prefix: PREFIX, flags: ['--iface=eth0'] };
    const daemon = new DaemonProcess({ ...place, ...told, ...options });
    this.onClose(() => daemon.close());
    return daemon;
  }

  /** What the kernel of the host tells from now on. */
  async monitor(): Promise<KernelMonitor> {
    const monitor = await this.host.monitor();
    this.onClose(() => monitor.stop());
    return monitor;
  }

  /** The daemon's routes: `dst via gateway`, sorted. */
  async ourRoutes(): Promise<readonly string[]> {
    const routes = await this.host.routes();
    return routes
      .filter(({ protocol }) => protocol === OUR_PROTOCOL)
      .map(via)
      .toSorted();
  }

  /** Waits until the daemon's routes are exactly these (`dst via gateway`). */
  async haveRoutes(expected: readonly string[], timeoutMs = 20_000): Promise<void> {
    await untilLines(
      () => this.ourRoutes(),
      expected.toSorted(),
      timeoutMs,
      () => this.daemon.process.tail(),
    );
  }

  /** Every route of every table, as text: to be compared. */
  async allRoutes(): Promise<readonly string[]> {
    const text = await this.host.ip('-N -d route show table all');
    return text
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '')
      .toSorted();
  }

  /** GET from inside the host; status 0 when nobody answers. */
  async get(url: string): Promise<HttpAnswer> {
    return await httpGet(this.host.namespace, url);
  }

  /** What a daemon with the flags {@link HEALTH} answers; waits until it listens, which it does a second after its start. */
  async ask(page: 'healthz' | 'readyz' | 'metrics'): Promise<HttpAnswer> {
    let answer: HttpAnswer = { status: 0, body: '' };
    const answers = async () => {
      answer = await this.get(`http://${HEALTHZ.ip}:${HEALTHZ.port}/${page}`);
      return answer.status > 0;
    };
    await until(answers, 10_000, () => `nobody answers\n${this.daemon.process.tail()}`);
    return answer;
  }

  /** Waits until `/readyz` answers with this status, and a text that `text` is in or fits; resolves to that text. */
  async untilReadyz(status: 200 | 503, text: string | RegExp = '', timeoutMs = 30_000): Promise<string> {
    const more = () => this.daemon.process.tail();
    return await untilReadyz(this.host.namespace, HEALTHZ.port, { status, text, timeoutMs, more });
  }

  /** How many calls etcd has been asked so far, by method. */
  async etcdCalls(): Promise<ReadonlyMap<string, number>> {
    const { body } = await this.get(`http://${ETCD_ADDRESS}:2379/metrics`);
    const rows = body.matchAll(/^grpc_server_started_total\{grpc_method="(\w+)".*\} (\d+)$/gm);
    const calls = [...rows].map(([, method = '', count]) => [method, Number(count)] as const);
    return new Map(calls.filter(([, count]) => count > 0));
  }

  /** etcd's revision: it moves with every write. */
  async revision(): Promise<number> {
    const answer: { header: { revision: number } } = JSON.parse(
      await this.etcd.ctl('get', 'no-such-key', '-w', 'json'),
    );
    return answer.header.revision;
  }

  async close(): Promise<void> {
    for (const close of this.#closers.toReversed()) await close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

/** GET from inside a network namespace; status 0 when nobody answers. */
export async function httpGet(namespace: string, url: string): Promise<HttpAnswer> {
  const code = `fetch(${JSON.stringify(url)}).then(async (r) => console.log(r.status + '\\n' + await r.text()), () => console.log('0'))`;
  const argv = [`--net=/run/netns/${namespace}`, '--', process.execPath, '-e', code];
  const { stdout } = await runToEnd(['nsenter', ...argv]);
  const [status = '0', ...body] = stdout.split('\n');
  return { status: Number(status), body: body.join('\n') };
}

export interface WantedReadiness {
  readonly status: 200 | 503;
  /** What the answer has to hold or to fit. */
  readonly text?: string | RegExp;
  readonly timeoutMs: number;
  /** What to say beside the last answer when it never comes. */
  readonly more: () => string;
}

/** Waits until `/readyz` on this port of a namespace answers so; resolves to the text. */
export async function untilReadyz(namespace: string, port: number, wanted: WantedReadiness): Promise<string> {
  const { status, text = '', timeoutMs, more } = wanted;
  let last: HttpAnswer = { status: 0, body: '' };
  const fits = async () => {
    last = await httpGet(namespace, `http://127.0.0.1:${port}/readyz`);
    const hasText = typeof text === 'string' ? last.body.includes(text) : text.test(last.body);
    return last.status === status && hasText;
  };
  await until(fits, timeoutMs, () => `wanted ${status} ${text}, got ${last.status} ${last.body}\n${more()}`);
  return last.body;
}

/** A bench that is there while the tests of a file run. */
export function useBench(options: BenchOptions = {}): Bench {
  const bench = new Bench(options);
  beforeAll(() => bench.start());
  afterAll(() => bench.close());
  return bench;
}

/** A bench that is started; whoever asks for it closes it. On failure nothing is left. */
export async function startBench(options: BenchOptions = {}): Promise<Bench> {
  const bench = new Bench(options);
  try {
    await bench.start();
  } catch (error) {
    await bench.close();
    throw error;
  }
  return bench;
}

/** `dst via gateway`, or `dst dev link` of a route without a gateway. */
function via(route: ListedRoute): string {
  return `${route.dst} ${route.gateway === undefined ? `dev ${route.dev}` : `via ${route.gateway}`}`;
}
