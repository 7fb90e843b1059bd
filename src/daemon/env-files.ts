import { dirname } from 'node:path';
import { bridgeAddress, type PerFamily, type Subnet } from '../ip/ip.ts';
import type { Files } from '../runtime/effects.ts';
import { codeOf, systemReason } from '../runtime/errors.ts';
import { retryForever } from '../runtime/retry.ts';
import { firstOf, Wake } from '../runtime/wake.ts';
import type { DaemonOptions } from './options/flags.ts';
import type { Parts } from './parts.ts';
import { parseSubnetEnv, renderSubnetEnv, type SubnetEnvironment } from './subnet-env.ts';

type EnvFilesOptions = Pick<Parts, 'files' | 'clock' | 'random' | 'log' | 'trouble' | 'activity'> &
  Pick<DaemonOptions, 'subnetFile' | 'dockerOptsFile' | 'dockerOptsKey'>;

/** One of the two files, as it must be. */
interface EnvFile {
  /** For metrics, so not the operator's path. */
  readonly name: string;
  readonly path: string;
  readonly content: string;
}

/** Beside inotify, which may lose track of a folder or have no watch left. */
const checkIntervalMs = 10_000;
/** A program may write a file in several steps: do not answer each of them. */
const spacingMs = 50;
/** So many repairs within {@link fightMs} are no accident. From then on the file is repaired every {@link checkIntervalMs}. */
const fightRepairs = 5;
const fightMs = 60_000;
/** A disk that has not answered for so long will not answer any more. */
const stuckMs = 120_000;
const policy = { initialMs: 500, maxMs: 10_000 };
/** Docker's wrappers and the CNI plugin read them, under any user. */
const fileMode = 0o644;

/** The two files other programs read: subnet.env and docker_opts.env. */
export class EnvFiles {
  readonly #options: EnvFilesOptions;

  constructor(options: EnvFilesOptions) {
    this.#options = options;
  }

  /** The subnets of the previous subnet.env, if there is one that can be read. A hint only, so nothing waits for it. */
  async hint(signal: AbortSignal): Promise<PerFamily<Subnet> | undefined> {
    const { files, subnetFile, log } = this.#options;
    try {
      const text = await files.readText(subnetFile);
      return text === undefined ? undefined : parseSubnetEnv(text);
    } catch (error) {
      signal.throwIfAborted();
      log.warn(
        { event: 'hint-unreadable', path: subnetFile },
        `${subnetFile} cannot be read: ${systemReason(error)}`,
      );
      return undefined;
    }
  }

  /**
   * Writes both files, retrying until it succeeds (a full disk gets emptied), and calls `onWritten`. Then it keeps them: it rewrites a file
   * that another program removes or changes. Only the content counts, not owner or mode. Rejects only with `signal.reason`.
   */
  async keep(environment: SubnetEnvironment, onWritten: () => void, signal: AbortSignal): Promise<never> {
    const { subnetFile, dockerOptsFile, dockerOptsKey, activity } = this.#options;
    const subnetEnv = { name: 'subnet.env', path: subnetFile, content: renderSubnetEnv(environment) };
    const envFiles: EnvFile[] = [subnetEnv];
    if (dockerOptsFile !== undefined) {
      const content = renderDockerOpts(environment, dockerOptsKey);
      envFiles.push({ name: 'docker_opts.env', path: dockerOptsFile, content });
    }
    try {
      for (const envFile of envFiles) await this.#write(envFile, 'file-written', signal);
      onWritten();
      return await firstOf(signal, (inner) => envFiles.map((envFile) => this.#guard(envFile, inner)));
    } finally {
      for (const { name } of envFiles) activity.end(name);
    }
  }

  async #guard(envFile: EnvFile, signal: AbortSignal): Promise<never> {
    const { files, clock, trouble, activity } = this.#options;
    const { name, path } = envFile;
    const repairedAtMs: number[] = [];
    for (;;) {
      activity.round(name, stuckMs);
      const changed = new Wake();
      // Before the look: what happens after that is told.
      const stop = files.watch(path, () => changed.wake());
      try {
        const isRight = await this.#isRight(envFile);
        const nowMs = clock.monotonic();
        while (nowMs - (repairedAtMs[0] ?? nowMs) > fightMs) repairedAtMs.shift();
        if (!isRight) {
          repairedAtMs.push(nowMs);
          await this.#write(envFile, 'file-repaired', signal);
          activity.count('file-repair', name);
        }
        if (repairedAtMs.length === 0)
          trouble.clear(`file-fight ${path}`, `no other program changes ${path} any more`);
        else if (repairedAtMs.length >= fightRepairs)
          trouble.report(
            `file-fight ${path}`,
            `another program keeps removing or changing ${path}: find and stop it (perhaps a second flanneld), or choose another path`,
            { path },
          );
        activity.round(name, checkIntervalMs + stuckMs);
        await changed.waitAtMost(clock, checkIntervalMs, signal);
      } finally {
        stop();
      }
      await clock.sleep(repairedAtMs.length >= fightRepairs ? checkIntervalMs : spacingMs, signal);
    }
  }

  /** A symbolic link to the right content will do. A file that cannot be read is written again. */
  async #isRight({ path, content }: EnvFile): Promise<boolean> {
    return (await this.#options.files.readText(path).catch(() => undefined)) === content;
  }

  async #write(
    { name, path, content }: EnvFile,
    event: 'file-written' | 'file-repaired',
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, random, trouble, activity } = this.#options;
    activity.round(name, stuckMs);
    const onFailure = (error: unknown) => {
      activity.round(name, stuckMs);
      trouble.report(
        `file ${path}`,
        `waiting: ${path} cannot be written: ${systemReason(error)}. ${remedy}, or choose another path than ${path}.`,
        { path, error },
      );
    };
    let remedy = '';
    const write = async () => {
      try {
        await this.#writeOrKeep(path, content, event);
      } catch (error) {
        remedy = await remedyOf(error, path, this.#options.files);
        throw error;
      }
    };
    await retryForever({ clock, random, policy, onFailure }, signal, write);
    trouble.clear(`file ${path}`, `${path} could be written`);
  }

