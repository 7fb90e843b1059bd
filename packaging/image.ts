import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { type Component } from '../script/sbom.ts';
import { debianFiles } from './debian-files.ts';
import { type Arch, type Release, run, setTime } from './release.ts';
import { LIBRARY, type Tree } from './tree.ts';

/** What the firewall rules need, in either of the kernel's two ways, and Node. Nothing else is in the image, no shell either. */
const PACKAGES = ['libstdc++6', 'iptables', 'nftables'];
/** What of these packages nobody reads in an image. Licences stay. */
const UNREAD = ['usr/share/man', 'usr/share/locale', 'usr/share/info', 'usr/share/lintian', 'usr/share/bug', 'usr/share/bash-completion'];

const imageFolder = ({ work }: Release, arch: Arch) => join(work, arch, 'image');

/** A file by its content, as OCI images refer to it. */
interface Blob {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/**
 * Makes the layer and the configuration of one architecture's image, as blobs in its folder: nothing of it is run, so that any machine
 * makes it for any other. Resolves to what Debian's packages have brought.
 */
export async function makeImageRoot(release: Release, { arch, installed }: Tree): Promise<Component[]> {
  const folder = imageFolder(release, arch);
  const root = join(folder, 'root');
  mkdirSync(root, { recursive: true });
  const { packages, components } = await debianFiles(release, arch, PACKAGES);
  const status = join(root, 'var/lib/dpkg/status.d');
  mkdirSync(status, { recursive: true });
  for (const file of packages) {
    await run(['dpkg-deb', '--extract', file, root]);
    // Where scanners look in images that have no package manager.
    writeFileSync(join(status, await run(['dpkg-deb', '--field', file, 'Package'])), `${await run(['dpkg-deb', '--field', file])}\n`);
  }
  for (const path of UNREAD) rmSync(join(root, path), { recursive: true, force: true });
  // The names that Debian's packages give out when they are installed.
  for (const program of ['iptables', 'ip6tables'])
    for (const end of ['', '-save', '-restore'])
      symlinkSync(`${program}-nft${end}`, join(root, 'usr/sbin', `${program}${end}`));
  cpSync(join(installed, LIBRARY), join(root, LIBRARY), { recursive: true });
  // Without a shell the launcher has nothing to run in: the program names its Node itself.
  const main = join(root, LIBRARY, 'flanneld-ts.cjs');
  writeFileSync(main, readFileSync(main, 'utf8').replace(/^#!.*/, `#!${LIBRARY}/node`));
  for (const name of ['flanneld-ts', 'make-snapshot']) rmSync(join(root, LIBRARY, name));
  mkdirSync(join(root, 'usr/bin'), { recursive: true });
  symlinkSync(join('..', LIBRARY.replace('/usr/', ''), 'flanneld-ts.cjs'), join(root, 'usr/bin/flanneld-ts'));
  for (const name of ['etc', 'proc', 'sys', 'dev', 'run', 'tmp']) mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/:/usr/sbin/nologin\n');
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\n');
  writeFileSync(join(root, 'etc/nsswitch.conf'), 'passwd: files\ngroup: files\nhosts: files dns\n');
  await setTime(root, release);

  const tar = join(folder, 'layer.tar');
  await run(['tar', '-C', root, '--sort=name', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu', '-cf', tar, '.']);
  rmSync(root, { recursive: true });
  const layer = join(folder, 'layer.gz');
  await pipeline(createReadStream(tar), createGzip({ level: release.fast ? 1 : 9 }), createWriteStream(layer));
  const diffId = await sha256(tar);
  rmSync(tar);
  const blobs = join(folder, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const digest = await sha256(layer);
  await run(['mv', layer, join(blobs, digest)]);
  const layerBlob = { mediaType: type('layer.v1.tar+gzip'), digest: `sha256:${digest}`, size: statSync(join(blobs, digest)).size };
  const config = putJson(folder, 'config.v1+json', configOf(release, arch, diffId));
  writeFileSync(join(folder, 'parts.json'), JSON.stringify({ config, layer: layerBlob }));
  return components;
}

/**
 * Writes the image of one architecture, or an index of several, as an archive: by the layout of OCI (skopeo, podman, buildah), and
 * with one architecture by that of `docker save`, too, which every `docker load` reads.
 */
export async function writeImage(release: Release, archs: readonly Arch[]): Promise<string> {
  const { work, out, version } = release;
  const single = archs.length === 1;
  const folder = join(work, archs.join('-'), 'archive');
  mkdirSync(join(folder, 'blobs/sha256'), { recursive: true });
  const manifests = archs.map((arch) => {
    const parts: { config: Blob; layer: Blob } = JSON.parse(readFileSync(join(imageFolder(release, arch), 'parts.json'), 'utf8'));
    const blobs = join(imageFolder(release, arch), 'blobs/sha256');
    for (const name of readdirSync(blobs)) cpSync(join(blobs, name), join(folder, 'blobs/sha256', name));
    const manifest = putJson(folder, 'manifest.v1+json', {
      schemaVersion: 2,
      mediaType: type('manifest.v1+json'),
      config: parts.config,
      layers: [parts.layer],
    });
    return { ...parts, manifest: { ...manifest, platform: { os: 'linux', architecture: arch } } };
  });
  const name = { 'org.opencontainers.image.ref.name': version };
  const index = { schemaVersion: 2, mediaType: type('index.v1+json'), manifests: manifests.map((one) => one.manifest) };
  writeJson(join(folder, 'index.json'), {
    schemaVersion: 2,
    mediaType: type('index.v1+json'),
    manifests: single
      ? index.manifests.map((one) => ({ ...one, annotations: name }))
      : [{ ...putJson(folder, 'index.v1+json', index), annotations: name }],
  });
  writeJson(join(folder, 'oci-layout'), { imageLayoutVersion: '1.0.0' });
  const pathOf = ({ digest }: Blob) => `blobs/${digest.replace(':', '/')}`;
  if (single)
    writeJson(
      join(folder, 'manifest.json'),
      manifests.map(({ config, layer }) => ({ Config: pathOf(config), RepoTags: [`flanneld-ts:${version}`], Layers: [pathOf(layer)] })),
    );
  await setTime(folder, release);
  const file = join(out, `flanneld-ts-${version}-image${single ? `-${archs[0]}` : ''}.tar`);
  await run(['tar', '-C', folder, '--sort=name', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu', '-cf', file, ...readdirSync(folder).toSorted()]);
  rmSync(folder, { recursive: true });
  return file;
}

/** As the Dockerfile's. */
function configOf({ version, description, time }: Release, arch: Arch, diffId: string): unknown {
  const created = new Date(time * 1000).toISOString();
  return {
    created,
    architecture: arch,
    os: 'linux',
    config: {
      Env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'NODE_ENV=production',
        // See script/launcher.
        'MALLOC_ARENA_MAX=1',
        'FLANNELD_HEALTHZ_IP=127.0.0.1',
        'FLANNELD_HEALTHZ_PORT=8471',
      ],
      Entrypoint: ['flanneld-ts'],
      StopSignal: 'SIGTERM',
      // Not in OCI's specification; Docker reads and keeps it.
      Healthcheck: { Test: ['CMD', 'flanneld-ts', 'health'], Interval: 10e9, Timeout: 5e9, StartPeriod: 10e9, Retries: 3 },
      Labels: {
        'org.opencontainers.image.title': 'flanneld-ts',
        'org.opencontainers.image.description': description,
        'org.opencontainers.image.version': version,
        'org.opencontainers.image.licenses': 'Apache-2.0',
      },
    },
    rootfs: { type: 'layers', diff_ids: [`sha256:${diffId}`] },
    history: [{ created, created_by: 'script/package' }],
  };
}

const type = (name: string) => `application/vnd.oci.image.${name}`;

/** Stores a document as a blob. */
function putJson(folder: string, kind: string, value: unknown): Blob {
  const text = JSON.stringify(value);
  const digest = createHash('sha256').update(text).digest('hex');
  writeFileSync(join(folder, 'blobs/sha256', digest), text);
  return { mediaType: type(kind), digest: `sha256:${digest}`, size: Buffer.byteLength(text) };
}

function writeJson(file: string, value: unknown): void {
  writeFileSync(file, JSON.stringify(value));
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
