import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Component } from '../script/sbom.ts';
import { type Arch, type Release, run } from './release.ts';

/** The release of Debian whose packages are in the image, whatever this machine is. */
const SUITE = 'bookworm';

/**
 * Fetches packages of Debian with all that they depend on, for any architecture, with this machine's apt but none of its state: no root,
 * and nothing of what is installed here counts. Resolves to the files, sorted, and to what a bill of materials says of them.
 */
export async function debianFiles(
  { work }: Release,
  arch: Arch,
  names: readonly string[],
): Promise<{ readonly packages: readonly string[]; readonly components: Component[] }> {
  const folder = join(work, arch, 'apt');
  for (const part of ['etc/apt.conf.d', 'etc/preferences.d', 'etc/trusted.gpg.d', 'state/lists/partial', 'archives/partial'])
    mkdirSync(join(folder, part), { recursive: true });
  writeFileSync(join(folder, 'status'), '');
  const mirrors = await run(['apt-get', 'indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages']);
  const mirror = mirrors.split('\n').find((uri) => /\/debian\/?$/.test(uri)) ?? 'http://deb.debian.org/debian';
  const keys = '/usr/share/keyrings/debian-archive-keyring.gpg';
  writeFileSync(join(folder, 'etc/sources.list'), `deb [signed-by=${keys}] ${mirror} ${SUITE} main\n`);
  // How this machine reaches the mirror: a proxy, for one.
  const settings = await run(['apt-config', 'dump', '--format', '%F "%v";%n', 'Acquire']);
  const configuration = [
    `Dir::State "${folder}/state";`,
    `Dir::State::status "${folder}/status";`,
    `Dir::Cache "${folder}";`,
    `Dir::Etc "${folder}/etc";`,
    `APT::Architecture "${arch}";`,
    `APT::Architectures { "${arch}"; };`,
    'APT::Sandbox::User "";',
    'Acquire::Languages "none";',
    ...settings.split('\n').filter((line) => /^Acquire::https?::/.test(line)),
    '',
  ];
  const file = join(folder, 'apt.conf');
  writeFileSync(file, configuration.join('\n'));
  const env = { APT_CONFIG: file };
  await run(['apt-get', '--quiet', 'update'], env);
  await run(['apt-get', '--quiet', '--yes', '--download-only', '--no-install-recommends', 'install', ...names], env);
  const archives = join(folder, 'archives');
  const packages = readdirSync(archives).filter((name) => name.endsWith('.deb')).toSorted();
  if (packages.length === 0) throw new Error(`apt fetched none of ${names.join(', ')}`);
  return {
    packages: packages.map((name) => join(archives, name)),
    components: packages.map((name) => component(name)),
  };
}

/** `iptables_1.8.9-2_arm64.deb`; an epoch's colon is written as %3a. */
function component(file: string): Component {
  const [name = '', version = '', arch = ''] = file.replace(/\.deb$/, '').split('_').map(decodeURIComponent);
  const purl = `pkg:deb/debian/${encodeURIComponent(name)}@${encodeURIComponent(version)}?arch=${arch}&distro=${SUITE}`;
  return {
    type: 'library',
    'bom-ref': purl,
    name,
    version,
    purl,
    properties: [{ name: 'flanneld-ts:only-in', value: 'image' }],
  };
}
