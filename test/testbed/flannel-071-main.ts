import { request as requestHttp } from 'node:http';
import process from 'node:process';
import { Flannel071 } from '../../sim/flannel-071.ts';
import type { RouteTable071 } from '../../sim/flannel-071-routes.ts';
import {
  Crash071,
  type Flannel071Access,
  type Flannel071Answer,
  type Flannel071Request,
} from '../../sim/flannel-071-store.ts';
import { systemClock, systemRandom } from '../../src/daemon/host/clock.ts';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { NoAnswer } from '../../src/subnet/etcd-v2/member.ts';
import { run as runCommand } from './commands.ts';

/** A program that behaves as flannel 0.7.1 does, with its flags: the model of sim/ on this host's network and etcd's HTTP. */

/** As flannel gives a connection. An answer may take as long as it likes. */
const connectTimeoutMs = 1_000;

/** The flags that the model knows, with flannel's defaults. */
const defaults = {
  'etcd-endpoints': 'http://127.0.0.1:4001,http://127.0.0.1:2379',
  'etcd-prefix': '/coreos.com/network',
  iface: 'eth0',
  'public-ip': '',
  'subnet-file': '/run/flannel/subnet.env',
  'subnet-lease-renew-margin': '60',
};
type Flags = Readonly<Record<keyof typeof defaults, string>>;

/** Go takes one dash or two. */
function parseFlags(argv: readonly string[]): Flags {
  const flags = { ...defaults };
  for (const word of argv) {
    const [, name = '', value = ''] = /^--?([a-z-]+)=(.*)$/.exec(word) ?? [];
    if (!(name in flags)) throw new Error(`flag provided but not defined: ${word}`);
    flags[name as keyof typeof defaults] = value;
  }
  return flags;
}

/** The members of etcd: the one that answered last is asked first. */
class Endpoints implements Flannel071Access {
  readonly #endpoints: readonly string[];
  #pinned = 0;

  constructor(endpoints: readonly string[]) {
    this.#endpoints = endpoints
      .map((endpoint) => ({ endpoint, order: systemRandom.next() }))
      .toSorted((a, b) => a.order - b.order)
      .map(({ endpoint }) => endpoint);
  }

  timeOf(expiration: string): number {
    return Date.parse(expiration);
  }

  async ask(request: Flannel071Request, signal: AbortSignal): Promise<Flannel071Answer> {
    const reasons: string[] = [];
    for (let tried = 0; tried < this.#endpoints.length; tried++) {
      const place = (this.#pinned + tried) % this.#endpoints.length;
      const endpoint = this.#endpoints[place] ?? '';
      try {
        const answer = await exchange(endpoint, request, signal);
        if (answer.status >= 500) throw new Error(`HTTP status ${answer.status}`);
        this.#pinned = place;
        return answer;
      } catch (error) {
        signal.throwIfAborted();
        reasons.push(`${endpoint}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    const message = `client: etcd cluster is unavailable or misconfigured: ${reasons.join('; ')}`;
    throw new NoAnswer('UNAVAILABLE', message, { isSent: true });
  }
}

/** One request to one member. */
function exchange(
  endpoint: string,
  { method, key, query, form }: Flannel071Request,
  signal: AbortSignal,
): Promise<Flannel071Answer> {
  const url = new URL(`/v2/keys${key}`, endpoint);
  url.search = new URLSearchParams(query).toString();
  const headers = form && { 'content-type': 'application/x-www-form-urlencoded' };
  return new Promise((resolve, reject) => {
    const sending = requestHttp(url, { method, signal, agent: false, headers: headers ?? {} }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (body += chunk));
      response.once('error', reject);
      response.once('end', () => {
        const header = response.headers['x-etcd-index'];
        const index = typeof header === 'string' ? Number(header) : undefined;
        resolve({ status: response.statusCode ?? 0, index, body });
      });
    });
    sending.once('error', reject);
    sending.once('socket', (socket) => {
      const late = setTimeout(() => sending.destroy(new Error('dial tcp: i/o timeout')), connectTimeoutMs);
      for (const event of ['connect', 'close']) socket.once(event, () => clearTimeout(late));
    });
    sending.end(form && new URLSearchParams(form).toString());
  });
}

/** What `ip -j route` and `ip -j addr` tell, as far as it is read here. */
interface ListedRoute {
  readonly dst: string;
  readonly gateway?: string;
}
interface ListedLink {
  readonly mtu: number;
  readonly addr_info: readonly { readonly local: string }[];
}

async function ip(...words: readonly string[]): Promise<string> {
  return await runCommand('ip', [...words]);
}

function tableOver(link: string): RouteTable071 {
  return {
    async list() {
      const listed: readonly ListedRoute[] = JSON.parse((await ip('-4', '-j', 'route')) || '[]');
      return listed.flatMap(({ dst, gateway }) => (gateway === undefined ? [] : [{ dst, gateway }]));
    },
    add: async ({ dst, gateway }) => void (await ip('route', 'add', dst, 'via', gateway, 'dev', link)),
    delete: async ({ dst, gateway }) => void (await ip('route', 'del', dst, 'via', gateway, 'dev', link)),
  };
}

/** Runs until SIGTERM. */
async function main(flags: Flags): Promise<void> {
  const controller = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const)
    process.once(name, () => controller.abort(new Error(name)));
  const [link]: readonly ListedLink[] = JSON.parse(await ip('-4', '-j', 'addr', 'show', 'dev', flags.iface));
  const [address] = link?.addr_info ?? [];
  if (link === undefined || address === undefined) throw new Error(`${flags.iface} has no IPv4 address`);
  const parts = {
    etcd: new Endpoints(flags['etcd-endpoints'].split(',')),
    routes: tableOver(flags.iface),
    clock: systemClock,
    random: systemRandom,
    writeSubnetEnv: (text: string) => nodeFiles.writeAtomic(flags['subnet-file'], text, 0o644),
    log: (line: string) => void process.stderr.write(`${line}\n`),
  };
  const flannel = new Flannel071(parts, {
    prefix: flags['etcd-prefix'],
    publicIp: flags['public-ip'] || address.local,
    mtu: link.mtu,
    renewMarginMinutes: Number(flags['subnet-lease-renew-margin']),
  });
  await flannel.run(controller.signal);
}

try {
  await main(parseFlags(process.argv.slice(2)));
} catch (error) {
  const text = error instanceof Error ? error.message : String(error);
  // As Go's runtime ends a process that panics.
  process.stderr.write(error instanceof Crash071 ? `panic: runtime error: ${text}\n` : `${text}\n`);
  process.exitCode = error instanceof Crash071 ? 2 : 1;
}
