import { randomBytes } from 'node:crypto';
import { watch as watchFolder } from 'node:fs';
import {
  chmod,
  constants,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  stat,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Files } from '../../runtime/effects.ts';
import { codeOf } from '../../runtime/errors.ts';

/**
 * How old a temporary file must be to count as left behind by a writer that died. A living one needs milliseconds; the name
 * holds no process id because containers share /run and not their process ids.
 */
const LEFTOVER_AGE_MS = 10_000;

/** Files on this machine's disks. */
export const nodeFiles: Files = { readText, writeAtomic, writeInPlace, watch };

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** The names in a folder; none when there is no such folder, or it may not be read. */
export async function listFolder(path: string): Promise<readonly string[]> {
  return await readdir(path).catch(() => []);
}

async function writeInPlace(path: string, content: string): Promise<void> {
  await writeFile(path, content, { flag: constants.O_WRONLY | constants.O_TRUNC });
}

/** Watches the folder, as a file that is replaced is another one; while there is no folder the nearest one above it. */
function watch(path: string, onChange: () => void): () => void {
  let name = resolve(path);
  for (;;) {
    const folder = dirname(name);
    const awaited = basename(name);
    try {
      // The folder itself goes by its own name.
      const watcher = watchFolder(folder, { persistent: false }, (_, changed) => {
        if (changed === null || changed === awaited || changed === basename(folder)) onChange();
      });
      watcher.on('error', () => {});
      return () => watcher.close();
    } catch (error) {
      // Inotify may be used up (ENOSPC, EMFILE).
      if (codeOf(error) !== 'ENOENT' || folder === name) return () => {};
      name = folder;
    }
  }
}

async function writeAtomic(relativePath: string, content: string, mode: number): Promise<void> {
  const path = resolve(relativePath);
  const folder = dirname(path);
  await makeFolders(folder);
  await removeLeftovers(path);
  const temporary = join(folder, `${temporaryPrefix(path)}${randomBytes(6).toString('hex')}.tmp`);
  try {
    await writeSynced(temporary, content, mode);
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
  await syncFolder(folder);
}

async function writeSynced(path: string, content: string, mode: number): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.chmod(mode);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Makes a folder with those above it, one level at a time: Node's recursive mkdir never ends where the kernel answers
 * ENOENT to every mkdir, as /proc does. mkdir's mode is cut by the umask, so the folders are given theirs again.
 */
export async function makeFolders(folder: string): Promise<void> {
  const missing: string[] = [];
  for (let above = folder; !(await exists(above)); above = dirname(above)) missing.unshift(above);
  for (const path of missing) {
    await makeFolder(path);
    await syncFolder(dirname(path));
  }
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path);
    await chmod(path, 0o755);
  } catch (error) {
    // Somebody else was faster; what is no folder shows at the next step.
    if (codeOf(error) !== 'EEXIST') throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Makes a rename in the folder last over a crash of the machine. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } catch (error) {
    // Some file systems (FUSE, network) cannot sync a folder; the file itself is complete and in place.
    if (codeOf(error) !== 'EINVAL' && codeOf(error) !== 'ENOTSUP') throw error;
  } finally {
    await handle.close();
  }
}

function temporaryPrefix(path: string): string {
  return `.${basename(path)}.`;
}

/** Removes what writers of this very file left when they died. Failing is no reason not to write. */
async function removeLeftovers(path: string): Promise<void> {
  const folder = dirname(path);
  const prefix = temporaryPrefix(path);
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    if (!name.startsWith(prefix) || !/^[\da-f]{12}\.tmp$/.test(name.slice(prefix.length))) continue;
    const leftover = join(folder, name);
    const status = await lstat(leftover).catch(() => undefined);
    if (status?.isFile() && Date.now() - status.mtimeMs > LEFTOVER_AGE_MS)
      await unlink(leftover).catch(() => {});
  }
}
