import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = '/sys/fs/cgroup';

/** The control groups at the top of a hierarchy (every one of v1, the one of v2) whose name fits. */
export function topControlGroups(fits: (name: string) => boolean): readonly string[] {
  if (!existsSync(ROOT)) return [];
  const hierarchies = [ROOT, ...readdirSync(ROOT).map((name) => join(ROOT, name))];
  return hierarchies
    .filter((path) => existsSync(join(path, 'cgroup.procs')))
    .flatMap((path) =>
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
