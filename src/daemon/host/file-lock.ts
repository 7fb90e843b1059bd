import { closeSync, constants, fstatSync, openSync, readdirSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { lockFile, lockHolder } from '../../native/libc.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock } from '../../runtime/effects.ts';
import { codeOf } from '../../runtime/errors.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { makeFolders } from './files.ts';

const checkIntervalMs = 2_000;
/** A disk, or a network share, that does not answer for so long will not do so any more. */
const stuckMs = 120_000;

/** What keeping a lock takes. */
export interface LockKeeping {
  readonly clock: Clock;
  readonly trouble: TroubleLog;
  readonly activity: Activity;
}

/** A process that has a file for itself. */
export interface Holder {
  /** 0: not of this process's namespace, in another container. */
  readonly pid: number;
}

/**
 * Keeps a file that the daemon writes for this process alone: a second daemon on the same files would take a second lease and write
 * over them. The file itself is replaced by each write, so the lock is on a file beside it, `.subnet.env.lock`. That one may be left
 * behind: only the kernel's lock on it counts, which ends with the process.
 */
export class FileLock {
  readonly #file: string;
  readonly #path: string;
  #fd: number | undefined;

  constructor(file: string) {
    this.#file = file;
    this.#path = lockPath(file);
  }

  /**
   * Takes the lock; resolves to the process that has it instead. Where the lock's file cannot be made, the file beside it cannot be written
   * either, which is a trouble of its own: the lock then counts as taken, and {@link keep} tries again.
   */
  async take(): Promise<Holder | undefined> {
    await makeFolders(dirname(resolve(this.#file))).catch(() => {});
    return this.#take();
  }

  /** Takes the lock again when somebody removed its file, until `signal` aborts; then rejects with its reason. */
  async keep({ clock, trouble, activity }: LockKeeping, signal: AbortSignal): Promise<never> {
    const what = `lock ${this.#file}`;
    try {
      for (;;) {
        activity.round(what, checkIntervalMs + stuckMs);
        await clock.sleep(checkIntervalMs, signal);
        const holder = this.#isInPlace() ? undefined : this.#take();
        if (holder === undefined) {
          trouble.clear(what, `no other daemon uses ${this.#file} any more`);
        } else {
          const text = `another daemon (${holderText(holder)}) uses ${this.#file}, too: stop one of the two`;
          trouble.report(what, text);
        }
      }
    } finally {
      activity.end(what);
    }
  }

  #take(): Holder | undefined {
    let fd: number;
    try {
      fd = openSync(this.#path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    } catch {
      return undefined;
    }
    const holder = lockOr(fd);
    if (holder !== undefined) {
      closeSync(fd);
      return holder;
    }
    // Of another file than the new one, or nothing would be locked now.
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = fd;
    // Removed since it was opened: the next daemon would make a new one.
    return this.#isInPlace() ? undefined : this.#take();
  }

  #isInPlace(): boolean {
    return this.#fd !== undefined && isSameFile(this.#fd, this.#path);
  }
}

/** The daemon that has this very file. */
export function daemonOf(file: string): Holder | undefined {
  return holderOf(lockPath(file));
}

/** The daemons that have a lock in the folder of `file`; empty when the folder cannot be read. */
export function daemonsBeside(file: string): readonly Holder[] {
  const folder = dirname(resolve(file));
  return lockNames(folder).flatMap((name) => holderOf(join(folder, name)) ?? []);
}

/** Who the holder of a lock is, for a message. */
export function holderText({ pid }: Holder): string {
  return pid === 0 ? 'in another container' : `pid ${pid}`;
}

function lockPath(file: string): string {
  const path = resolve(file);
  return join(dirname(path), `.${basename(path)}.lock`);
}

function lockNames(folder: string): readonly string[] {
  try {
    return readdirSync(folder).filter((name) => /^\..+\.lock$/.test(name));
  } catch {
    return [];
  }
}

function holderOf(path: string): Holder | undefined {
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const pid = lockHolder(fd);
      return pid === undefined ? undefined : { pid };
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return undefined;
  }
}

/** Locks the file; otherwise who has done so. A file system without locks locks nobody out. */
function lockOr(fd: number): Holder | undefined {
  try {
    for (;;) {
      if (lockFile(fd)) return undefined;
      const pid = lockHolder(fd);
      // It ended between the two calls.
      if (pid !== undefined) return { pid };
    }
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return undefined;
  }
}

function isSameFile(fd: number, path: string): boolean {
  try {
    const [open, there] = [fstatSync(fd), statSync(path)];
    return open.ino === there.ino && open.dev === there.dev;
  } catch {
    return false;
  }
}
