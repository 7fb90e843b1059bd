import type { PerFamily, Subnet } from '../ip/ip.ts';
import type { Clock } from '../runtime/clock.ts';
import { messageOf } from '../runtime/errors.ts';
import type { Files } from '../runtime/files.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import { retryForever } from '../runtime/retry.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { renderDockerOpts } from './docker-opts.ts';
import { parseSubnetEnv, renderSubnetEnv, type SubnetEnvironment } from './subnet-env.ts';

export interface EnvFilesOptions {
  readonly files: Files;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  readonly subnetFile: string;
  /** Undefined: not written. */
  readonly dockerOptsFile: string | undefined;
  readonly dockerOptsKey: string;
}

const policy = { initialMs: 500, maxMs: 10_000 };
/** Docker's wrappers and the CNI plugin read them, whoever they run as. */
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
        `${subnetFile} cannot be read: ${messageOf(error)}`,
      );
      return undefined;
    }
  }

  /** Writes both files, trying for ever (a disk that is full gets emptied); rejects only with `signal.reason`. */
  async write(environment: SubnetEnvironment, signal: AbortSignal): Promise<void> {
    const { subnetFile, dockerOptsFile, dockerOptsKey } = this.#options;
    const { ipv4, mtu, ipMasq } = environment;
    await this.#writeOne(subnetFile, renderSubnetEnv(environment), signal);
    if (dockerOptsFile === undefined) return;
    const subnet = ipv4 === undefined ? {} : { subnet: ipv4.subnet };
    const dockerOpts = renderDockerOpts({ ...subnet, mtu, ipMasq, key: dockerOptsKey });
    await this.#writeOne(dockerOptsFile, dockerOpts, signal);
  }

  async #writeOne(path: string, content: string, signal: AbortSignal): Promise<void> {
    const { clock, random, trouble } = this.#options;
    const onFailure = (error: unknown) =>
      trouble.report(
        `file ${path}`,
        `waiting: ${path} cannot be written: ${reasonOf(error)}. ${remedy(path)}`,
        { path, error },
      );
    await retryForever({ clock, random, policy, onFailure }, signal, () => this.#writeOrKeep(path, content));
    trouble.clear(`file ${path}`, `${path} could be written`);
  }

  /** A file that holds what it should already will do: a full /run must not keep a restarted daemon from its routes. */
  async #writeOrKeep(path: string, content: string): Promise<void> {
    const { files, log } = this.#options;
    try {
      await files.writeAtomic(path, content, fileMode);
      log.info({ event: 'file-written', path }, `wrote ${path}`);
    } catch (error) {
      const present = await files.readText(path).catch(() => undefined);
      if (present !== content) throw error;
      const text = `${path} cannot be written, but holds what it should: ${reasonOf(error)}`;
      log.warn({ event: 'file-kept', path }, text);
    }
  }
}

/** Node adds the paths of the call: those of a temporary file are other ones, and so a new message, at every attempt. */
function reasonOf(error: unknown): string {
  return messageOf(error).replace(/, [a-z]+ '.*$/s, '');
}

function remedy(path: string): string {
  return `Make its folder writable for this process, or choose another path than ${path}.`;
}
