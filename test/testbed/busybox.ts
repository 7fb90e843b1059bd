import { copyFileSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Docker } from './docker.ts';
import { runToEnd } from './process.ts';

/** The image's name. No registry is needed: it holds the machine's static busybox and nothing else. */
export const BUSYBOX = 'busybox';

/** Makes the tar file of the image below `dir`; returns its path. Needs the package busybox-static. */
export async function makeBusyboxImage(dir: string): Promise<string> {
  const bin = join(dir, 'busybox/bin');
  mkdirSync(bin, { recursive: true });
  copyFileSync(await busyboxPath(), join(bin, 'busybox'));
  for (const applet of ['sh', 'sleep', 'ping', 'ip', 'cat', 'ls', 'wget', 'nc', 'httpd', 'hostname', 'ps']) {
    symlinkSync('busybox', join(bin, applet));
  }
  const file = join(dir, 'busybox.tar');
  const { exit, output } = await runToEnd(['tar', '-C', join(dir, 'busybox'), '-cf', file, '.']);
  if (exit.code !== 0) throw new Error(`tar: ${output}`);
  return file;
}

/** Imports the image and starts a container of it that sleeps; resolves to its address. */
export async function runBusybox(docker: Docker, tarFile: string, name: string): Promise<string> {
  await docker.docker('import', tarFile, BUSYBOX);
  await docker.run(name, BUSYBOX, 'sleep', '1000000');
  return await docker.address(name);
}

async function busyboxPath(): Promise<string> {
  const { stdout } = await runToEnd(['sh', '-c', 'command -v busybox']);
  if (stdout === '') throw new Error('no busybox on this machine: apt-get install busybox-static');
  return stdout;
}
