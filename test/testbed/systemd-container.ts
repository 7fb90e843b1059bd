import { join } from 'node:path';
import { importRoot, type RootRecipe, SYSTEMD_HOST } from './debian-root.ts';
import type { Docker } from './docker.ts';
import { until, untilLines } from './netns.ts';
import { RUN_VARIABLE, runId } from './run.ts';

const IMAGE = 'systemd-host';
const NAME = 'host';
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

export interface BootOptions {
  /** Default: {@link SYSTEMD_HOST}. */
  readonly recipe?: RootRecipe;
  /** Folders of this machine, and where they are in the container, read only. */
  readonly folders?: Readonly<Record<string, string>>;
}

/** A Debian server in a container: systemd is its first process, etcd and Docker run as after `apt-get install`. */
export class SystemdContainer {
  #docker: Docker | undefined;

  /**
   * Boots it, with the project's folder at /src (read only) and an eth0 (10.211.55.100/24, with a default route) that is as good as
   * one on a segment as far as routes can tell.
   */
  async boot(docker: Docker, { recipe = SYSTEMD_HOST, folders = {} }: BootOptions = {}): Promise<void> {
    await importRoot(docker, recipe, IMAGE);
    this.#docker = docker;
    await docker.docker(
      'run',
      '--detach',
      `--name=${NAME}`,
      `--hostname=${NAME}`,
      '--network=none',
      // As Docker's own start leaves it; in here /proc/sys is read-only, so that Docker could not.
      '--sysctl=net.ipv4.ip_forward=1',
      ...BOOTABLE,
      `--volume=${PROJECT}:/src:ro`,
      ...Object.entries(folders).map(([from, to]) => `--volume=${from}:${to}:ro`),
      `--env=${RUN_VARIABLE}=${runId()}`,
      IMAGE,
      '/lib/systemd/systemd',
    );
    let state = '';
    const booted = async () => {
      state = await this.systemctl('is-system-running').catch(String);
      return state === 'running';
    };
    await until(booted, BOOT_DEADLINE_MS, () => `systemd has not booted: ${state}`);
    await this.sh(
      'ip link add eth0 type bridge; ip address add 10.211.55.100/24 dev eth0; ip link set eth0 up; ip route add default via 10.211.55.1',
    );
  }

  /** Runs a command; resolves to its standard output, rejects with all it said when it fails or hangs. */
  async exec(...argv: string[]): Promise<string> {
    if (this.#docker === undefined) throw new Error('the container is not booted');
    return (await this.#docker.docker('exec', NAME, 'timeout', '60', ...argv)).trimEnd();
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

  async mainPid(unit: string): Promise<string> {
    return await this.property(unit, 'MainPID');
  }

  /** Waits until a property of a unit has this value. */
  async reach(unit: string, name: string, value: string): Promise<void> {
    await untilLines(
      async () => [`${name}=${await this.property(unit, name)}`],
      [`${name}=${value}`],
      30_000,
    );
  }

  /** FLANNEL_SUBNET of subnet.env: the address of docker0, `172.20.91.1/24`. */
  async gateway(): Promise<string | undefined> {
    return /^FLANNEL_SUBNET=(.*)$/m.exec((await this.read('/run/flannel/subnet.env')) ?? '')?.[1];
  }

  /** The file's content; undefined when there is none. */
  async read(path: string): Promise<string | undefined> {
    return await this.exec('cat', path).catch(() => undefined);
  }

  /** The end of a unit's journal, for messages. */
  async journal(unit: string): Promise<string> {
    return await this.exec('journalctl', '--no-pager', '--lines=40', `--unit=${unit}`).catch(String);
  }

  /**
   * Adds a network namespace `container`, whose eth0 is on docker0 and has the second address of this host's subnet, and one `peer` on
   * the segment of eth0, a host with this address whose containers' gateway is on it, too.
   */
  async addPeer({ address, gateway }: { readonly address: string; readonly gateway: string }): Promise<void> {
    const [own = '', length] = (await this.gateway())?.split('/') ?? [];
    // systemd gives each a network of its own, as Docker would.
    await this.sh(`
      for unit in container peer; do systemd-run --quiet --unit=$unit --property=PrivateNetwork=yes sleep infinity; done
      container=$(systemctl show --value --property=MainPID container)
      peer=$(systemctl show --value --property=MainPID peer)
      ip link add to-container type veth peer name eth0 netns $container
      ip link set to-container master docker0 up
      nsenter --net --target=$container sh -ec 'ip link set eth0 up
        ip address add ${own.replace(/1$/, '2')}/${length} dev eth0; ip route add default via ${own}'
      ip link add to-peer type veth peer name eth0 netns $peer
      ip link set to-peer master eth0 up
      nsenter --net --target=$peer sh -ec 'ip link set lo up; ip link set eth0 up; ip address add ${address}/24 dev eth0
        ip address add ${gateway} dev lo; ip route add 172.20.0.0/16 via 10.211.55.100'`);
  }

  /** The words before a command that run it in the network of a unit of {@link addPeer}. */
  async inNetworkOf(unit: string): Promise<readonly string[]> {
    const pid = await this.mainPid(`${unit}.service`);
    if (this.#docker === undefined) throw new Error('the container is not booted');
    return [
      'docker',
      `--host=${this.#docker.endpoint}`,
      'exec',
      NAME,
      'nsenter',
      '--net',
      `--target=${pid}`,
      '--',
    ];
  }

  async close(): Promise<void> {
    await this.#docker?.docker('rm', '--force', '--volumes', NAME);
  }
}
