import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = '/sys/fs/cgroup';

/** The mounted hierarchies: one of v2, or one per controller of v1. Empty when this machine shows none. */
export function hierarchies(): readonly string[] {
  if (!existsSync(ROOT)) return [];
  const isHierarchy = (path: string) => existsSync(join(path, 'cgroup.procs'));
  if (isHierarchy(ROOT)) return [ROOT];
  return readdirSync(ROOT)
    .map((name) => join(ROOT, name))
    .filter(isHierarchy);
}

/** The control groups at the top of a hierarchy whose name fits. */
export function topControlGroups(fits: (name: string) => boolean): readonly string[] {
  return hierarchies().flatMap((path) =>
    readdirSync(path)
      .filter(fits)
      .map((name) => join(path, name)),
  );
}

/** Removes a control group and those in it. Throws while a process is in one of them. */
export function removeControlGroup(path: string): void {
  // Its files cannot be deleted; its folders can, from the innermost.
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) removeControlGroup(join(path, entry.name));
  }
  rmdirSync(path);
}
