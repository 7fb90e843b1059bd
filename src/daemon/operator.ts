import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { checkConfig, type GivenText } from '../cli/config/check.ts';
import { type Draft, editConfig } from '../cli/config/edit.ts';
import { showConfig, showHistory } from '../cli/config/read.ts';
import { setConfig } from '../cli/config/store.ts';
import { listLeases, watchLeases } from '../cli/lease/cluster.ts';
import { showFree } from '../cli/lease/free.ts';
import { type PruneParts, pruneLeases } from '../cli/lease/prune.ts';
import { reserveSubnet, unreserve } from '../cli/lease/reserve.ts';
import { type ShowParts, showLease } from '../cli/lease/show.ts';
import { type ExitCode, complain as fail, type Output } from '../cli/output.ts';
import { systemReason } from '../runtime/errors.ts';
import type { OldStore, Registry } from '../subnet/registry/registry.ts';
import { systemClock, systemRandom } from './host/clock.ts';
import type { ConfigAccess, ConfigOptions } from './options/config-commands.ts';
import type { LeaseOptions } from './options/lease-commands.ts';
import type { EtcdAccess } from './options/options.ts';

// `config` and `lease`: what an operator does in etcd. Loaded when one of them is asked for, because no daemon needs them.

/** What main's other commands use, too. */
export interface OperatorTools {
  readonly say: (line: string) => void;
  readonly complain: (line: string) => void;
  /** Asks at the terminal. */
  readonly confirm: (question: string) => Promise<boolean>;
  /** Whether a host answers, other than this one. */
  readonly askHost: ShowParts['askHost'];
  /** Which keys a daemon of this host holds. */
  readonly heldByThisHost: (place: {
    readonly subnetFile: string;
    readonly statusSocket?: string;
  }) => Promise<PruneParts['heldHere']>;
  /** Opens no connection yet. */
  readonly connect: (
    access: EtcdAccess,
  ) => Promise<{ readonly registry: Registry; readonly oldStore: OldStore }>;
}

/** `config`. Rejects only for a bug. */
export async function runConfig(
  options: ConfigOptions,
  warnings: readonly string[],
  tools: OperatorTools,
): Promise<ExitCode> {
  for (const warning of warnings) tools.complain(warning);
  const output = outputOf(options, tools);
  if (options.verb !== 'validate') return await configInEtcd(options, output, tools);
  const given = await readGiven(options.file);
  if ('text' in given) return checkConfig(output, given);
  fail(output, given.problem, 'UNREADABLE');
  return 2;
}

async function configInEtcd(options: ConfigAccess, output: Output, tools: OperatorTools): Promise<ExitCode> {
  const given = options.verb === 'set' ? await readGiven(options.file) : undefined;
  if (given !== undefined && 'problem' in given) {
    fail(output, given.problem, 'UNREADABLE');
    return 2;
  }
  const { registry, oldStore } = await tools.connect(options);
  const { signal } = new AbortController();
  const parts = { ...output, registry, oldStore, etcdPrefix: options.etcdPrefix };
  const isAtTerminal = process.stdin.isTTY && process.stderr.isTTY;
  const asking = isAtTerminal ? { confirm: tools.confirm } : {};
  try {
    switch (options.verb) {
      case 'show':
        return await showConfig(parts, signal);
      case 'history':
        return await showHistory(parts, signal);
      case 'edit':
        return await editConfig({ ...parts, ...options, ...asking, draft }, signal);
      case 'set':
        return given === undefined ? 2 : await setConfig({ ...parts, ...options, ...asking }, given, signal);
    }
  } finally {
    registry.close();
  }
}

/** `lease`, but for `release`, and `status --cluster`. Rejects only for a bug. */
export async function runLease(
  options: LeaseOptions,
  warnings: readonly string[],
  tools: OperatorTools,
): Promise<ExitCode> {
  for (const warning of warnings) tools.complain(warning);
  const { registry } = await tools.connect(options);
  const { signal } = new AbortController();
  const { askHost } = tools;
  const common = {
    ...outputOf(options, tools),
    registry,
    etcdPrefix: options.etcdPrefix,
    clock: systemClock,
  };
  try {
    switch (options.verb) {
      case 'free':
        return await showFree(common, signal);
      case 'list':
      case 'cluster': {
        const heading = options.verb === 'cluster';
        const shown = { heading, sort: heading ? ('subnet' as const) : options.sort };
        if (!options.watch) return await listLeases(common, shown, signal);
        // `--watch | head` ends when its reader does.
        process.stdout.on('error', () => process.exit(0));
        return await watchLeases(common, shown, process.stdout.isTTY, signal);
      }
      case 'show':
        return await showLease({ ...common, target: options.target, askHost }, signal);
      case 'reserve':
        return await reserveSubnet({ ...options, ...common }, signal);
      case 'unreserve':
        return await unreserve({ ...options, ...common }, signal);
      case 'prune': {
        const heldHere = await tools.heldByThisHost(options);
        return await pruneLeases({ ...options, ...common, askHost, heldHere, random: systemRandom }, signal);
      }
    }
  } finally {
    registry.close();
  }
}

function outputOf({ json }: { readonly json: boolean }, { say, complain }: OperatorTools): Output {
  const { NO_COLOR: none, TERM: terminal } = process.env;
  const colors = process.stdout.isTTY && (none === undefined || none === '') && terminal !== 'dumb';
  return { json, colors, out: say, err: complain };
}

/** etcd takes no longer value. */
const longestText = 1 << 20;

/** The text of a file, or of standard input for `-`. */
async function readGiven(file: string): Promise<GivenText | { readonly problem: string }> {
  const name = file === '-' ? 'standard input' : file;
  try {
    const text = file === '-' ? await readInput() : await readFile(file, 'utf8');
    return text.length > longestText ? { problem: `${name} is longer than 1 MiB` } : { name, text };
  } catch (error) {
    return { problem: `${name} cannot be read: ${systemReason(error)}` };
  }
}

async function readInput(): Promise<string> {
  let text = '';
  for await (const part of process.stdin.setEncoding('utf8')) {
    text += String(part);
    if (text.length > longestText) break;
  }
  return text;
}

/** A file in a folder of its own, which only this user can open. */
async function draft(text: string): Promise<Draft> {
  const folder = await mkdtemp(join(tmpdir(), 'flanneld-ts-'));
  const path = join(folder, 'config.json');
  await writeFile(path, text);
  return {
    path,
    edit: async () => {
      await runEditor(path);
      return await readFile(path, 'utf8');
    },
    remove: () => rm(folder, { recursive: true, force: true }),
  };
}

/** As git starts one: the variable may hold arguments. Ctrl-C is the editor's while it runs. */
async function runEditor(path: string): Promise<void> {
  const { VISUAL: visual, EDITOR: editor } = process.env;
  const command = [visual, editor].find((one) => one !== undefined && one !== '') ?? 'vi';
  const ignore = () => {};
  process.on('SIGINT', ignore);
  try {
    const child = spawn('/bin/sh', ['-c', `${command} "$@"`, command, path], { stdio: 'inherit' });
    const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
    if (code !== 0)
      throw new Error(`${command} ended with ${code === null ? String(signal) : `exit code ${code}`}`);
  } finally {
    process.off('SIGINT', ignore);
  }
}
