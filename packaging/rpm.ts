import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DESCRIPTION, firstPart } from './deb.ts';
import { ARCHITECTURES, type Arch, filesBelow, foldersBelow, packageVersion, type Release, run } from './release.ts';
import { LIBRARY, type Tree } from './tree.ts';

/** Folders that no other package brings: rpm removes those that it has been told to own, and no other. */
const OWN_FOLDERS = [
  '/etc/iproute2/rt_protos.d',
  '/etc/systemd/networkd.conf.d',
  '/usr/lib/systemd/system/docker.service.d',
  '/usr/libexec/flannel',
  '/usr/share/doc/flanneld-ts',
  '/usr/share/doc/flanneld-ts/docs',
];

/** Makes Fedora's and RHEL's package with rpmbuild. */
export async function makeRpm(release: Release, { arch, installed }: Tree): Promise<string> {
  const { root, work, out, fast } = release;
  const version = packageVersion(release.version);
  const machine = ARCHITECTURES[arch].rpm;
  const home = join(work, arch, 'rpm');
  mkdirSync(home, { recursive: true });
  const files = join(home, 'files');
  // Made by the scripts; it goes with the package.
  const snapshot = `${LIBRARY}/v${nodeVersion(release, arch)}-${machine}.snapshot`;
  writeFileSync(
    files,
    [
      '%defattr(-,root,root,-)',
      ...OWN_FOLDERS.map((path) => `%dir ${path}`),
      `%ghost ${snapshot}`,
      ...foldersBelow(installed, LIBRARY).map((path) => `%dir ${path}`),
      ...filesBelow(installed).map((path) => (path.startsWith('/etc/') ? `%config(noreplace) ${path}` : path)),
      '',
    ].join('\n'),
  );
  const known: Readonly<Record<string, string>> = {
    VERSION: version,
    SUMMARY: firstPart(release.description),
    DESCRIPTION: DESCRIPTION.join('\n'),
    ROOT: installed,
    FILES: files,
    LIBRARY,
  };
  const spec = join(home, 'flanneld-ts.spec');
  const text = readFileSync(join(root, 'packaging/rpm.spec'), 'utf8');
  writeFileSync(
    spec,
    text
      .replace(/^#.*\n#.*\n/, '')
      .replaceAll(/@([A-Z]+)@/g, (_, name: string) => known[name] ?? ''),
  );
  const settings = {
    _topdir: home,
    _rpmdir: out,
    _rpmfilename: '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm',
    // As dpkg-deb's: see there.
    _binary_payload: fast ? 'w.ufdio' : 'w1.xzdio',
    _buildhost: 'localhost',
    use_source_date_epoch_as_buildtime: '1',
    clamp_mtime_to_source_date_epoch: '1',
    // Debian's rpm has no names for them.
    _binary_filedigest_algorithm: '8',
    _source_filedigest_algorithm: '8',
  };
  const defines = Object.entries(settings).flatMap(([name, value]) => ['--define', `${name} ${value}`]);
  await run(['rpmbuild', '-bb', '--quiet', `--target=${machine}-linux`, ...defines, spec], { HOME: home });
  rmSync(home, { recursive: true });
  return join(out, `flanneld-ts-${version}-1.${machine}.rpm`);
}

function nodeVersion({ root }: Release, arch: Arch): string {
  const { optionalDependencies }: { optionalDependencies: Record<string, string> } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  );
  return optionalDependencies[`node-linux-${ARCHITECTURES[arch].node}`] ?? '';
}
