import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { removeControlGroup, topControlGroups } from './cgroups.ts';
import { RUN_VARIABLE } from './run.ts';

/** Something a run has made and not removed. */
export interface Leftover {
  readonly kind: 'process' | 'control group' | 'mount' | 'namespace' | 'folder';
  readonly name: string;
  /** Removes it; what is gone already is fine. */
  remove(): void;
}

const NETNS = '/run/netns';

/**
 * What is left of a run, in the order in which it can be removed: processes that carry the run's name in their
 * environment or live in one of its namespaces, then what they held. This process and its ancestors do not count.
 */
export function leftovers(run: string): readonly Leftover[] {
  return [
    ...processes(run),
    ...controlGroups(run),
    ...mounts(run),
    ...namespaces(run).map((name) => ({
      kind: 'namespace' as const,
      name,
      remove: () => void execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' }),
    })),
    ...entries(tmpdir(), run).map((name) => ({
      kind: 'folder' as const,
      name: join(tmpdir(), name),
      remove: () => rmSync(join(tmpdir(), name), { recursive: true, force: true }),
    })),
  ];
}

/** What is left of a run once processes that are just ending had `graceMs` to end. */
export async function settledLeftovers(run: string, graceMs = 3_000): Promise<readonly Leftover[]> {
  const deadline = performance.now() + graceMs;
  for (;;) {
    const found = leftovers(run);
    if (found.length === 0 || performance.now() > deadline) return found;
    await sleep(50);
  }
}

/** Removes all that is left of a run; resolves to what it could not remove. */
export async function sweep(run: string): Promise<readonly Leftover[]> {
  const deadline = performance.now() + 10_000;
  for (;;) {
    const found = leftovers(run);
    if (found.length === 0 || performance.now() > deadline) return found;
    for (const leftover of found) {
      try {
        leftover.remove();
      } catch {
        // Busy until its process has ended; the next round tries again.
      }
    }
    await sleep(50);
  }
}

/** `process 123 (dockerd --bip=…)`, one line per leftover. */
export function describeLeftovers(found: readonly Leftover[]): string {
  return found.map(({ kind, name }) => `${kind} ${name}`).join('\n');
}

const belongs = (name: string, run: string): boolean => name === run || name.startsWith(`${run}-`);

function entries(folder: string, run: string): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => belongs(name, run)) : [];
}

const namespaces = (run: string): string[] => entries(NETNS, run);

function processes(run: string): Leftover[] {
  const inodes = new Set(namespaces(run).map((name) => `net:[${statSync(join(NETNS, name)).ino}]`));
  const ours = ancestors();
  const pids = readdirSync('/proc').map(Number).filter(Number.isInteger);
  return pids
    .filter((pid) => !ours.has(pid) && isAlive(pid) && (carriesRun(pid, run) || inodes.has(netnsOf(pid))))
    .map((pid) => ({
      kind: 'process',
      name: `${pid} (${procFile(pid, 'cmdline').replaceAll('\0', ' ').slice(0, 120)})`,
      remove: () => void process.kill(pid, 'SIGKILL'),
    }));
}

function carriesRun(pid: number, run: string): boolean {
  const start = `${RUN_VARIABLE}=`;
  const variable = procFile(pid, 'environ')
    .split('\0')
    .find((entry) => entry.startsWith(start));
  return variable !== undefined && belongs(variable.slice(start.length), run);
}

function netnsOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    return '';
  }
}

/** A zombie waits for its parent to look; it holds nothing any more. */
const isAlive = (pid: number): boolean => /^State:\s+[^ZX]/m.test(procFile(pid, 'status'));

function ancestors(): Set<number> {
  const found = new Set<number>();
  for (let pid = process.pid; pid > 0 && !found.has(pid); ) {
    found.add(pid);
    pid = Number(/^PPid:\s+(\d+)/m.exec(procFile(pid, 'status'))?.[1] ?? 0);
  }
  return found;
}

/** Empty when the process has ended. */
function procFile(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

/** dockerd leaves its containers' parent group behind, a killed one also theirs. */
function controlGroups(run: string): Leftover[] {
  return topControlGroups((name) => belongs(name, run)).map((path) => ({
    kind: 'control group',
    name: path,
    remove: () => removeControlGroup(path),
  }));
}

function mounts(run: string): Leftover[] {
  const points = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => !point.startsWith(`${NETNS}/`) && point.split('/').some((part) => belongs(part, run)));
  // Innermost first.
  return points.toReversed().map((name) => ({
    kind: 'mount',
    name,
    remove: () => void execFileSync('umount', ['--lazy', name], { stdio: 'ignore' }),
  }));
}
