import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { type Component, npmComponent } from '../script/sbom.ts';
import { ARCHITECTURES, type Arch, type Release, run, setTime } from './release.ts';

/** The program for one architecture. */
export interface Tree {
  readonly arch: Arch;
  /** What a build leaves: script/install puts it on a host. The tarball is this folder. */
  readonly source: string;
  /** What is on a host then, from / on. */
  readonly installed: string;
  readonly components: readonly Component[];
}

/** Where the program lies on a host. */
export const LIBRARY = '/usr/lib/flanneld-ts';

/** A package of npm that holds what was compiled for one architecture. */
interface Binary {
  readonly name: string;
  /** The folder it is in. */
  readonly folder: string;
  readonly component: Component;
}

/** Builds the program once, and installs it by script/install: a package lays out its files as an installation does. */
export async function makeTree(release: Release, archs: readonly Arch[]): Promise<Tree[]> {
  const { root, work, version } = release;
  const built = join(work, 'dist');
  await run([process.execPath, join(root, 'script/build.ts'), built, '--without-snapshot', `--version=${version}`]);
  const listed: { components: Component[] } = JSON.parse(readFileSync(join(built, 'sbom.cdx.json'), 'utf8'));
  const common = listed.components.filter(({ name }) => !name.startsWith('@koromix/'));
  const trees: Tree[] = [];
  for (const arch of archs) {
    const source = join(work, arch, `flanneld-ts-${version}`);
    const installed = join(work, arch, 'installed');
    mkdirSync(source, { recursive: true });
    cpSync(built, join(source, 'dist'), { recursive: true });
    for (const part of ['systemd', 'docs', 'README.md', 'CHANGELOG.md', 'LICENSE', 'package.json'])
      cpSync(join(root, part), join(source, part), { recursive: true });
    mkdirSync(join(source, 'script'));
    cpSync(join(root, 'script/install'), join(source, 'script/install'));
    const binaries = await addBinaries(release, arch, source);
    await install(release, arch, source, installed);
    for (const folder of [source, installed]) await setTime(folder, release);
    trees.push({ arch, source, installed, components: [...common, ...binaries.map((one) => one.component)] });
  }
  return trees;
}

/** Puts Node and koffi's library for this architecture where a build on it would have put them. */
async function addBinaries(release: Release, arch: Arch, source: string): Promise<readonly Binary[]> {
  const { node: cpu } = ARCHITECTURES[arch];
  const node = await binary(release, `node-linux-${cpu}`, 'platform');
  const koffi = await binary(release, `@koromix/koffi-linux-${cpu}`, 'library');
  const nodeFolder = join(source, 'node_modules', node.name);
  for (const part of ['bin/node', 'LICENSE', 'package.json'])
    cpSync(join(node.folder, part), join(nodeFolder, part), { dereference: true });
  const natives = join(source, 'dist/node_modules/@koromix');
  const [built = ''] = readdirSync(natives);
  rmSync(natives, { recursive: true });
  // Node itself needs glibc, so musl's has no host.
  const filter = (path: string) => !path.includes(`/musl_${cpu}`);
  cpSync(koffi.folder, join(source, 'dist/node_modules', koffi.name), { recursive: true, filter });
  const licenses = join(source, 'dist/LICENSES.txt');
  writeFileSync(licenses, readFileSync(licenses, 'utf8').replaceAll(`@koromix/${built}`, koffi.name));
  rmSync(join(source, 'dist/sbom.cdx.json'));
  await run(['chmod', '-R', 'u=rwX,go=rX', source]);
  return [node, koffi];
}

