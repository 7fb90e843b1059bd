import http2 from 'node:http2';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { Plugin } from 'esbuild';

/**
 * Node's own modules that are loaded when they are used. Not every start needs them, and a start-up snapshot cannot hold them: what
 * they keep of the process that made it (handles, threads, native state) would be another process's.
 */
const ofNode = [
  'async_hooks',
  'child_process',
  'crypto',
  'dgram',
  'diagnostics_channel',
  'dns',
  'http',
  'http2',
  'https',
  'module',
  'net',
  'readline',
  'readline/promises',
  'tls',
  'tty',
  'worker_threads',
  'zlib',
];

/** What packages read of them while they are loaded themselves, as source text. The program uses no worker threads. */
const known: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  http2: { constants: JSON.stringify(http2.constants) },
  module: { createRequire: '(...args) => load().createRequire(...args)' },
  worker_threads: { isMainThread: 'true' },
};

/** It opens its addon as soon as it is loaded. */
const addonLoader = 'koffi';

/** Beside the program: addons, and what few hosts load. */
const beside = /^(?:@koromix\/.*|re2js)$/;

/** Has the bundle load modules when something in them is used for the first time. `root`: of the project. */
export function lateModules(root: string): Plugin {
  const require = createRequire(join(root, 'package.json'));
  const nodes = new RegExp(`^(?:node:)?(?:${ofNode.join('|')})$`);
  return {
    name: 'late-modules',
    setup(builder) {
      builder.onResolve({ filter: beside }, ({ path }) => ({ path, namespace: 'beside' }));
      builder.onResolve({ filter: nodes }, ({ path }) => ({
        path: path.replace(/^node:/, ''),
        namespace: 'late',
      }));
      builder.onResolve({ filter: new RegExp(`^${addonLoader}$`) }, ({ path, namespace }) =>
        namespace === 'late' ? undefined : { path, namespace: 'late' },
      );
      // realpathSync: the program may have been started by a symbolic link.
      builder.onLoad({ filter: /.*/, namespace: 'beside' }, ({ path }) => ({
        contents: `const program = require('node:fs').realpathSync(process.argv[1]);
          module.exports = process.getBuiltinModule('node:module').createRequire(program)(${JSON.stringify(path)});`,
      }));
      builder.onLoad({ filter: /.*/, namespace: 'late' }, ({ path }) => {
        const load = path === addonLoader ? `require('${path}')` : `process.getBuiltinModule('node:${path}')`;
        const members = Object.keys(require(path)).map(
          (key) =>
            `get ${JSON.stringify(key)}() { return ${known[path]?.[key] ?? `load()[${JSON.stringify(key)}]`}; },`,
        );
        return {
          contents: `let loaded;\nconst load = () => (loaded ??= ${load});\nmodule.exports = {\n${members.join('\n')}\n};`,
          resolveDir: root,
        };
      });
    },
  };
}
