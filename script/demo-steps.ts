/** The steps of the demo, numbered as in README.md, each with what the real programs say. */
import { type Cluster, type ClusterHost, CONFIG, type Container, PREFIX } from '../test/testbed/cluster.ts';
import { until } from '../test/testbed/netns.ts';

/** The demo did not show what it is there to show; the message says what was seen instead. */
export class DemoFailure extends Error {}

/** Prints steps with their numbers, and ends the demo when somebody has stopped it. */
export class Steps {
  readonly #stopped: () => boolean;
  #count = 0;

  constructor(stopped: () => boolean) {
    this.#stopped = stopped;
  }

  /** Runs the next step and prints what it shows. Throws what it throws, and a DemoFailure when the demo is stopped. */
  async show(title: string, run: () => Promise<readonly string[]>): Promise<void> {
    this.#throwIfStopped();
    this.#count += 1;
    console.log(`\n${String(this.#count).padStart(2)}. ${title}`);
    const shown = await run();
    this.#throwIfStopped();
    for (const line of shown) console.log(line === '' ? '' : `    ${line}`);
  }

  #throwIfStopped(): void {
    if (this.#stopped()) throw new DemoFailure('stopped');
  }
}

type Step = readonly [title: string, run: (cluster: Cluster) => Promise<readonly string[]>];

/** The title of the step that makes the hosts. */
export const HOSTS_TITLE = 'hosts that forward packets (net.ipv4.ip_forward=1)';

/** Routed twice, once by each host, and not through a tunnel. */
const TTL_AFTER_TWO_HOPS = 62;

/** Runs and prints all steps. Throws what a step throws, a DemoFailure when a ping fails, or when `stopped` says so. */
export async function runSteps(cluster: Cluster, stopped: () => boolean): Promise<void> {
  const started = performance.now();
  const containers: Container[] = [];
  const all: readonly Step[] = [
    [HOSTS_TITLE, showHosts],
    ['an etcd cluster, a member on each host (the first three of more)', (made) => startEtcd(made)],
    ['what the daemon is told, as by /etc/sysconfig/flanneld', showSysconfig],
    [`the network configuration, stored once under ${PREFIX}/config`, storeConfig],
    ['flanneld-ts starts on every host, all at once', startDaemons],
    ['a subnet for each host, in /run/flannel/subnet.env', showSubnets],
    ["Docker's options from it, by mk-docker-opts.sh, in /run/docker_opts.env", showDockerOptions],
    ['Docker starts with them; docker0 has the subnet', startDocker],
    ['one route per peer (route -n)', showRoutes],
    ['a busybox container on each host', async () => await startContainers(cluster, containers)],
    ['every container pings every other one', () => pingAll(containers)],
  ];
  const steps = new Steps(stopped);
  for (const [title, run] of all) await steps.show(title, () => run(cluster));
  const pings = containers.length * (containers.length - 1);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(
    `\nAll ${pings} pings were answered with ttl=${TTL_AFTER_TWO_HOPS}, ${seconds} s after the first host.`,
  );
}

/** What the user of --keep can do next. */
export function hint(cluster: Cluster, id: string): string {
  const hosts = cluster.hosts.map((host) => ({ host, docker: cluster.docker(host) }));
  const width = Math.max(...cluster.hosts.map(({ name }) => name.length));
  const per = (line: (entry: (typeof hosts)[number]) => string) =>
    hosts.map((entry) => `  ${entry.host.name.padEnd(width)}  ${line(entry)}`).join('\n');
  return `
The hosts stay up. A shell on one of them, where route -n, docker ps, cat /run/flannel/subnet.env and so on work:
${per(({ docker }) => `sudo nsenter --target ${docker.pid} --mount --uts --net --pid bash`)}
Docker of one of them, from outside:
${per(({ docker }) => `sudo docker --host ${docker.endpoint} ps`)}
What flanneld-ts logs, one JSON object per line:
${per(({ host }) => `sudo tail -f ${host.daemon.logFile}`)}
Take it all down:
  sudo script/demo --down ${id}`;
}

/** The hosts' addresses. */
export async function showHosts(cluster: Cluster): Promise<readonly string[]> {
  return await perHost(cluster, async (host) => {
    return [
      `${host.net.addresses.join(' ')}  ${(await host.net.exec('sysctl', 'net.ipv4.ip_forward')).trim()}`,
    ];
  });
}