/** A package of npm: the one that is installed here, or else fetched, once, and held against the lockfile. */
async function binary(
  { root, work }: Release,
  name: string,
  type: 'platform' | 'library',
): Promise<Binary> {
  const lock: {
    packages: Record<string, { version: string; license?: string; integrity: string }>;
  } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const locked = lock.packages[`node_modules/${name}`];
  if (locked === undefined) throw new Error(`package-lock.json has no ${name}`);
  const { version, license, integrity } = locked;
  const [, upstream] = /^node-linux-/.exec(name) ? ['', `cpe:2.3:a:nodejs:node.js:${version}:*:*:*:*:*:*:*`] : [];
  const component = {
    ...npmComponent({ name, version, license, integrity, type }),
    ...(upstream !== undefined && { cpe: upstream }),
  };
  const installed = join(root, 'node_modules', name);
  if (existsSync(join(installed, 'package.json'))) return { name, folder: installed, component };
  const cache = join(root, '.tool/packages');
  const file = join(cache, `${name.replace(/^@/, '').replace('/', '-')}-${version}.tgz`);
  if (!existsSync(file)) {
    mkdirSync(cache, { recursive: true });
    const target = join(work, 'fetched');
    mkdirSync(target, { recursive: true });
    await run(['npm', 'pack', '--silent', `--pack-destination=${target}`, `${name}@${version}`]);
    await run(['sh', '-ec', 'mv "$1"/*.tgz "$2"', 'sh', target, file]);
  }
  const found = createHash('sha512').update(readFileSync(file)).digest('base64');
  if (`sha512-${found}` !== integrity) {
    rmSync(file);
    throw new Error(`${name}@${version} is not what package-lock.json says`);
  }
  const folder = join(work, 'unpacked', name);
  mkdirSync(folder, { recursive: true });
  await run(['tar', '-xzf', file, '-C', folder, '--strip-components=1', '--no-same-owner']);
  return { name, folder, component };
}

async function install(release: Release, arch: Arch, source: string, installed: string): Promise<void> {
  const { root, work } = release;
  const { node: cpu } = ARCHITECTURES[arch];
  // script/install runs the Node that it installs, so this machine's stands in for another's.
  const own = join(source, 'node_modules', `node-linux-${cpu}`, 'bin/node');
  const aside = join(work, arch, 'node');
  const foreign = cpu !== process.arch;
  if (foreign) {
    cpSync(own, aside);
    cpSync(process.execPath, own);
  }
  await run([join(source, 'script/install')], { DESTDIR: installed, PREFIX: '/usr', NODE: own });
  const library = join(installed, LIBRARY);
  if (foreign) {
    for (const path of [own, join(library, 'node')]) cpSync(aside, path);
    rmSync(aside);
  }
  // What an installation keeps for its own removal is the package manager's business here.
  for (const name of ['names', 'folders', 'sysconfig']) rmSync(join(library, name), { force: true });
  writeFileSync(join(library, 'packaged'), 'script/install leaves this folder alone: a package manager has it.\n');
  const documents = join(installed, 'usr/share/doc/flanneld-ts');
  mkdirSync(documents, { recursive: true });
  for (const name of ['README.md', 'docs']) cpSync(join(root, name), join(documents, name), { recursive: true });
  writeFileSync(join(documents, 'changelog.gz'), zipped(join(root, 'CHANGELOG.md')));
  cpSync(join(source, 'node_modules', `node-linux-${cpu}`, 'LICENSE'), join(library, 'node.LICENSE.txt'));
  writeFileSync(join(documents, 'copyright'), COPYRIGHT);
  // Manual pages go to usr/share/man/man8, zipped, from here.
  const completions = join(installed, 'usr/share/bash-completion/completions');
  mkdirSync(completions, { recursive: true });
  writeFileSync(
    join(completions, 'flanneld-ts'),
    execFileSync(process.execPath, [join(source, 'dist/flanneld-ts.cjs'), 'completion'], {
      env: { PATH: process.env['PATH'], SHELL: '/bin/bash' },
    }),
  );
  await run(['chmod', '-R', 'u=rwX,go=rX', installed]);
}

const COPYRIGHT = `flanneld-ts is licensed under the Apache License 2.0: /usr/share/common-licenses/Apache-2.0 on Debian, and at the head of
${LIBRARY}/LICENSES.txt, which holds the licences of the packages that are part of the program as well.

Node.js, ${LIBRARY}/node: see ${LIBRARY}/node.LICENSE.txt.
`;

/** Node writes no time and no name into it. */
function zipped(file: string): Buffer {
  return gzipSync(readFileSync(file), { level: 9 });
}