  /** A file that has the right content already will do: a full /run must not keep a restarted daemon from its routes. */
  async #writeOrKeep(path: string, content: string, event: 'file-written' | 'file-repaired'): Promise<void> {
    const { files, log } = this.#options;
    try {
      await files.writeAtomic(path, content, fileMode);
      if (event === 'file-written') log.info({ event, path }, `wrote ${path}`);
      else log.warn({ event, path }, `another program removed or changed ${path}; wrote it again`);
    } catch (error) {
      const present = await files.readText(path).catch(() => undefined);
      if (present !== content) throw error;
      const text = `${path} cannot be written, but has the right content: ${systemReason(error)}`;
      log.warn({ event: 'file-kept', path }, text);
    }
  }
}

/** How to fix it. No full stop at the end. */
async function remedyOf(error: unknown, path: string, files: Pick<Files, 'readText'>): Promise<string> {
  const folder = dirname(path);
  switch (codeOf(error)) {
    case 'ENOSPC':
    case 'EDQUOT':
      return `Free space there (df ${folder}; df -i ${folder})`;
    case 'EROFS':
      return `Mount the file system of ${folder} writable`;
    case 'EISDIR':
      return `Remove the folder ${path}`;
    case 'ENOTDIR':
      return `${await noFolderAbove(path, files)} is no folder: remove it`;
    default:
      return 'Make its folder writable for this process';
  }
}

/** The part of the path that keeps all below it from being there. */
async function noFolderAbove(path: string, files: Pick<Files, 'readText'>): Promise<string> {
  const above: string[] = [];
  for (let one = dirname(path); one !== dirname(one); one = dirname(one)) above.unshift(one);
  for (const one of above) {
    // Not the file itself, which may be a device without an end.
    const isNone = await files.readText(`${one}/.`).then(
      () => false,
      (error: unknown) => codeOf(error) === 'ENOTDIR',
    );
    if (isNone) return one;
  }
  return 'a part of its path';
}

/**
 * The bytes `mk-docker-opts.sh -c -k KEY` writes for this host: one variable with all of dockerd's options, a space in front.
 * Without IPv4 Docker takes a bridge address of its own choice.
 */
export function renderDockerOpts({ ipv4, mtu, ipMasq }: SubnetEnvironment, key: string): string {
  const options = [
    ...(ipv4 === undefined ? [] : [`--bip=${bridgeAddress(ipv4.subnet)}`]),
    `--ip-masq=${!ipMasq}`,
    `--mtu=${mtu}`,
  ];
  return `${key}=" ${options.join(' ')}"\n`;
}
