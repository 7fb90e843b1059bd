import { createHash } from 'node:crypto';
import { cpSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { filesBelow, librariesNeeded, packageVersion, type Release, run, setTime } from './release.ts';
import { LIBRARY, type Tree } from './tree.ts';

/** Makes Debian's package with dpkg-deb. */
export async function makeDeb(release: Release, { arch, installed }: Tree): Promise<string> {
  const { root, out, fast } = release;
  const version = packageVersion(release.version);
  const files = filesBelow(installed);
  const control = join(installed, 'DEBIAN');
  mkdirSync(control);
  const write = (name: string, lines: readonly string[]) =>
    writeFileSync(join(control, name), lines.map((line) => `${line}\n`).join(''));
  for (const script of ['preinst', 'postinst', 'prerm', 'postrm'])
    cpSync(join(root, 'packaging/deb', script), join(control, script));
  write(
    'conffiles',
    files.filter((path) => path.startsWith('/etc/')),
  );
  write(
    'md5sums',
    files.filter((path) => !path.startsWith('/etc/')).map((path) => `${md5(join(installed, path))}  ${path.slice(1)}`),
  );
  const kib = files.reduce((sum, path) => sum + Math.ceil(lstatSync(join(installed, path)).size / 1024), 0);
  const { glibc, glibcxx } = librariesNeeded(
    files.filter((path) => path === `${LIBRARY}/node` || path.endsWith('.node')).map((path) => join(installed, path)),
  );
  write('control', [
    'Package: flanneld-ts',
    `Version: ${version}`,
    `Architecture: ${arch}`,
    'Maintainer: The flanneld-ts authors <flanneld-ts@localhost>',
    `Installed-Size: ${kib}`,
    `Depends: libc6 (>= ${glibc}), libgcc-s1 | libgcc1, libstdc++6 (>= ${gccOf(glibcxx)})`,
    'Recommends: iproute2, iptables | nftables',
    'Suggests: docker.io | docker-ce, etcd-client',
    'Provides: flannel',
    // It has units and files of the same names.
    'Conflicts: flannel',
    'Replaces: flannel',
    'Section: net',
    'Priority: optional',
    `Description: ${firstPart(release.description)}`,
    ...DESCRIPTION.map((line) => ` ${line}`),
  ]);
  const file = join(out, `flanneld-ts_${version}_${arch}.deb`);
  await setTime(installed, release);
  // xz at its fastest is 15 % larger than at its default, in an eighth of the time. One thread: more would give other bytes.
  const compression = fast ? ['-Znone'] : ['-Zxz', '-z1', '--threads-max=1'];
  await run(['dpkg-deb', '--root-owner-group', ...compression, '--build', installed, file]);
  rmSync(control, { recursive: true });
  await setTime(installed, release);
  return file;
}

/** What it is, in lines of a package's description. */
export const DESCRIPTION: readonly string[] = [
  'Containers on different Docker hosts reach each other by their own addresses,',
  'without an overlay. One daemon per host leases a subnet in etcd, gives it to',
  'Docker, and keeps one plain kernel route per peer. It does the work of flanneld',
  'with the host-gw backend, under the same keys, files and flags.',
];

/** A sentence without what follows its colon. */
export const firstPart = (description: string): string => description.split(':')[0] ?? description;

/** The version of GCC whose C++ library has these symbols first, which is Debian's version of libstdc++6. */
function gccOf(glibcxx: string): string {
  const known: Readonly<Record<string, string>> = { '3.4.21': '5.2', '3.4.22': '6', '3.4.25': '8', '3.4.26': '9' };
  const gcc = known[glibcxx];
  if (gcc === undefined) throw new Error(`which GCC brings GLIBCXX_${glibcxx}? Add it to gccOf`);
  return gcc;
}

function md5(file: string): string {
  return createHash('md5').update(readFileSync(file)).digest('hex');
}
