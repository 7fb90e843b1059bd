import { join } from 'node:path';
import { importRoot, SYSTEMD_HOST } from './debian-root.ts';
import type { Docker } from './docker.ts';
import { until } from './netns.ts';
import { RUN_VARIABLE, runId } from './run.ts';

const IMAGE = 'systemd-host';
const PROJECT = join(import.meta.dirname, '../..');
const BOOT_DEADLINE_MS = 60_000;

/**
 * What a container needs to run systemd. Privileged ones need more capabilities than a machine that is itself a container
 * may have; /var/lib/docker is a volume because overlays do not stack.
 */
const BOOTABLE = [
  '--cap-add=SYS_ADMIN',
  '--cap-add=NET_ADMIN',
  '--cap-add=NET_RAW',
  '--cap-add=NET_BROADCAST',
  '--security-opt=seccomp=unconfined',
  '--security-opt=apparmor=unconfined',
  '--cgroupns=host',
  '--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw',
  '--tmpfs=/run',
  '--tmpfs=/tmp',
  '--env=container=docker',
  '--volume=/var/lib/docker',
];

/** A Debian server in a container: systemd is its first process, etcd and Docker run as after `apt-get install`. */
export class SystemdContainer {
  readonly #docker: Docker;
  readonly #name: string;

  constructor(docker: Docker, name: string) {
    this.#docker = docker;
    this.#name = name;
  }

  /** Runs a command; resolves to its standard output, rejects with all it said when it fails or hangs. */
  async exec(...argv: string[]): Promise<string> {
    return (await this.#docker.docker('exec', this.#name, 'timeout', '60', ...argv)).trimEnd();
  }

  /** Runs a shell script with `set -e`. */
  async sh(script: string): Promise<string> {
    return await this.exec('sh', '-ec', script);
  }

  async systemctl(...argv: string[]): Promise<string> {
    return await this.exec('systemctl', ...argv);
  }

  /** One property of a unit, as `systemctl show` prints it. */
  async property(unit: string, name: string): Promise<string> {
    return await this.systemctl('show', '--value', `--property=${name}`, unit);
  }

  /** The file's content; undefined when there is none. */
  async read(path: string): Promise<string | undefined> {
    return await this.exec('cat', path).catch(() => undefined);
  }

  /** The end of a unit's journal, for messages. */
  async journal(unit: string): Promise<string> {
    return await this.exec('journalctl', '--no-pager', '--lines=40', `--unit=${unit}`).catch(String);
  }

  async close(): Promise<void> {
    await this.#docker.docker('rm', '--force', '--volumes', this.#name);
  }
}

/**
 * Boots a container, with the project's folder at /src (read only) and an eth0 (10.211.55.100/24, with a default route) that
 * is as good as one on a segment as far as routes can tell.
 */
export async function bootSystemdContainer(docker: Docker): Promise<SystemdContainer> {
  await importRoot(docker, SYSTEMD_HOST, IMAGE);
  const name = 'host';
  await docker.docker(
    'run',
    '--detach',
    '--name',
    name,
    '--hostname',
    name,
    '--network=none',
    // As Docker's own start leaves it; in here /proc/sys is read-only, so that Docker could not.
    '--sysctl=net.ipv4.ip_forward=1',
    ...BOOTABLE,
    `--volume=${PROJECT}:/src:ro`,
    '--env',
    `${RUN_VARIABLE}=${runId()}`,
    IMAGE,
    '/lib/systemd/systemd',
  );
  const host = new SystemdContainer(docker, name);
  let state = '';
  const booted = async () => {
    state = await host.systemctl('is-system-running').catch(String);
    return state === 'running';
  };
  await until(booted, BOOT_DEADLINE_MS, () => `systemd has not booted: ${state}`);
  await host.sh(
    'ip link add eth0 type bridge; ip address add 10.211.55.100/24 dev eth0; ip link set eth0 up; ip route add default via 10.211.55.1',
  );
  return host;
}