/** Starts a member of etcd on each host. */
export async function startEtcd(cluster: Cluster, ...args: readonly string[]): Promise<readonly string[]> {
  const etcd = await cluster.startEtcd(args);
  const health = await etcd.ctl('endpoint', 'health', '--cluster', '--write-out=table');
  return lines(await etcd.ctl('member', 'list', '--write-out=table'), health);
}

async function showSysconfig(cluster: Cluster): Promise<readonly string[]> {
  return await perHost(cluster, async ({ daemon }) => {
    const { env = {}, flags = [] } = daemon.options;
    return [...Object.entries(env), ['FLANNEL_OPTIONS', flags.join(' ')]].map(
      ([name, value]) => `${name}="${value}"`,
    );
  });
}

async function storeConfig(cluster: Cluster): Promise<readonly string[]> {
  await cluster.storeConfig(CONFIG);
  return lines(await cluster.etcd.ctl('get', `${PREFIX}/config`));
}

async function startDaemons(cluster: Cluster): Promise<readonly string[]> {
  await cluster.startDaemons();
  return await perHost(cluster, async ({ daemon }) => {
    const ready = await daemon.ready();
    return [`pid ${daemon.pid}, ${ready.msg ?? ''}`];
  });
}

async function showSubnets(cluster: Cluster): Promise<readonly string[]> {
  return await perHost(cluster, async (host) =>
    lines(await cluster.exec(host, 'cat', '/run/flannel/subnet.env')),
  );
}

async function showDockerOptions(cluster: Cluster): Promise<readonly string[]> {
  await cluster.writeDockerOptions();
  return await perHost(cluster, async (host) =>
    lines(await cluster.exec(host, 'cat', '/run/docker_opts.env')),
  );
}

async function startDocker(cluster: Cluster): Promise<readonly string[]> {
  await cluster.startDocker();
  return await perHost(cluster, async (host) => {
    return lines(await host.net.exec('ip', 'addr', 'show', 'docker0')).filter((line) =>
      line.includes('inet '),
    );
  });
}

async function showRoutes(cluster: Cluster): Promise<readonly string[]> {
  return await perHost(cluster, async (host) => {
    await until(
      async () =>
        (await host.net.routes()).filter((route) => route.gateway !== undefined).length ===
        cluster.hosts.length - 1,
      10_000,
      `${host.name} lacks routes`,
    );
    return lines(await host.net.exec('route', '-n')).slice(1);
  });
}

async function startContainers(cluster: Cluster, containers: Container[]): Promise<readonly string[]> {
  containers.push(...(await cluster.startContainers()));
  return containers.map(({ name, address }) => `${name}  ${address}`);
}

async function pingAll(containers: readonly Container[]): Promise<readonly string[]> {
  const results = await Promise.all(
    containers.map(async (from) => {
      const answers: string[] = [];
      for (const to of containers) if (to !== from) answers.push(await pingOnce(from, to));
      return answers;
    }),
  );
  return results.flat();
}

async function pingOnce(from: Container, to: Container): Promise<string> {
  const output = await from.docker.exec(from.name, 'ping', '-c', '1', '-W', '5', to.address).catch(String);
  const answer = lines(output).find((line) => line.startsWith(`64 bytes from ${to.address}:`));
  if (answer === undefined || !answer.includes(` ttl=${TTL_AFTER_TWO_HOPS} `)) {
    throw new DemoFailure(
      `${from.name} pings ${to.name}: wanted an answer with ttl=${TTL_AFTER_TWO_HOPS}, got:\n${output}`,
    );
  }
  return `${from.name} -> ${to.name}: ${answer}`;
}

/** What each host has to show; a first line stands beside the host's name, several stand below it. */
export async function perHost(
  cluster: Cluster,
  show: (host: ClusterHost) => Promise<readonly string[]>,
): Promise<readonly string[]> {
  const width = Math.max(...cluster.hosts.map(({ name }) => name.length));
  const shown = await Promise.all(cluster.hosts.map(async (host) => [host.name, await show(host)] as const));
  return shown.flatMap(([name, [only = '', ...more]]) =>
    more.length === 0
      ? [`${name.padEnd(width)}  ${only.trim()}`]
      : [name, ...[only, ...more].map((line) => `    ${line}`)],
  );
}

/** All lines of what programs have printed. */
export function lines(...outputs: readonly string[]): readonly string[] {
  return outputs.flatMap((output) => output.trimEnd().split('\n'));
}
