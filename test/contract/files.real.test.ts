import { rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { tempDir } from '../testbed/run.ts';
import { filesContract } from './files.ts';

const folders: string[] = [];

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** The kernel tells in order: when a later change is told of, those before it were. */
function toldOf(folder: string): Promise<void> {
  return new Promise((resolve) => {
    const stop = nodeFiles.watch(join(folder, 'marker'), () => {
      stop();
      resolve();
    });
    writeFileSync(join(folder, 'marker'), '');
  });
}

filesContract("this machine's disk", () => {
  const folder = tempDir('files');
  folders.push(folder);
  return {
    files: nodeFiles,
    folder,
    modeOf: (path) => statSync(path).mode & 0o7777,
    remove: (path) => rmSync(path),
    quiet: () => toldOf(folder),
  };
});
