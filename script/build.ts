/**
 * Builds `dist/`: one CommonJS bundle, a start-up snapshot of it, what starts it from there, and, beside them, the native library that
 * cannot be bundled, what few hosts load, the licences of all, and a list of it (CycloneDX). Another folder can be named; packages have it
 * `--without-snapshot`.
 *
 * The snapshot is the heap of V8 after all of the bundle has been loaded. It holds for the very version of Node that makes it, here the one that
 * runs this build. All else is the same from build to build.
 *
 * CommonJS because it starts 11 ms sooner and holds 8 MiB less than the same bundle as ES modules (Node 24). etcd3 reads
 * its .proto files at run time and parses them on every start; here they are parsed once, at build time, and bundled as
 * JSON, so that no file has to lie at a path relative to the bundle.
 */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { build, type Plugin } from 'esbuild';
import { lateModules } from './late-modules.ts';
import { licenses, shippedPackages } from './licenses.ts';
import { bill, npmComponents } from './sbom.ts';

const root = join(import.meta.dirname, '..');
const { values, positionals } = parseArgs({
  options: { 'without-snapshot': { type: 'boolean' }, version: { type: 'string' } },
  allowPositionals: true,
});
const out = resolve(positionals[0] ?? join(root, 'dist'));
const packageJson: { version: string } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const version = values.version ?? packageJson.version;

/**
 * protobufjs makes the code for each message when the first one is read or written: for the snapshot, when that is made. Messages
 * within messages have to be there for that.
 *
 * Its Long divides again and again to write a number in decimal, three numbers for each lease of a list: a fifth of what a
 * start with 1,000 peers takes beyond one without.
 */
const codecs = `
const { Long } = require('protobufjs').util;
const toText = Long.prototype.toString;
Long.prototype.toString = function (radix = 10) {
  if (radix !== 10) return toText.call(this, radix);
  const bits = (BigInt(this.high) << 32n) | BigInt(this.low >>> 0);
  return this.high === 0 ? String(this.low >>> 0) : String(this.unsigned ? BigInt.asUintN(64, bits) : bits);
};
const operations = [{ request_range: {} }, { request_put: {} }, { request_delete_range: {} }];
const answers = [{ response_range: { kvs: [{}] } }, { response_put: {} }, { response_delete_range: {} }];
const requests = { Txn: { compare: [{}], success: operations }, Watch: { create_request: {} } };
const responses = { Txn: { responses: answers }, Watch: { events: [{ kv: {} }] } };
if (require('node:v8').startupSnapshot.isBuildingSnapshot())
  for (const { service } of Object.values(etcdserverpb).filter((one) => one.service !== undefined))
    for (const [name, method] of Object.entries(service)) {
      method.requestSerialize(requests[name] ?? {});
      method.responseDeserialize(method.responseSerialize({ header: {}, ...responses[name] }));
    }
`;

const inlineEtcdProtos: Plugin = {
  name: 'inline-etcd-protos',
  setup(builder) {
    builder.onLoad({ filter: /etcd3\/lib\/connection-pool\.js$/ }, ({ path }) => {
      const protobuf = createRequire(path)('protobufjs') as {
        Root: new () => { loadSync(file: string, options: { keepCase: boolean }): { toJSON(): unknown } };
      };
      // keepCase as etcd3 asks for; without it fields are renamed and silently dropped from every message.
      const parsed = new protobuf.Root().loadSync(join(dirname(path), '../proto/rpc.proto'), {
        keepCase: true,
      });
      const schema = JSON.stringify(parsed.toJSON());
      const source = readFileSync(path, 'utf8');
      const call = /\.loadSync\)\(`\$\{__dirname\}\/\.\.\/proto\/rpc\.proto`,/;
      // A new version of etcd3 that loads its schema otherwise must fail the build, not the first start.
      if (!call.test(source)) throw new Error('etcd3 no longer loads rpc.proto the way this build expects');
      return { contents: source.replace(call, () => `.fromJSON)(${schema},`) + codecs, loader: 'js' };
    });
  },
};

// Whoever stops the build finds no half of it: the signal is taken before place() has begun, or once it is through.
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'])
  process.on(signal, (_, number: number) => process.exit(128 + number));
const { outputFiles, metafile } = await build({
  absWorkingDir: root,
  entryPoints: ['src/daemon/main.ts'],
  write: false,
  metafile: true,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  // Every process holds the source text: a third of it is comments and indentation. Names and lines stay, for stack traces. keepNames
  // is off: it names each closure anew whenever one is made, which was a tenth of a start with 10,000 peers.
  minifyWhitespace: true,
  minifySyntax: true,
  lineLimit: 120,
  // They are in LICENSES.txt, in full.
  legalComments: 'none',
  logLevel: 'warning',
  plugins: [inlineEtcdProtos, lateModules(root)],
  banner: { js: '#!/usr/bin/env node' },
  define: {
    // From here packages would read files of their own that are not in dist: yargs failed where it might not look.
    'import.meta.url': JSON.stringify('file:///nonexistent/flanneld-ts.cjs'),
    FLANNELD_TS_VERSION: JSON.stringify(version),
  },
});
const [bundle] = outputFiles;
if (bundle === undefined) throw new Error('esbuild made nothing');
// V8 would hold all of the text with two bytes a character because of one that is not ASCII, in the process and in the snapshot.
const foreign = bundle.text.search(/[^\0-\x7f]/);
if (foreign >= 0)
  throw new Error(
    `the bundle is not ASCII: ${JSON.stringify(bundle.text.slice(foreign - 60, foreign + 20))}`,
  );
// Beside the bundle lies what cannot be in it, and what few hosts load: every start would read it.
const native = readdirSync(join(root, 'node_modules/@koromix')).map(
  (name) => `node_modules/@koromix/${name}`,
);
const beside = [...native, 'node_modules/re2js'];
place(bundle.contents, shippedPackages(Object.keys(metafile.inputs), beside));

/**
 * Makes the new dist beside the old one and exchanges them by name: a dist that is there is complete, and a daemon
 * that runs the old one keeps the files it has open.
 */
function place(program: Uint8Array, packages: readonly string[]): void {
  const made = `${out}.new-${process.pid}`;
  const old = `${out}.old-${process.pid}`;
  try {
    mkdirSync(made, { recursive: true });
    writeFileSync(join(made, 'flanneld-ts.cjs'), program, { mode: 0o755 });
    copyFileSync(join(root, 'script/launcher'), join(made, 'flanneld-ts'));
    const makeSnapshot = join(made, 'make-snapshot');
    copyFileSync(join(root, 'script/make-snapshot'), makeSnapshot);
    if (values['without-snapshot'] !== true) execFileSync(makeSnapshot, [process.execPath]);
    writeFileSync(join(made, 'LICENSES.txt'), licenses(root, packages));
    writeFileSync(join(made, 'sbom.cdx.json'), bill(version, npmComponents(root, packages)));
    for (const part of beside)
      cpSync(join(root, part), join(made, part), { recursive: true, filter: isNeeded });
    if (existsSync(out)) renameSync(out, old);
    renameSync(made, out);
  } finally {
    for (const folder of [made, old]) rmSync(folder, { recursive: true, force: true });
  }
}

/** Of a package with several builds of itself, the one that require takes. */
function isNeeded(file: string): boolean {
  return !/re2js.*(?:index\.js|\.umd\.js|\.d\.c?ts|\.md)$/.test(file);
}
