// Makes `npm run` and `npx` use the toolchain's own Node 24 (the optional package node-linux-<arch>) whatever Node the machine has.
// npm 9 and 10 install that package but do not link its binary; npm 11 does. Without the package (another platform, or
// `npm ci --omit=optional`) the machine's Node serves.
const { existsSync, mkdirSync, rmSync, symlinkSync } = require('node:fs');
const { join } = require('node:path');

const modules = join(__dirname, '..', 'node_modules');
const binary = join(modules, `node-linux-${process.arch}`, 'bin', 'node');
const link = join(modules, '.bin', 'node');
if (existsSync(binary)) {
  mkdirSync(join(modules, '.bin'), { recursive: true });
  rmSync(link, { force: true });
  symlinkSync(`../node-linux-${process.arch}/bin/node`, link);
}
