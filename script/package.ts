/**
 * Makes the packages of a release in `packages/`: for amd64 and arm64 a .deb, an .rpm, a tarball and an image, each with its own Node;
 * a bill of materials for all of them, and checksums.
 *
 * The same commit gives the same bytes, whoever makes them and where: nothing in them has a time but the commit's (SOURCE_DATE_EPOCH),
 * an owner but root, or an order but that of names. `--fast` leaves out the compression, and `--version` calls them otherwise, for tests.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { makeDeb } from '../packaging/deb.ts';
import { makeImageRoot, writeImage } from '../packaging/image.ts';
import { ARCHITECTURES, type Arch, type Release, run } from '../packaging/release.ts';
import { makeRpm } from '../packaging/rpm.ts';
import { makeTree, type Tree } from '../packaging/tree.ts';
import { bill, type Component } from './sbom.ts';

const root = join(import.meta.dirname, '..');
const KINDS = ['deb', 'rpm', 'tarball', 'image'] as const;
const { values } = parseArgs({
  options: {
    only: { type: 'string', default: KINDS.join(',') },
    arch: { type: 'string', default: Object.keys(ARCHITECTURES).join(',') },
    out: { type: 'string', default: join(root, 'packages') },
    fast: { type: 'boolean', default: false },
    version: { type: 'string' },
  },
});
const TAR = `tar -C "$1" --sort=name --owner=0 --group=0 --numeric-owner --format=gnu -c "$2" | gzip -n "-$4" >"$3"`;
const kinds = chosen(values.only, KINDS);
const archs = chosen(values.arch, Object.keys(ARCHITECTURES) as Arch[]);
const out = resolve(values.out);
process.umask(0o022);

const packageJson: { version: string; description: string } = JSON.parse(
  readFileSync(join(root, 'package.json'), 'utf8'),
);
const { description } = packageJson;
const version = values.version ?? packageJson.version;
const work = mkdtempSync(join(tmpdir(), `${process.env['FLANNELD_TS_TEST_RUN'] ?? 'flanneld-ts'}-package-`));
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const)
  process.on(signal, (_name: string, number: number) => {
    rmSync(work, { recursive: true, force: true });
    process.exit(128 + number);
  });
try {
  const release: Release = {
    root,
    work,
    out,
    version,
    description,
    fast: values.fast,
    time: await commitTime(),
  };
  process.env['SOURCE_DATE_EPOCH'] = String(release.time);
  mkdirSync(out, { recursive: true });
  await make(release);
} finally {
  rmSync(work, { recursive: true, force: true });
}

async function make(release: Release): Promise<void> {
  const trees = await makeTree(release, archs);
  const components = trees.flatMap((tree) => tree.components);
  const made = await Promise.all(trees.map((tree) => makeOf(release, tree, components)));
  const files = made.flat();
  if (kinds.includes('image') && archs.length > 1) files.push(await writeImage(release, archs));
  const sbom = join(out, `flanneld-ts-${version}.cdx.json`);
  writeFileSync(sbom, bill(version, unique(components)));
  files.push(sbom);
  const sums = files
    .map((file) => ({
      name: basename(file),
      sum: createHash('sha256').update(readFileSync(file)).digest('hex'),
    }))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
  writeFileSync(join(out, 'SHA256SUMS'), sums.map(({ name, sum }) => `${sum}  ${name}\n`).join(''));
  for (const { name } of sums) {
    const size = readFileSync(join(out, name)).length / 2 ** 20;
    console.log(`${size.toFixed(1).padStart(7)} MiB  ${join(out, name)}`);
  }
}

/** The files of one architecture. What is only in the image goes to `components`. */
async function makeOf(release: Release, tree: Tree, components: Component[]): Promise<string[]> {
  const files: string[] = [];
  if (kinds.includes('deb')) files.push(await makeDeb(release, tree));
  if (kinds.includes('rpm')) files.push(await makeRpm(release, tree));
  if (kinds.includes('tarball')) files.push(await makeTarball(release, tree));
  if (kinds.includes('image')) {
    components.push(...(await makeImageRoot(release, tree)));
    files.push(await writeImage(release, [tree.arch]));
  }
  return files;
}

async function makeTarball({ fast }: Release, { source, arch }: Tree): Promise<string> {
  const file = join(out, `flanneld-ts-${version}-linux-${arch}.tar.gz`);
  await run(['sh', '-ec', TAR, 'sh', join(source, '..'), basename(source), file, fast ? '1' : '9']);
  return file;
}

async function commitTime(): Promise<number> {
  const given = process.env['SOURCE_DATE_EPOCH'];
  if (given !== undefined) return Number(given);
  if (!existsSync(join(root, '.git'))) throw new Error('no git checkout: set SOURCE_DATE_EPOCH');
  return Number(await run(['git', '-c', `safe.directory=${root}`, '-C', root, 'log', '-1', '--format=%ct']));
}

function chosen<T extends string>(text: string, all: readonly T[]): readonly T[] {
  const words = text.split(',');
  const wrong = words.find((word) => !all.some((one) => one === word));
  if (wrong !== undefined) throw new Error(`no '${wrong}'; there are: ${all.join(', ')}`);
  return all.filter((one) => words.includes(one));
}

function unique(components: readonly Component[]): Component[] {
  return [...new Map(components.map((one) => [one['bom-ref'], one])).values()];
}
