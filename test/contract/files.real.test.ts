import { rmSync, statSync } from 'node:fs';
import { afterEach } from 'vitest';
import { nodeFiles } from '../../src/daemon/files.ts';
import { tempDir } from '../testbed/run.ts';
import { filesContract } from './files.ts';

const folders: string[] = [];

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

filesContract("this machine's disk", () => {
  const folder = tempDir('files');
  folders.push(folder);
  return { files: nodeFiles, folder, modeOf: (path) => statSync(path).mode & 0o7777 };
});
