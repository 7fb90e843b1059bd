import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { useCluster } from '../integration/use-cluster.ts';
import { PREFIX } from '../testbed/cluster.ts';
import { importRoot, NODE_SLIM } from '../testbed/debian-root.ts';
import { type Docker, startDocker, withoutNetwork } from '../testbed/docker.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { RUN_VARIABLE, runId } from '../testbed/run.ts';
import { SETUP_TIMEOUT_MS } from './use-systemd.ts';

const PROJECT = join(import.meta.dirname, '../..');
const DEADLINE_MS = 60_000;

/** The image, built from the Dockerfile and run on a host the way its first lines say. */
describe('the image', () => {
  const cluster = useCluster({ hosts: 2 });
  let subnetFile: string;
  let dockerOptsFile: string;
  let docker: Docker;

  beforeAll(async () => {
    const { dir, net, daemon } = cluster.at(0);
    ({ subnetFile, dockerOptsFile } = daemon);
    await cluster.etcd.ctl('put', leaseKey('172.20.9.0/24'), leaseValue(cluster.at(1).address));
    const forwarding = () => readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8');
    const before = forwarding();
    await buildImage(dir);
    // A dockerd in the machine's own network switches it on, unless it is told not to.
    expect(forwarding()).toBe(before);
    // On the builder's images, in the host's network: --net=host is that one.
    docker = await startDocker({ dir, namespace: net.namespace, args: withoutNetwork });
    cluster.onClose(() => docker.close());
  }, SETUP_TIMEOUT_MS);

  const inspect = async (format: string) =>
    (await docker.docker('inspect', '--format', format, 'flanneld')).trim();
  const routes = async () => cluster.at(0).net.ip('route show proto 102');

  test('runs with two capabilities, leases a subnet and writes the files on the host', async () => {
    await docker.docker(
      'run',
      '--detach',
      '--name',
      'flanneld',
      '--net=host',
      '--cap-drop=ALL',
      '--cap-add=NET_ADMIN',
      '--cap-add=NET_RAW',
      '--security-opt=no-new-privileges',
      '--read-only',
      '--volume=/run:/run',
      '--health-interval=1s',
      // Takes the shells away: everything below has to work without.
      '--volume=/dev/null:/usr/bin/dash:ro',
      '--volume=/dev/null:/usr/bin/bash:ro',
      '--env',
      `${RUN_VARIABLE}=${runId()}`,
      'flanneld-ts',
      '--etcd-endpoints=http://10.211.55.101:2379',
      `--etcd-prefix=${PREFIX}`,
      '--iface=eth0',
    );
    const written = () => existsSync(subnetFile) && existsSync(dockerOptsFile);
    await until(written, DEADLINE_MS, 'no files');
    expect(readFileSync(subnetFile, 'utf8')).toMatch(
      /^FLANNEL_NETWORK=172\.20\.0\.0\/16\nFLANNEL_SUBNET=172\.20\.\d+\.1\/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n$/,
    );
    expect(readFileSync(dockerOptsFile, 'utf8')).toMatch(/^DOCKER_OPTS=" --bip=172\.20\.\d+\.1\/24 .*"\n$/);
  });

  test('installs the routes of its peers in the host', async () => {
    await until(async () => (await routes()) !== '', DEADLINE_MS, 'no route');
    expect(await routes()).toMatch(/^172\.20\.9\.0\/24 via 10\.211\.55\.101 dev eth0\s*$/);
  });

  test('becomes healthy by its own probe, which fails where no daemon answers', async () => {
    const health = () => inspect('{{.State.Health.Status}}');
    await until(async () => (await health()) === 'healthy', DEADLINE_MS, 'not healthy');
    expect(await docker.exec('flanneld', 'flanneld-ts', 'health')).toBe('flanneld is running');
    await expect(docker.exec('flanneld', 'flanneld-ts', 'health', '--healthz-port=1')).rejects.toThrow(
      /unhealthy/,
    );
  });

  test('its process holds no other capability, and no shell started it', async () => {
    const pid = await inspect('{{.State.Pid}}');
    const status = readFileSync(`/proc/${docker.pid}/root/proc/${pid}/status`, 'utf8');
    for (const set of ['CapEff', 'CapPrm', 'CapBnd']) expect(status).toMatch(`${set}:\t0000000000003000\n`);
    expect(status).toMatch('CapAmb:\t0000000000000000\n');
    expect(status).toMatch('NoNewPrivs:\t1\n');
    expect(status).toMatch(/^Seccomp:\s2$/m);
    const [first] = readFileSync(`/proc/${docker.pid}/root/proc/${pid}/cmdline`, 'utf8').split('\0');
    expect(first).toMatch(/node$/);
    await expect(docker.exec('flanneld', 'sh', '-c', 'true')).rejects.toThrow();
    expect(await inspect('{{json .Config.Entrypoint}}')).toBe('["flanneld-ts"]');
    expect(await inspect('{{json .Config.Healthcheck.Test}}')).toBe('["CMD","flanneld-ts","health"]');
  });

  test('has iptables and nft for the firewall rules, and sets them', async () => {
    expect(await docker.exec('flanneld', 'iptables', '--version')).toContain('nf_tables');
    expect(await docker.exec('flanneld', 'iptables-legacy', '--version')).toContain('legacy');
    expect(await docker.exec('flanneld', 'nft', '--version')).toContain('nftables');
    let rules = '';
    const set = async () => {
      rules = await cluster.at(0).net.exec('iptables-save');
      return rules.includes('-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD');
    };
    await until(set, DEADLINE_MS, () => rules);
  });

  test('docker stop ends it in time with 0, and routes, lease and files stay', async () => {
    const before = { file: readFileSync(subnetFile, 'utf8'), routes: await routes() };
    const leases = await cluster.etcd.ctl('get', '--prefix', '--keys-only', `${PREFIX}/subnets/`);
    await docker.docker('stop', '--time=10', 'flanneld');
    expect(await inspect('{{.State.ExitCode}}')).toBe('0');
    expect({ file: readFileSync(subnetFile, 'utf8'), routes: await routes() }).toEqual(before);
    expect(await cluster.etcd.ctl('get', '--prefix', '--keys-only', `${PREFIX}/subnets/`)).toBe(leases);
    await docker.docker('start', 'flanneld');
    const running = async () => (await inspect('{{.State.Health.Status}}')) === 'healthy';
    await until(running, DEADLINE_MS, 'not healthy after a restart');
    expect(readFileSync(subnetFile, 'utf8')).toBe(before.file);
  });
});

/** Builds the Dockerfile as it is with a dockerd in the machine's network, whose images stay below `dir`. */
async function buildImage(dir: string): Promise<void> {
  const dockerfile = readFileSync(join(PROJECT, 'Dockerfile'), 'utf8');
  const base = /^FROM (\S+)/m.exec(dockerfile)?.[1];
  if (base === undefined) throw new Error('the Dockerfile has no FROM');
  const builder = await startDocker({ dir, args: withoutNetwork });
  // The client would ask for BuildKit, which Debian's Docker does not bring.
  process.env['DOCKER_BUILDKIT'] = '0';
  try {
    await importRoot(builder, NODE_SLIM, base);
    await builder.docker('build', '--network=host', '--pull=false', '--tag=flanneld-ts', PROJECT);
  } finally {
    await builder.close();
  }
}
