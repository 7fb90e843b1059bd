import { posix } from 'node:path';
import type { Files } from '../src/runtime/effects.ts';

interface Entry {
  readonly content: string;
  readonly mode: number;
}

/** A disk in memory. Folders exist as soon as something lies in them. */
export class SimFiles implements Files {
  readonly #entries = new Map<string, Entry>();
  readonly #folders = new Set<string>(['/']);
  /** Fails every write with this system error code (ENOSPC, EROFS, …) while set. */
  writeError: string | undefined;
  readonly #watchers = new Map<string, Set<() => void>>();
  /** How often a file was replaced. */
  writes = 0;

  async readText(path: string): Promise<string | undefined> {
    if (this.#folders.has(posix.normalize(path))) throw systemError('EISDIR', 'read', path);
    return this.#entries.get(posix.normalize(path))?.content;
  }

  async writeAtomic(path: string, content: string, mode: number): Promise<void> {
    const normal = posix.normalize(path);
    if (this.writeError !== undefined) throw systemError(this.writeError, 'open', path);
    if (this.#folders.has(normal)) throw systemError('EISDIR', 'rename', path);
    for (let folder = posix.dirname(normal); ; folder = posix.dirname(folder)) {
      if (this.#entries.has(folder)) throw systemError('ENOTDIR', 'mkdir', folder);
      this.#folders.add(folder);
      if (folder === posix.dirname(folder)) break;
    }
    this.#entries.set(normal, { content, mode });
    this.writes++;
    this.#tell(normal);
  }

  watch(path: string, onChange: () => void): () => void {
    const normal = posix.normalize(path);
    const watchers = this.#watchers.get(normal) ?? new Set();
    this.#watchers.set(normal, watchers);
    watchers.add(onChange);
    return () => {
      watchers.delete(onChange);
    };
  }

  /** How many watch a file. */
  get watched(): number {
    return [...this.#watchers.values()].reduce((sum, { size }) => sum + size, 0);
  }

  #tell(normal: string): void {
    for (const onChange of new Set(this.#watchers.get(normal))) onChange();
  }

  /** Another program removes a file. */
  remove(path: string): void {
    const normal = posix.normalize(path);
    if (this.#entries.delete(normal)) this.#tell(normal);
  }

  /** Another program has this text in a file's place, or the kernel in a setting's, which needs no room on the disk. */
  place(path: string, content: string): void {
    const normal = posix.normalize(path);
    const { mode } = this.#entries.get(normal) ?? { mode: 0o644 };
    this.#entries.set(normal, { content, mode });
    this.#tell(normal);
  }

  async writeInPlace(path: string, content: string): Promise<void> {
    const normal = posix.normalize(path);
    if (this.writeError !== undefined) throw systemError(this.writeError, 'open', path);
    if (this.#folders.has(normal)) throw systemError('EISDIR', 'open', path);
    const entry = this.#entries.get(normal);
    if (entry === undefined) throw systemError('ENOENT', 'open', path);
    this.#entries.set(normal, { ...entry, content });
    this.writes++;
    this.#tell(normal);
  }

  /** A file's text, at once; undefined when there is none. */
  peek(path: string): string | undefined {
    return this.#entries.get(posix.normalize(path))?.content;
  }

  /** Leaves `content` of a file: what a crash of the whole machine does to one that was not synced. */
  spoil(path: string, content: string): void {
    const entry = this.#entries.get(posix.normalize(path));
    if (entry !== undefined) this.#entries.set(posix.normalize(path), { ...entry, content });
  }

  /** The permission bits of a file; undefined when there is none. */
  modeOf(path: string): number | undefined {
    return this.#entries.get(posix.normalize(path))?.mode;
  }

  /** A reboot: /run is empty. */
  clear(): void {
    this.#entries.clear();
    this.#folders.clear();
    this.#folders.add('/');
    for (const normal of this.#watchers.keys()) this.#tell(normal);
  }
}

function systemError(code: string, syscall: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${syscall} '${path}'`), { code, syscall, path });
}
