import { rmSync } from 'node:fs';
import { afterAll, beforeAll } from 'vitest';
import { CONFIG } from '../testbed/cluster.ts';
import { type Docker, startDocker, withoutNetwork } from '../testbed/docker.ts';
import { tempDir } from '../testbed/run.ts';
import { type BootOptions, SystemdContainer } from '../testbed/systemd-container.ts';

export const UNIT = 'flanneld.service';
/** The network configuration of the scenario, as an operator stores it. */
export const CONFIG_JSON = JSON.stringify(CONFIG);
export const DEADLINE_MS = 30_000;
/** The first run on a machine makes a root file system. */
export const SETUP_TIMEOUT_MS = 600_000;

/** A Debian server with etcd and Docker as its packages set them up, or another one, while the tests of a suite run. */
export function useSystemdContainer(options: BootOptions = {}): SystemdContainer {
  const dir = tempDir('systemd');
  const host = new SystemdContainer();
  let docker: Docker | undefined;
  beforeAll(async () => {
    docker = await startDocker({ dir, args: withoutNetwork });
    await host.boot(docker, options);
  }, SETUP_TIMEOUT_MS);
  afterAll(async () => {
    await host.close();
    await docker?.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return host;
}
